"""Rows whose fault is the local chat engine's: a real client on tiny weights, its decoder broken on cue."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
import torch

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.errors import (
    DeadlineExceededError,
    EngineClosedError,
    HybridInferError,
    InsufficientMemoryError,
    LocalEngineError,
)
from hybrid_infer.local.generation import decoders
from hybrid_infer.testing import EchoAnswers, FakeRemote

PROMPTS = ["one", "two words", "and three words"]
POISON = "many words " * 200
LONGEST_HEALTHY = 200
PATIENCE_SECONDS = 20.0
SURFACES = ("whole", "stream")
OOM = torch.OutOfMemoryError("tried to allocate too much")


class Breakable:
    """The real decoder, and what happens before each of its calls: it gets the sizes of the rows."""

    def __init__(self, decoder):
        self._decoder = decoder
        self.trouble = lambda sizes: None

    def __getattr__(self, name):
        return getattr(self._decoder, name)

    def prefill(self, pieces):
        self.trouble([piece.start + len(piece.ids) for piece in pieces])
        return self._decoder.prefill(pieces)

    def decode(self, tokens, lengths, rows):
        self.trouble(lengths)
        return self._decoder.decode(tokens, lengths, rows)


@pytest.fixture
def loaded(monkeypatch):
    """Every decoder that is loaded meanwhile, in order."""
    made = []
    load = decoders.load_decoder

    def load_breakable(*arguments):
        made.append(Breakable(load(*arguments)))
        return made[-1]

    monkeypatch.setattr(decoders, "load_decoder", load_breakable)
    return made


class Caller:
    """A client that is asked for whole answers, or for streams."""

    def __init__(self, surface, **options):
        self.client = HybridClient(profile="tiny", **options)
        self._is_stream = surface == "stream"

    def ask(self, prompt=PROMPTS[0], **options):
        made = self.client.chat_completion(
            prompt, max_tokens=8, temperature=0, stream=self._is_stream, **options
        )
        if not self._is_stream:
            return made.choices[0].message.content, made.route
        parts = [chunk.choices[0].delta.content or "" for chunk in made if chunk.choices]
        return "".join(parts), made.route


@pytest.fixture(params=SURFACES)
def alone(request, loaded):
    """A client with nothing but its local copy, which is loaded."""
    others = set(threading.enumerate())
    caller = Caller(request.param, policy="local-only")
    with caller.client:
        caller.expected = [caller.ask(prompt)[0] for prompt in PROMPTS]
        caller.threads = [
            thread
            for thread in threading.enumerate()
            if thread not in others and thread.name.startswith("hybrid-infer-chat")
        ]
        assert caller.threads
        yield caller


@pytest.fixture(params=SURFACES)
def with_remote(request, loaded):
    """A client that asks its local copy first, and a remote after it."""
    with FakeRemote(EchoAnswers()) as fake:
        caller = Caller(request.param, policy="local-first", base_url=fake.url, api_key="hf_test")
        with caller.client:
            caller.ask()
            yield caller


def breaks(error):
    def trouble(sizes):
        raise error

    return trouble


def served(caller):
    """The caller gets the same answers as before the fault."""
    assert [caller.ask(prompt)[0] for prompt in PROMPTS] == caller.expected


def together(caller, prompts):
    with ThreadPoolExecutor(len(prompts)) as pool:
        return [pool.submit(caller.ask, prompt) for prompt in prompts]


def test_a_step_without_memory_is_computed_in_smaller_ones(alone, loaded):
    sizes = []

    def trouble(rows):
        sizes.append(len(rows))
        if len(rows) > 1:
            raise OOM

    loaded[-1].trouble = trouble
    calls = together(alone, PROMPTS * 8)
    assert [call.result()[0] for call in calls] == alone.expected * 8
    assert max(sizes) > 1


def test_an_answer_that_does_not_fit_alone_is_said_to_need_memory(alone, loaded):
    loaded[-1].trouble = breaks(OOM)
    with pytest.raises(InsufficientMemoryError):
        alone.ask()
    loaded[-1].trouble = lambda sizes: None
    served(alone)


def test_a_lost_device_ends_the_engine_and_the_next_call_loads_another(alone, loaded, caplog):
    loaded[-1].trouble = breaks(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(EngineClosedError):
        alone.ask()
    served(alone)
    assert len(loaded) == 2


def test_a_dying_thread_fails_who_waits_and_is_replaced(alone, loaded, caplog):
    loaded[-1].trouble = breaks(SystemExit(1))
    with pytest.raises(EngineClosedError):
        alone.ask()
    loaded[-1].trouble = lambda sizes: None
    served(alone)
    assert len(loaded) == 1


def test_one_bad_prompt_fails_alone(alone, loaded):
    def trouble(sizes):
        if max(sizes) > LONGEST_HEALTHY:
            raise RuntimeError("boom")

    loaded[-1].trouble = trouble
    *good, bad = together(alone, [*PROMPTS, POISON])
    assert [call.result()[0] for call in good] == alone.expected
    assert isinstance(bad.exception(), LocalEngineError)


def test_a_step_that_hangs_is_a_typed_error_by_the_deadline(alone, loaded):
    gate = threading.Event()
    loaded[-1].trouble = lambda sizes: gate.wait(PATIENCE_SECONDS)
    try:
        with pytest.raises(DeadlineExceededError):
            alone.ask(deadline=0.2)
    finally:
        gate.set()
    served(alone)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("boom"),
        SystemExit(1),
        OOM,
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=["error", "death", "memory", "device"],
)
def test_another_target_serves_what_the_engine_cannot(with_remote, loaded, error, caplog):
    loaded[-1].trouble = breaks(error)
    _, route = with_remote.ask()
    assert route.backend == "remote"
    assert [attempt.target for attempt in route.attempts] == ["local", "huggingface"]


def test_closing_with_two_hundred_under_way_answers_them_all(alone, loaded):
    """Some decode, some wait for a place, and the step that runs ends on its own."""
    entered, gate = threading.Semaphore(0), threading.Event()

    def trouble(sizes):
        entered.release()
        assert gate.wait(PATIENCE_SECONDS)

    loaded[-1].trouble = trouble

    def ask(number):
        try:
            return alone.ask(PROMPTS[number % len(PROMPTS)])
        except HybridInferError as error:
            return error

    with ThreadPoolExecutor(201) as pool:
        calls = [pool.submit(ask, number) for number in range(200)]
        assert entered.acquire(timeout=PATIENCE_SECONDS)
        closing = pool.submit(alone.client.close)
        wait(calls, PATIENCE_SECONDS, return_when=FIRST_COMPLETED)  # only closing ends any as yet
        gate.set()
        closing.result(PATIENCE_SECONDS)
        ends = [call.result(PATIENCE_SECONDS) for call in calls]
    assert all(isinstance(end, HybridInferError | tuple) for end in ends)
    assert any(isinstance(end, EngineClosedError) for end in ends)
    assert not any(thread.is_alive() for thread in alone.threads)


FORK = """
import os, signal
from hybrid_infer import HybridClient
from hybrid_infer.errors import EngineClosedError

