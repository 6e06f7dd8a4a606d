"""Every example runs as it is, on the tiny profile, in this process."""

import logging
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = {
    "langchain_chain.py": "context: ",
    "llama_index_search.py": "nearest: ",
    "llm_interface_port.py": "",
    "llm_plugin.py": "2 vectors of 384 numbers",
    "observe_logs.py": "",
    "observe_otel.py": '"name": "chat small"',
    "observe_prometheus.py": 'hybrid_infer_cache_hits_total{model="embeddings/small"',
    "sentence_transformer_search.py": "served by this machine",
}


def test_there_is_a_test_for_every_example():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SHOWN)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in SHOWN if f"({name})" not in listed] == []


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.usefixtures("own_globals")
def test_it_runs(name, capsys, caplog):
    caplog.set_level(logging.INFO, logger="hybrid_infer.calls")
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert SHOWN[name] in printed
    if name == "observe_logs.py":
        lines = [record.getMessage() for record in caplog.records]
        told = "embeddings/small served by local instead of huggingface: connection_failed"
        assert lines.count(told) == 1
    else:
        assert printed.strip()
