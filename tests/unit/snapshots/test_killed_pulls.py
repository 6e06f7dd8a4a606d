"""SIGKILL at any point of a pull, and many processes that pull at once: the next start is clean."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from hybrid_infer.errors import HybridInferError
from hybrid_infer.snapshots.download import pull
from hybrid_infer.snapshots.lock import read_lock, user_lock
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.verification import check_snapshot

KILLS = int(os.environ.get("HYBRID_INFER_TEST_KILLS", "12"))
PULL = """
import signal, sys
from hybrid_infer.datatypes.models import ModelSpec
url, revision, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
def die_at(left):
    def hook(event, args):
        # What a pull does to the disk; each of them may be the last.
        if event in {"open", "os.rename", "os.remove", "os.mkdir", "os.symlink", "os.link",
                     "shutil.move", "os.chmod", "fcntl.flock", "os.truncate"}:
            left[0] -= 1
            if left[0] == 0:
                import os
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
from hybrid_infer.snapshots.download import pull
import huggingface_hub
import hybrid_infer.snapshots.fetching
import huggingface_hub.file_download
huggingface_hub.HfApi
left = [steps]
if steps:
    die_at(left)
pull(ModelSpec("embeddings", "small", "sentence-transformers/all-MiniLM-L6-v2", revision),
     endpoint=url, progress=False)
print(steps - left[0])
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path / "own"))


def start(fake_hub, pinned, steps):
    return subprocess.Popen(
        [sys.executable, "-c", PULL, fake_hub.url, pinned.revision, str(steps)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def leftovers(hub):
    (repo,) = hub.iterdir()
    odd = {entry.name for entry in repo.iterdir()} - {"blobs", "snapshots"}
    linked = {link.resolve() for link in repo.glob("snapshots/**/*") if link.is_symlink()}
    return [*odd, *({*repo.glob("blobs/*")} - linked), *repo.glob("snapshots/.*")]


def test_a_pull_that_is_killed_anywhere_is_followed_by_a_clean_one(
    hub, own, fake_hub, pinned, capsys
):
    whole = start(fake_hub, pinned, 10**9)
    steps = int(whole.communicate()[0])
    assert steps > 30
    chance, killed = random.Random(11), 0
    for _ in range(KILLS):
        for entry in (hub, user_lock().parent):
            shutil.rmtree(entry, ignore_errors=True)
        child = start(fake_hub, pinned, chance.randrange(1, steps))
        child.communicate()
        killed += child.returncode == -signal.SIGKILL
        try:
            check_snapshot(pinned, find_snapshot(pinned), strict=False)
        except HybridInferError as error:
            assert "pull" in error.message  # noqa: PT017 - whole or told, never half
        folder = pull(pinned, endpoint=fake_hub.url, progress=False)
        check_snapshot(pinned, folder, strict=True)
        assert leftovers(hub) == []
        assert len(list(user_lock().parent.iterdir())) == 3  # the lock, its guard, the pulls' locks
        assert set(read_lock(user_lock())) == {(pinned.repo, pinned.revision)}
    assert killed >= KILLS * 0.8
    with capsys.disabled():
        print(f"pulls killed: {killed}, clean starts after them: {KILLS}")


def test_many_processes_pull_one_model_once(hub, own, fake_hub, pinned):
    children = [start(fake_hub, pinned, 0) for _ in range(4)]
    assert [child.wait(100) for child in children] == [0] * 4
    for child in children:
        child.stdout.close()
    fetched = fake_hub.fetched()
    assert len(fetched) == len(set(fetched)) > 0
    check_snapshot(pinned, find_snapshot(pinned), strict=True)
