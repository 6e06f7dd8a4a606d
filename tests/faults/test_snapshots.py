"""Rows whose fault is a local copy's files: a real client, real files, damaged on cue."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.errors import (
    HybridInferError,
    InsufficientMemoryError,
    ModelIntegrityError,
    ModelNotDownloadedError,
)
from hybrid_infer.local import loading
from hybrid_infer.registry import load_registry
from hybrid_infer.settings import MemorySettings, Settings
from hybrid_infer.snapshots import hub
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage

COMMIT = "e" * 40
MODELS = {
    task: {"mine": {"repo": f"org/{task}", "revision": COMMIT}} for task in ("embeddings", "chat")
}
SURFACES = ("sync", "async", "stream")
PROCESSES = int(os.environ.get("HYBRID_INFER_TEST_PROCESSES", "3"))
THREADS = 64


def make(kind, **options):
    options = {"models": MODELS, "policy": "local-only", "dtype": "float32"} | options
    return (AsyncHybridClient if kind == "async" else HybridClient)(**options)


def call(surface, **options):
    """One call on a surface, its client made and closed."""

    async def awaited():
        async with make("async", **options) as client:
            return await client.embed("a text", model="mine")

    if surface == "async":
        return asyncio.run(awaited())
    with make("sync", **options) as client:
        if surface == "sync":
            return client.embed("a text", model="mine")
        return list(client.chat_completion("Hello", model="mine", max_tokens=2, stream=True))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def folders(cache, tmp_path):
    """Both models, staged from copies of their own that a test may damage."""
    registry, tiny = load_registry(MODELS), load_registry(profile="tiny")
    staged = {}
    for task in MODELS:
        source = tmp_path / "sources" / task
        shutil.copytree(find_snapshot(tiny.resolve(task, "small")), source)
        staged[task] = stage(source, registry.resolve(task, "mine"))
    return staged


def folder_of(folders, surface):
    return folders["chat" if surface == "stream" else "embeddings"]


@pytest.mark.parametrize("surface", SURFACES)
def test_a_copy_that_is_not_downloaded_is_said_with_the_command(cache, surface, monkeypatch):
    monkeypatch.setattr(hub, "hub_url", lambda *_: pytest.fail("it asked the Hub"))
    with pytest.raises(ModelNotDownloadedError, match=r"hybrid-infer pull (embeddings|chat)/mine"):
        call(surface)
    assert not cache.exists()


DAMAGE = {
    "truncated": lambda whole: whole[:-9],
    "empty": lambda _: b"",
    "a web page": lambda _: b"<!doctype html><title>502</title>",
    "a pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("surface", SURFACES)
def test_damaged_weights_are_named(folders, surface, damage):
    file = folder_of(folders, surface) / "model.safetensors"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors"):
        call(surface)


@pytest.mark.parametrize("surface", SURFACES)
def test_a_flipped_bit_is_noticed_when_the_model_is_loaded(folders, surface):
    call(surface)
    file = folder_of(folders, surface) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors has the SHA-256"):
        call(surface)


@pytest.mark.parametrize("surface", SURFACES)
def test_strict_loads_what_is_listed_and_nothing_else(folders, surface):
    from hybrid_infer.settings import TrustSettings
    from hybrid_infer.snapshots.lock import user_lock

    strict = Settings(trust=TrustSettings(strict=True))
    call(surface, settings=strict)
    user_lock().unlink()
    with pytest.raises(ModelIntegrityError, match="strict refuses what it does not list"):
        call(surface, settings=strict)


@pytest.mark.parametrize("surface", SURFACES)
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(folders, surface, monkeypatch):
    for name in ("_embedding_engine", "_chat_engine"):
        monkeypatch.setattr(loading, name, lambda *_, **__: pytest.fail("it was loaded"))
    tight = Settings(memory=MemorySettings(budget_bytes=2**20))
    with pytest.raises(InsufficientMemoryError, match="budget_bytes"):
        call(surface, settings=tight)


@pytest.fixture
def loads(monkeypatch):
    """Counts loads, and fails the first one where a test asks for it."""
    counted = []
    load = loading.find_copy

    def counting(spec):
        if threading.current_thread().name == "hybrid-infer-load":
            counted.append(spec.name)
            if counting.fails and len(counted) == 1:
                raise ModelIntegrityError("the first load fails")
        return load(spec)

    counting.fails = False
    counted_by = counting
    monkeypatch.setattr(loading, "find_copy", counting)
    return counted, counted_by


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_many_threads_load_a_model_once(folders, loads, kind):
    counted, _ = loads
    failures = []
    with make("sync") as shared:
        other = make("async")

        def work():
            try:
                if kind == "sync":
                    shared.embed("a text", model="mine")
                else:
                    asyncio.run(other.embed("a text", model="mine"))
            except HybridInferError as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(other.close())
    assert failures == []
    assert counted == ["embeddings/mine"]


def test_a_load_that_failed_is_tried_again(folders, loads):
    counted, counting = loads
    counting.fails = True
    with make("sync") as client:
        with pytest.raises(ModelIntegrityError, match="the first load fails"):
            client.embed("a text", model="mine")
        client.embed("a text", model="mine")
    assert len(counted) == 2


PROGRAM = """
import json, sys, threading
from hybrid_infer import HybridClient
from hybrid_infer.events import ModelLoaded
loads = []
def observe(event):
    if isinstance(event, ModelLoaded):
        loads.append(event.model)
with HybridClient(models=json.loads(sys.argv[1]), policy="local-only", dtype="float32",
                  on_event=observe) as client:
    answers = []
    def work():
        answers.append(client.embed("a text", model="mine").vectors.shape)
    threads = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(len(answers), len(loads))
"""


def test_many_processes_load_a_model_once_each(folders, capsys):
    words = [sys.executable, "-c", PROGRAM, json.dumps(MODELS), str(THREADS)]
    children = [
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    told = [child.communicate(timeout=110)[0].split() for child in children]
    assert told == [[str(THREADS), "1"]] * PROCESSES
    with capsys.disabled():
        print(f"first loads: {PROCESSES} processes of {THREADS} threads, {PROCESSES} loads")
