"""The decoding loop on a fake decoder: joining, leaving, poison, death, memory, shutdown."""

import asyncio
import queue
import random
import threading

import pytest
import torch
from anyio.lowlevel import checkpoint

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineClosedError,
    InsufficientMemoryError,
    InvalidRequestError,
    LocalEngineError,
    OverloadedError,
)
from hybrid_infer.local.generation.consuming import AsyncLocalStream, LocalStream
from hybrid_infer.local.generation.engine import ChatEngine
from hybrid_infer.local.generation.job import ChatJob, End
from hybrid_infer.local.generation.scheduling import Limits

SPEC = ModelSpec("chat", "small", "org/model", None)
END = 0
SIZE = 128
POISON = ord("!")
PATIENCE_SECONDS = 10.0


class FakePrompter:
    """A token is a character."""

    context_length = 64
    special_tokens = frozenset()
    pieces = "".join(map(chr, range(SIZE)))

    def encode(self, messages):
        text = messages[0]["content"]
        if text == "dies":
            raise SystemExit(1)
        return [ord(character) for character in text]

    def encode_answer(self, prompt, text):
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def spell(self, token):
        return chr(token).encode()


class FakeDecoder:
    """After each token comes the next of the alphabet; z ends. It keeps what it was told, by row."""

    device = torch.device("cpu")

    def __init__(self, *, mixes):
        self.mixes = mixes
        self.reads_whole = False
        self.rows = {}
        self.steps = []
        self.pieces = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.trouble = None
        self.cache = self

    def begin(self, row, places):
        assert row not in self.rows
        self.rows[row] = []

    def end(self, row):
        self.rows.pop(row, None)

    def clear(self):
        self.rows.clear()

    def prefill(self, pieces):
        self._wait()
        for row, start, ids in pieces:
            self.pieces.append((row, len(ids)))
            self.rows[row] = [*self.rows[row][:start], *ids]
        if self.trouble is not None:
            self.trouble([self.rows[row] for row, _, _ in pieces])
        return torch.cat([self._logits(row) for row, _, _ in pieces])

    def decode(self, tokens, lengths, rows):
        self._wait()
        self.steps.append(len(tokens))
        if self.trouble is not None:
            self.trouble([self.rows[row] for row in rows])
        for row, token, length in zip(rows, tokens, lengths, strict=True):
            assert len(self.rows[row]) >= length
            self.rows[row] = [*self.rows[row][:length], token]
        return torch.cat([self._logits(row) for row in rows])

    def _wait(self):
        self.entered.set()
        assert self.gate.wait(PATIENCE_SECONDS)

    def _logits(self, row):
        newest = self.rows[row][-1]
        logits = torch.zeros(1, SIZE)
        logits[0, END if newest == ord("z") else (newest + 1) % SIZE] = 10.0
        if newest == ord("%"):
            logits[0, 5] = torch.nan
        return logits


@pytest.fixture(params=[False, True], ids=["apart", "mixed"])
def decoder(request):
    return FakeDecoder(mixes=request.param)


@pytest.fixture
def make_engine(decoder):
    made = []

    def make(**limits):
        engine = ChatEngine(
            decoder,
            FakePrompter(),
            frozenset([END]),
            Provenance("org/model", None, verified=True),
            limits=Limits(**limits),
        )
        made.append(engine)
        return engine

    yield make
    decoder.gate.set()
    for engine in made:
        engine.close()


class Caller:
    """One request and what came of it."""

    def __init__(self, engine, text, max_tokens=30, deadline=None, **options):
        self.arrived = queue.SimpleQueue()
        request = ChatRequest(
            SPEC, ({"role": "user", "content": text},), max_tokens, temperature=0.0, **options
        )
        self.job = engine.submit(request, deadline or Deadline(60), self.arrived.put)
        self.text, self.finish_reason, self.usage, self.entries = "", None, None, []

    def take(self):
        """The next part; False at the end."""
        item = self.arrived.get(timeout=PATIENCE_SECONDS)
        if isinstance(item, End):
            if item.error is not None:
                raise item.error
            return False
        self.usage = item.usage or self.usage
        for choice in item.choices:
            self.text += choice.delta.content or ""
            self.entries += (choice.logprobs or {}).get("content", [])
            self.finish_reason = choice.finish_reason or self.finish_reason
        return True

    def result(self):
        while self.take():
            pass
        return self.text


