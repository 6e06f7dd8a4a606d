"""SmolLM2-135M-Instruct in fewer bits: it still answers, says so, and gives its memory back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_infer.local.quantizing import has_torchao

pytestmark = [
    pytest.mark.real_weights,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not has_torchao(), reason="torchao is not installed"),
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux"),
]

# Each in a process of its own: memory of what ran before would hide what one takes. What counts is
# anonymous memory: pages of the weights' file can be dropped at any time.
SCRIPT = """
import json, sys
from pathlib import Path
from hybrid_infer import HybridClient, Settings
from hybrid_infer.settings import MemorySettings

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous"))

def measured(models, budget):
    memory = MemorySettings(budget_bytes=budget)
    settings = Settings(memory=memory)
    with HybridClient(models=models, policy="local-only", settings=settings) as client:
        client.warm("chat/real")
        client.unload("chat/real")  # what importing takes is not the model's
        before = anonymous()
        client.warm("chat/real")
        loaded = anonymous()
        answer = client.chat_completion(
            "What is the capital of France?", model="real", max_tokens=16, temperature=0
        )
        client.unload("chat/real")
        return {
            "text": answer.choices[0].message.content,
            "quantization": answer.route.quantization,
            "taken": loaded - before,
            "kept": anonymous() - before,
        }

print(json.dumps(measured(*json.loads(sys.argv[1]))))
"""


def measured(models, budget):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps([models, budget])],
        check=False,
        capture_output=True,
        text=True,
        timeout=140,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stderr
    return json.loads(done.stdout)


def test_it_answers_in_fewer_bits_and_gives_its_memory_back(smollm2, capsys):
    models = {"chat": {"real": {**smollm2["chat"]["real"], "allow_quantized": True}}}
    budgets = [None, 360_000_000, 260_000_000]
    found = [measured(models, budget) for budget in budgets]
    with capsys.disabled():
        print(
            "\nSmolLM2 takes", {one["quantization"]: one["taken"] // 10**6 for one in found}, "MB"
        )
    assert [one["quantization"] for one in found] == [None, "int8", "int4"]
    assert all("Paris" in one["text"] for one in found)
    for one in found:
        assert one["kept"] < 0.25 * one["taken"] + 10_000_000
