"""Rows whose fault is the local engine's: a real client on tiny weights, its encoder broken on cue."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InsufficientMemoryError,
    LocalEngineError,
    OverloadedError,
)
from hybrid_infer.local.embedding import encoders
from hybrid_infer.local.embedding.engine import EmbeddingEngine
from hybrid_infer.testing import EchoAnswers, FakeRemote

MODEL = "small"
TEXTS = ["one", "two words", "and three words"]
POISON = "a text of many more words than any other one here has"
LONGEST_HEALTHY = 10
PATIENCE_SECONDS = 20.0


class Breakable:
    """The real encoder, and what happens before each of its batches: which may take for ever."""

    direct = None

    def __init__(self, encoder):
        self._encoder = encoder
        self.trouble = lambda sequences: None

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, sequences, *, normalize):
        self.trouble(sequences)
        return self._encoder.encode(sequences, normalize=normalize)


@pytest.fixture
def loaded(monkeypatch):
    """Every encoder that is loaded meanwhile, in order."""
    made = []
    load = encoders.load_encoder

    def load_breakable(*arguments):
        made.append(Breakable(load(*arguments)))
        return made[-1]

    monkeypatch.setattr(encoders, "load_encoder", load_breakable)
    return made


class Caller:
    """One client of either kind, called the same way."""

    def __init__(self, kind, **options):
        self._kind = kind
        self._loop = asyncio.new_event_loop() if kind == "async" else None
        make = AsyncHybridClient if kind == "async" else HybridClient
        self.client = make(profile="tiny", **options)

    def embed(self, texts=TEXTS, **options):
        made = self.client.embed(texts, model=MODEL, **options)
        return self._loop.run_until_complete(made) if self._loop else made

    def embed_elsewhere(self, texts):
        """The same on another thread, and in a loop of its own."""
        made = self.client.embed(texts, model=MODEL)
        return asyncio.run(made) if self._loop else made

    def close(self):
        if self._loop:
            self._loop.run_until_complete(self.client.close())
            self._loop.close()
        else:
            self.client.close()


@pytest.fixture
def num_waiting():
    """Texts that may wait in an engine; None: the usual number."""


@pytest.fixture(params=["sync", "async"])
def alone(request, loaded, num_waiting, monkeypatch):
    """A client with nothing but its local copy, which is loaded."""
    if num_waiting is not None:
        monkeypatch.setitem(EmbeddingEngine.__init__.__kwdefaults__, "max_texts", num_waiting)
    caller = Caller(request.param, policy="local-only")
    caller.expected = caller.embed().vectors
    yield caller
    caller.close()


@pytest.fixture(params=["sync", "async"])
def with_remote(request, loaded):
    """A client that asks its local copy first, and a remote after it."""
    with FakeRemote(EchoAnswers()) as fake:
        caller = Caller(request.param, policy="local-first", base_url=fake.url, api_key="hf_test")
        caller.embed()
        yield caller
        caller.close()


def breaks(error):
    def trouble(sequences):
        raise error

    return trouble


def served(caller):
    """The caller gets the same vectors as before the fault, within what bfloat16 can hold."""
    np.testing.assert_allclose(caller.embed().vectors, caller.expected, atol=5e-3)


def test_a_batch_without_memory_is_computed_in_smaller_ones(alone, loaded):
    sizes = []

    def trouble(sequences):
        sizes.append(len(sequences))
        if len(sequences) > 1:
            raise torch.OutOfMemoryError("tried to allocate too much")

    loaded[-1].trouble = trouble
    assert alone.embed([f"text number {n}" for n in range(64)]).vectors.shape == (64, 384)
    assert max(sizes) > 1


def test_a_text_that_does_not_fit_alone_is_said_to_need_memory(alone, loaded):
    loaded[-1].trouble = breaks(torch.OutOfMemoryError("tried to allocate too much"))
    with pytest.raises(InsufficientMemoryError):
        alone.embed()
    loaded[-1].trouble = lambda sequences: None
    served(alone)


def test_a_lost_device_ends_the_engine_and_the_next_call_loads_another(alone, loaded, caplog):
    loaded[-1].trouble = breaks(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(EngineClosedError):
        alone.embed()
    served(alone)
    assert len(loaded) == 2


def test_a_dying_thread_fails_who_waits_and_is_replaced(alone, loaded, caplog):
    loaded[-1].trouble = breaks(SystemExit(1))
    with pytest.raises(EngineClosedError):
        alone.embed()
    loaded[-1].trouble = lambda sequences: None
    served(alone)
    assert len(loaded) == 1


def test_one_bad_text_fails_alone(alone, loaded):
    def trouble(sequences):
        if any(len(sequence) > LONGEST_HEALTHY for sequence in sequences):
            raise RuntimeError("boom")

    loaded[-1].trouble = trouble
    with ThreadPoolExecutor(len(TEXTS) + 1) as pool:
        calls = [pool.submit(alone.embed_elsewhere, [text]) for text in [*TEXTS, POISON]]
    errors = [call.exception() for call in calls]
    assert errors[:-1] == [None] * len(TEXTS)
    assert isinstance(errors[-1], LocalEngineError)


def test_a_pass_that_hangs_is_a_typed_error_by_the_deadline(alone, loaded):
    gate = threading.Event()
    loaded[-1].trouble = lambda sequences: gate.wait(PATIENCE_SECONDS)
    try:
        with pytest.raises(DeadlineExceededError):
            alone.embed(deadline=0.2)
    finally:
        gate.set()
    served(alone)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("boom"),
        SystemExit(1),
        torch.OutOfMemoryError("tried to allocate too much"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=["error", "death", "memory", "device"],
)
def test_another_target_serves_what_the_engine_cannot(with_remote, loaded, error, caplog):
    loaded[-1].trouble = breaks(error)
    result = with_remote.embed()
    assert result.route.backend == "remote"
    assert [attempt.target for attempt in result.route.attempts] == ["local", "huggingface"]


def test_no_number_is_no_answer(with_remote, loaded, monkeypatch):
    monkeypatch.setattr(
        Breakable,
        "encode",
        lambda self, sequences, *, normalize: np.full((len(sequences), 384), np.nan, np.float32),
    )
    assert with_remote.embed().route.backend == "remote"
    with pytest.raises(LocalEngineError, match="not a number"):
        with_remote.embed(route="local")


@pytest.mark.parametrize("num_waiting", [len(TEXTS)])
def test_a_full_queue_says_when_there_is_room(alone, loaded):
    """One call is being computed and fills the queue, so that the next is refused at once."""
    entered, gate = threading.Event(), threading.Event()

    def trouble(sequences):
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)

    loaded[-1].trouble = trouble
    with ThreadPoolExecutor(1) as pool:
        admitted = pool.submit(alone.embed_elsewhere, TEXTS)
        try:
            assert entered.wait(PATIENCE_SECONDS)
            with pytest.raises(OverloadedError) as caught:
                alone.embed()
            assert caught.value.retry_after > 0
        finally:
            gate.set()
        assert admitted.result().vectors.shape == (len(TEXTS), 384)


ENDINGS = {
    "never closed": "client.embed('one', model='small')",
    "closed twice": "client.embed('one', model='small'); client.close(); client.close()",
    "closed while busy": (
        "threading.Thread(target=ask, args=(client,)).start(); entered.wait(20); client.close()"
    ),
    "left while busy": "threading.Thread(target=ask, args=(client,), daemon=True).start()",
}
PREAMBLE = """
import threading
from hybrid_infer import HybridClient, HybridInferError
entered = threading.Event()
def ask(client):
    entered.set()
    try:
        client.embed(["some words to embed"] * 20000, model="small")
    except HybridInferError as error:
        print(type(error).__name__)
client = HybridClient(policy="local-only", profile="tiny")
client.warm("embeddings/small")
"""


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_a_process_ends_however_its_client_is_left(ending):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + ending],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