def ask(client):
    made = client.chat_completion("hello", max_tokens=3, temperature=0, deadline=30)
    return made.choices[0].message.content

def open_client():
    return HybridClient(policy="local-only", profile="tiny")

client = open_client()
before = ask(client)
if not (child := os.fork()):
    signal.alarm(60)  # a child that hangs is killed, which its status tells
    try:
        ask(client)
    except EngineClosedError as error:
        assert "fork" in error.message
    else:
        os._exit(1)
    client.close()
    with open_client() as own:
        os._exit(0 if ask(own) == before else 2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert ask(client) == before
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told_so_and_a_client_of_its_own_works():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr


FORK_IN_A_STREAM = """
import asyncio, os, signal, sys
from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.errors import EngineClosedError, StreamInterruptedError

options = {"max_tokens": 400, "stream": True, "deadline": 90, "n": int(sys.argv[1])}
client = HybridClient(policy="local-only", profile="tiny")
awaited = AsyncHybridClient(policy="local-only", profile="tiny")

async def begin():
    stream = await awaited.chat_completion("hello", **options)
    await anext(stream)
    return stream

async def rest(stream):
    return [chunk async for chunk in stream]

def is_refused(read):
    try:
        read()
    except StreamInterruptedError as error:
        return isinstance(error.__cause__, EngineClosedError)
    return False

blocking, other = client.chat_completion("hello", **options), asyncio.run(begin())
next(blocking)
if not (child := os.fork()):
    signal.alarm(30)  # far less than the deadline: a child that waits is killed
    if not is_refused(lambda: list(blocking)):
        os._exit(1)
    if not is_refused(lambda: asyncio.run(rest(other))):
        os._exit(2)
    blocking.close()
    asyncio.run(other.aclose())
    os._exit(3 if list(blocking) else 0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert list(blocking)
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("answers", ["1", "4"])
def test_a_stream_is_refused_at_once_in_a_forked_child_and_goes_on_in_its_parent(answers):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_IN_A_STREAM, answers],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("answers", [1, 4])
def test_a_stream_goes_on_on_another_event_loop_than_it_began_on(answers):
    options = {"max_tokens": 40, "temperature": 0, "stream": True, "n": answers}
    client = AsyncHybridClient(policy="local-only", profile="tiny")

    async def begin():
        stream = await client.chat_completion(PROMPTS[0], **options)
        return stream, await anext(stream)

    async def go_on(stream):
        return await anext(stream)

    async def rest(stream):
        return [chunk async for chunk in stream]

    def said(chunks):
        texts = [""] * answers
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            texts[choice.index] += choice.delta.content or ""
        return texts

    stream, first = asyncio.run(begin())
    chunks = [first, asyncio.run(go_on(stream)), *asyncio.run(rest(stream))]
    with HybridClient(policy="local-only", profile="tiny") as blocking:
        assert said(chunks) == said(blocking.chat_completion(PROMPTS[0], **options))
    asyncio.run(client.close())


ENDINGS = {
    "never closed": "ask(client)",
    "closed twice": "ask(client); client.close(); client.close()",
    "closed while busy": (
        "threading.Thread(target=ask, args=(client,)).start(); entered.wait(20); client.close()"
    ),
    "left while busy": "threading.Thread(target=ask, args=(client,), daemon=True).start()",
    "left in a stream": "next(iter(client.chat_completion('one', max_tokens=900, stream=True)))",
}
PREAMBLE = """
import threading
from hybrid_infer import HybridClient, HybridInferError
entered = threading.Event()
def ask(client):
    entered.set()
    try:
        client.chat_completion("one", max_tokens=900)
    except HybridInferError as error:
        print(type(error).__name__)
client = HybridClient(policy="local-only", profile="tiny")
client.warm("chat/default")
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
