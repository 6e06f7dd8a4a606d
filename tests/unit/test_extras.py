"""Without its library an observer or an adapter says what to install."""

import subprocess
import sys
from importlib.metadata import metadata

import pytest

EXTRAS = {
    "adapters.langchain": ("langchain_core", "langchain"),
    "adapters.llama_index": ("llama_index", "llama-index"),
    "adapters.llm": ("llm", "llm"),
    "adapters.ray": ("ray", "ray"),
    "observers.prometheus": ("prometheus_client", "metrics"),
    "observers.otel": ("opentelemetry", "otel"),
}


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_library_is_named_with_its_extra(module):
    library, extra = EXTRAS[module]
    code = f"""
import sys
sys.modules[{library!r}] = None  # as if it were not installed
try:
    import hybrid_infer.{module}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f'pip install "hybrid-infer[{extra}]"' in done.stdout


def test_json_repair_is_needed_only_to_repair():
    code = """
import sys
sys.modules["json_repair"] = None
from hybrid_infer.adapters.llm_interface.json_text import repair_json
try:
    repair_json("{")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "hybrid-infer[llm-interface]"' in done.stdout


@pytest.mark.parametrize("extra", ["langchain", "llama-index", "llm", "metrics", "otel", "ray"])
def test_every_extra_that_is_named_exists(extra):
    assert extra in metadata("hybrid-infer").get_all("Provides-Extra")