def test_an_answer_ends_with_its_end_token_or_its_length(make_engine):
    engine = make_engine()
    whole, cut = Caller(engine, "w"), Caller(engine, "a", max_tokens=3)
    assert (whole.result(), whole.finish_reason) == ("xyz", "stop")
    assert (cut.result(), cut.finish_reason) == ("bcd", "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1, 4)
    assert (cut.usage.prompt_tokens, cut.usage.completion_tokens) == (1, 3)


def test_a_prompt_without_tokens_is_refused_and_disturbs_nobody(make_engine, decoder):
    engine = make_engine()
    decoder.gate.clear()
    before, empty, after = (Caller(engine, text) for text in ("a", "", "x"))
    with pytest.raises(InvalidRequestError, match="the prompt has no tokens") as caught:
        empty.result()
    assert caught.value.argument == "messages"
    decoder.gate.set()
    assert (before.result()[-1], after.result()) == ("z", "yz")
    assert all(count for _, count in decoder.pieces)


def test_a_greedy_answer_is_taken_from_the_batch(make_engine, monkeypatch):
    chosen = []
    monkeypatch.setattr(ChatJob, "choose", lambda job, logits: chosen.append(job) or END)
    engine = make_engine()
    assert Caller(engine, "x").result() == "yz"
    assert not chosen
    assert Caller(engine, "x", passthrough={"frequency_penalty": 0.1}).result() == ""
    assert len(chosen) == 1


def test_a_penalty_reaches_the_choice(make_engine):
    # Each letter's successor has a logit of 10, all else 0; bought off, token 0 is the likeliest.
    options = {"presence_penalty": -2.0, "frequency_penalty": -9.0}
    said = Caller(make_engine(), "a", max_tokens=4, passthrough=options).result()
    assert said == "bbbb"  # once said, b is worth 11


def test_logprobs_go_out_with_their_text_and_stop_with_it(make_engine):
    caller = Caller(make_engine(), "a", stop=("ef",), passthrough={"logprobs": True})
    assert caller.result() == "bcd"
    assert [entry["token"] for entry in caller.entries] == ["b", "c", "d"]
    assert caller.finish_reason == "stop"


def test_an_error_of_a_choice_is_that_of_its_row(make_engine, monkeypatch):
    def choose(job, logits):
        raise LocalEngineError("response_format is too costly")

    monkeypatch.setattr(ChatJob, "choose", choose)
    engine = make_engine()
    good, bad = Caller(engine, "a"), Caller(engine, "b", passthrough={"logprobs": True})
    with pytest.raises(LocalEngineError, match="too costly"):
        bad.result()
    assert good.result()[-1] == "z"


def test_a_short_answer_does_not_wait_for_a_long_one(make_engine, decoder):
    engine, arrived = make_engine(), threading.Event()
    add = engine._loop._schedule.add

    def watched(job, places):
        add(job, places)
        if job.tokens == [ord("x")]:
            arrived.set()

    engine._loop._schedule.add = watched
    decoder.trouble = lambda rows: arrived.wait(PATIENCE_SECONDS)
    long, short = Caller(engine, "a", max_tokens=20), Caller(engine, "x")
    assert short.result() == "yz"
    assert long.result() == "bcdefghijklmnopqrstu"
    assert max(decoder.steps) == 2  # they shared steps


def test_many_come_and_go_and_each_gets_its_own(make_engine, decoder, until):
    engine = make_engine(rows=5)
    decoder.gate.clear()
    letters = random.Random(7).choices("abcdefghijklmnopqrstuvwxyz", k=60)
    callers = [Caller(engine, letter) for letter in letters]
    until(lambda: not engine._loop._unprepared and engine._loop._preparing is None)
    decoder.gate.set()
    for letter, caller in zip(letters, callers, strict=True):
        assert caller.result() == "".join(map(chr, range(ord(letter) + 1, ord("z") + 1)))
    assert max(decoder.steps) == 5
    until(lambda: not engine._loop._live)
    assert not decoder.rows


def fail_on_poison(rows):
    if any(POISON in row for row in rows):
        raise RuntimeError("boom")


def test_an_error_is_that_of_the_row_that_causes_it(make_engine, decoder):
    engine = make_engine()
    decoder.trouble = fail_on_poison
    decoder.gate.clear()
    callers = [Caller(engine, text) for text in ("a", "b", "!c", "d", "e")]
    decoder.gate.set()
    with pytest.raises(LocalEngineError, match="boom"):
        callers.pop(2).result()
    assert [caller.result()[-1] for caller in callers] == ["z"] * 4


def test_errors_are_no_progress(make_engine, decoder):
    engine = make_engine()
    decoder.trouble = fail_on_poison
    for text in ("!", "%", "!", "%"):  # when one ends, the step of the one before it is over
        with pytest.raises(LocalEngineError):
            Caller(engine, text).result()
    assert engine.computed_seconds is None
    assert Caller(engine, "a").result()
    assert Caller(engine, "b").result()
    assert 0 <= engine.computed_seconds < PATIENCE_SECONDS


def test_memory_for_fewer_rows_is_enough(make_engine, decoder):
    def trouble(rows):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("tried to allocate too much")

    engine = make_engine()
    decoder.trouble = trouble
    decoder.gate.clear()
    callers = [Caller(engine, letter) for letter in "klmnopq"]
    decoder.gate.set()
    assert [caller.result()[-1] for caller in callers] == ["z"] * 7


def test_a_row_that_does_not_fit_alone_needs_memory(make_engine, decoder):
    def trouble(rows):
        raise torch.OutOfMemoryError("tried to allocate too much")

    decoder.trouble = trouble
    with pytest.raises(InsufficientMemoryError):
        Caller(make_engine(), "a").result()


def test_no_number_is_an_error_of_its_own_row(make_engine):
    engine = make_engine()
    good, bad = Caller(engine, "x"), Caller(engine, "%")
    with pytest.raises(LocalEngineError, match="not a number"):
        bad.result()
    assert good.result() == "yz"


def test_a_dying_thread_answers_its_callers_and_is_replaced(make_engine, decoder, caplog):
    engine = make_engine()

    def trouble(rows):
        raise SystemExit(1)

    decoder.trouble = trouble
    with pytest.raises(EngineClosedError, match="died"):
        Caller(engine, "a").result()
    decoder.trouble = None
    assert Caller(engine, "x").result() == "yz"
    with pytest.raises(EngineClosedError, match="died"):
        Caller(engine, "dies").result()
    assert Caller(engine, "x").result() == "yz"


def test_a_thread_that_dies_too_often_closes_the_engine(make_engine, decoder, caplog):
    engine = make_engine()

    def trouble(rows):
        raise SystemExit(1)

    decoder.trouble = trouble
    for _ in range(4):
        with pytest.raises(EngineClosedError):
            Caller(engine, "a").result()
    assert engine.is_closed
    with pytest.raises(EngineClosedError):
        Caller(engine, "a")


def test_a_lost_device_closes_the_engine(make_engine, decoder, caplog):
    def trouble(rows):
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine = make_engine()
    decoder.trouble = trouble
    with pytest.raises(EngineClosedError):
        Caller(engine, "a").result()
    assert engine.is_closed


def test_an_error_that_shows_when_logits_are_read_is_the_decoders(make_engine, decoder, caplog):
    class Lost:
        def max(self, dim):
            raise RuntimeError("CUDA error: device-side assert triggered")

    engine = make_engine()
    decoder.decode = lambda tokens, lengths, rows: Lost()
    with pytest.raises(EngineClosedError, match="the device is lost"):
        Caller(engine, "a").result()
    assert engine.is_closed


def test_a_dying_thread_answers_its_callers_though_its_device_does_not(
    make_engine, decoder, caplog
):
    def refuse(row):
        raise RuntimeError("CUDA error: device-side assert triggered")

    def trouble(rows):
        if len(rows) == 2:
            raise SystemExit(1)

    engine, scheduled = make_engine(), threading.Semaphore(0)
    add = engine._loop._schedule.add
    engine._loop._schedule.add = lambda *job: (add(*job), scheduled.release())
    decoder.gate.clear()
    callers = [Caller(engine, "a"), Caller(engine, "b")]
    assert decoder.entered.wait(PATIENCE_SECONDS)
    for _ in callers:  # else the first might end before the second comes
        assert scheduled.acquire(timeout=PATIENCE_SECONDS)
    decoder.end, decoder.trouble = refuse, trouble
    decoder.gate.set()
    for caller in callers:
        with pytest.raises(EngineClosedError, match="died"):
            caller.result()


def test_a_default_of_new_tokens_makes_do_with_the_memory_there_is(make_engine, monkeypatch):
    monkeypatch.setattr(FakePrompter, "context_length", 5000)
    monkeypatch.setattr("hybrid_infer.local.generation.job.LEAST_NEW_TOKENS", 10)
    engine, most = make_engine(cache_tokens=500), SIZE * 3
    prompt = "a" * (most - 10)
    caller = Caller(engine, prompt, max_tokens=2000, max_tokens_is_default=True)
    assert caller.result() == "bcdefghijk"
    assert caller.finish_reason == "length"
    with pytest.raises(InsufficientMemoryError, match="ask for fewer max_tokens"):
        Caller(engine, prompt, max_tokens=2000).result()
    with pytest.raises(InsufficientMemoryError, match="385 tokens"):
        Caller(engine, prompt + "a", max_tokens=2000, max_tokens_is_default=True).result()


def test_a_prompt_that_is_too_long_keeps_nobody_up(make_engine):
    engine = make_engine()
    with pytest.raises(ContextLengthError, match="70 tokens"):
        Caller(engine, "a" * 70).result()
    assert Caller(engine, "x").result() == "yz"


def test_a_long_prompt_is_read_in_pieces_beside_others(make_engine, decoder):
    engine = make_engine(prefill_tokens=4)
    decoder.gate.clear()
    first = Caller(engine, "a", max_tokens=20)
    assert decoder.entered.wait(PATIENCE_SECONDS)
    second = Caller(engine, "hello world w", max_tokens=9)
    decoder.gate.set()
    assert second.result() == "xyz"
    assert first.result() == "bcdefghijklmnopqrstu"


def test_a_prompt_that_must_be_one_piece_is(make_engine, decoder):
    decoder.reads_whole = True
    engine = make_engine(prefill_tokens=4)
    decoder.gate.clear()
    first = Caller(engine, "a", max_tokens=20)
    assert decoder.entered.wait(PATIENCE_SECONDS)
    others = [Caller(engine, text, max_tokens=9) for text in ("hello world w", "x", "another w")]
    decoder.gate.set()
    assert [caller.result() for caller in others] == ["xyz", "yz", "xyz"]
    assert first.result() == "bcdefghijklmnopqrstu"
    assert sorted(count for _, count in decoder.pieces if count > 1) == [9, 13]


def test_who_leaves_is_not_computed_any_more(make_engine, decoder):
    engine = make_engine()
    decoder.gate.clear()
    gone, here = Caller(engine, "a", max_tokens=20), Caller(engine, "a", max_tokens=10)
    assert decoder.entered.wait(PATIENCE_SECONDS)
    gone.job.abandon()
    decoder.gate.set()
    assert here.result() == "bcdefghijk"
    assert decoder.steps.count(2) <= 1


def test_time_that_runs_out_is_an_error_wherever_it_does(make_engine, decoder, clock):
    engine = make_engine(rows=1)
    decoder.gate.clear()
    running = Caller(engine, "a", deadline=Deadline(5, clock=clock))
    assert decoder.entered.wait(PATIENCE_SECONDS)
    waiting = Caller(engine, "b", deadline=Deadline(5, clock=clock))
    clock.advance(6)
    decoder.gate.set()
    for caller in (running, waiting):
        with pytest.raises(DeadlineExceededError):
            caller.result()
    assert Caller(engine, "x").result() == "yz"


@pytest.mark.parametrize("place", ["unprepared", "being prepared", "prepared"])
def test_a_full_queue_refuses_at_the_door(make_engine, decoder, monkeypatch, until, place):
    encode, is_slow, gate = FakePrompter.encode, threading.Event(), threading.Event()

    def slow(self, messages):
        if is_slow.is_set():
            assert gate.wait(PATIENCE_SECONDS)
        return encode(self, messages)

    monkeypatch.setattr(FakePrompter, "encode", slow)
    engine = make_engine(rows=1, waiting=2)
    decoder.gate.clear()
    callers = [Caller(engine, "x")]
    assert decoder.entered.wait(PATIENCE_SECONDS)
    if place != "prepared":
        is_slow.set()
    callers += [Caller(engine, "x"), Caller(engine, "x")]
    if place == "prepared":
        until(lambda: len(engine._loop._schedule) == 2)
    elif place == "being prepared":
        until(lambda: engine._loop._preparing is not None)
    with pytest.raises(OverloadedError) as caught:
        Caller(engine, "x")
    assert caught.value.retry_after > 0
    gate.set()
    decoder.gate.set()
    assert [caller.result() for caller in callers] == ["yz"] * 3


def test_those_who_have_left_the_queue_keep_nobody_out(make_engine, decoder, monkeypatch):
    engine = make_engine(rows=1, waiting=3)
    last_is_prepared, encode = threading.Event(), FakePrompter.encode

    def watched(self, messages):
        if messages[0]["content"] == "w":
            last_is_prepared.set()
        return encode(self, messages)

    monkeypatch.setattr(FakePrompter, "encode", watched)
    decoder.gate.clear()
    running = Caller(engine, "a")
    assert decoder.entered.wait(PATIENCE_SECONDS)
    # The first that waits keeps the others from being looked at.
    head, *gone = (Caller(engine, text, max_tokens=1) for text in "abw")
    assert last_is_prepared.wait(PATIENCE_SECONDS)
    for caller in gone:
        caller.job.abandon()
    late = []

    def come_late(rows):  # on the decoding thread
        if len(decoder.steps) == 3:
            late.extend(Caller(engine, "x") for _ in range(2))

    decoder.trouble = come_late
    decoder.gate.set()
    assert len(running.result()) == 25
    assert head.result() == "b"
    assert [caller.result() for caller in late] == ["yz", "yz"]


def test_a_stream_that_another_task_closes_ends(make_engine, decoder):
    engine = make_engine()
    decoder.gate.clear()
    request = ChatRequest(SPEC, ({"role": "user", "content": "a"},), 30, temperature=0.0)

    async def scenario():
        stream = AsyncLocalStream(engine, request, Deadline(60), wants_usage=False)
        reading = asyncio.create_task(anext(stream, None))
        await checkpoint()
        await stream.aclose()
        return await asyncio.wait_for(reading, PATIENCE_SECONDS)

    assert asyncio.run(scenario()) is None


def test_closing_answers_everyone(make_engine, decoder):
    engine = make_engine(rows=1)
    decoder.gate.clear()
    callers = [Caller(engine, "a"), Caller(engine, "b")]
    assert decoder.entered.wait(PATIENCE_SECONDS)
    closing = threading.Thread(target=engine.close)
    closing.start()
    for caller in callers:
        with pytest.raises(EngineClosedError):
            caller.result()
    decoder.gate.set()
    closing.join(PATIENCE_SECONDS)
    assert engine.is_closed


def test_a_fork_s_copy_refuses_and_closes_at_once(make_engine):
    engine = make_engine()
    engine._loop._crew._process -= 1  # what a child of this process would see
    with engine._loop._lock:  # held by a thread that the child does not have
        with pytest.raises(EngineClosedError, match="fork"):
            Caller(engine, "a")
        engine.close()
    engine._loop._crew._process += 1


def test_a_fork_s_copy_of_a_stream_ends_at_once(make_engine, decoder):
    engine = make_engine()
    decoder.gate.clear()  # no part comes before the deadline, which is far away
    request = ChatRequest(SPEC, ({"role": "user", "content": "a"},), 30, temperature=0.0)
    stream = LocalStream(engine, request, Deadline(600), wants_usage=False)
    stream._process = -1  # what a child of this process would see

    async def read():
        awaited = AsyncLocalStream(engine, request, Deadline(600), wants_usage=False)
        awaited._process = -1
        with pytest.raises(EngineClosedError, match="fork"):
            await anext(awaited)
        assert await anext(awaited, None) is None

    with pytest.raises(EngineClosedError, match="fork"):
        next(stream)
    assert next(stream, None) is None
    asyncio.run(read())


def test_a_system_without_threads_is_an_overload(make_engine, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    engine = make_engine()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OverloadedError):
            Caller(engine, "a")
    assert Caller(engine, "x").result() == "yz"


def test_a_step_that_does_not_end_sends_new_calls_elsewhere(decoder, clock):
    engine = ChatEngine(
        decoder,
        FakePrompter(),
        frozenset([END]),
        Provenance("org/model", None, verified=True),
        clock=clock,
    )
    decoder.gate.clear()
    stuck = Caller(engine, "x")
    assert decoder.entered.wait(PATIENCE_SECONDS)
    clock.advance(31)
    with pytest.raises(OverloadedError, match="stuck"):
        Caller(engine, "x")
    decoder.gate.set()
    assert stuck.result() == "yz"
    engine.close()


def test_a_thousand_streams_closed_at_any_point_leave_nothing(make_engine, decoder):
    engine = make_engine(rows=8, waiting=2000)
    chance = random.Random(11)
    for _ in range(50):
        callers = [Caller(engine, chance.choice("abcdefgh")) for _ in range(20)]
        for caller in callers:
            for _ in range(chance.randrange(6)):
                if not caller.take():
                    break
            caller.job.abandon()
    assert Caller(engine, "x").result() == "yz"
    engine.close()
    assert not engine._loop._live
    assert not decoder.rows
