"""Without its library an observer says what to install."""

import subprocess
import sys

import pytest

EXTRAS = {
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
