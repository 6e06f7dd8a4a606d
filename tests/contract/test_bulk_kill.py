"""kill -9 at any moment: the next run goes on, and the file is the one of an uninterrupted run."""

import json
import random
import signal
import subprocess
import sys

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.bulk import BulkOptions, embed_to_file, open_source

KILLS = 20
ROWS = 160
WINDOW = 8

# The process kills itself at the n-th of the steps at which a window's files change: before and
# after each sync, each write of the journal and each rename. Torn writes are cut short on purpose.
PROGRAM = """
import os, sys
from pathlib import Path
from hybrid_infer import HybridClient
from hybrid_infer.bulk import BulkOptions, checkpoint, embed_to_file, open_source, outputs

source, output, left, torn = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

def around(function):
    def call(*args, **options):
        step()
        result = function(*args, **options)
        step()
        return result
    return call

append = checkpoint.Checkpoint._append

def torn_append(self, entry):
    if left == 1 and torn:
        self._journal.write(b'{"read": 8, "rows": ')
        self._journal.flush()
    step()
    append(self, entry)
    step()

checkpoint.Checkpoint._append = torn_append
os.fsync = around(os.fsync)
os.unlink = around(os.unlink)
Path.replace = around(Path.replace)
for kind in (outputs.JsonLines, outputs.Numpy, outputs.Parquet):
    kind.write_part = around(kind.write_part)
    kind.merge = around(kind.merge)
with HybridClient(profile="tiny", policy="local-only") as client:
    options = BulkOptions(model="small", window_texts=8, on_error="skip")
    embed_to_file(client, open_source(source), output, options)
print("done", left)
"""


@pytest.fixture
def source(tmp_path):
    draw = random.Random(5)
    path = tmp_path / "in.jsonl"
    with path.open("w") as stream:
        for i in range(ROWS):
            text = " ".join(draw.choices(["rain", "sun", "wind", "snow"], k=draw.randint(1, 20)))
            stream.write(json.dumps({"id": i, "text": text if i % 37 else None}) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_to_the_same_bytes(source, tmp_path):
    whole = tmp_path / "whole.parquet"
    with HybridClient(profile="tiny", policy="local-only") as client:
        options = BulkOptions(model="small", window_texts=WINDOW, on_error="skip")
        embed_to_file(client, open_source(str(source)), whole, options)
    output = tmp_path / "out.parquet"
    draw = random.Random(7)
    kills = 0
    for _ in range(KILLS):
        moment, torn = draw.randint(1, 40), draw.choice("01")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(source), str(output), str(moment), torn],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()  # begin once more, and be killed elsewhere
            continue
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(output), "0", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert kills >= KILLS // 2
    assert output.read_bytes() == whole.read_bytes()
    errors = output.with_name(output.name + ".errors.jsonl")
    assert errors.read_bytes() == whole.with_name(whole.name + ".errors.jsonl").read_bytes()
    assert not output.with_name(f".{output.name}.parts").exists()
