"""A wait that a server names is kept, whatever else happens: a random walk for each way to name one.

Many calls at once, of two models at one remote, on a virtual clock. The server's headers are real
ones and go through the real parsers; its own clock is days off. It counts every request that
arrives before the wait it last named is over. HYBRID_INFER_PROPERTY_STEPS sets the length.
"""

import json
import os
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import HybridInferError
from hybrid_infer.remote.rate_limits import rate_limit_state
from hybrid_infer.remote.responses import Asked, refusal
from hybrid_infer.routing.flow import run
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.latency import LatencyWindow
from hybrid_infer.routing.pacing import Pacing
from hybrid_infer.routing.policy import RemoteFact, make_plan
from hybrid_infer.routing.state import FlowContext, Preload, Wait
from hybrid_infer.routing.targets import Outcome, Readiness, ReadinessState, Target
from hybrid_infer.settings import RoutingSettings

STEPS = int(os.environ.get("HYBRID_INFER_PROPERTY_STEPS", "500"))
REMOTE = Target("remote", "remote", "host.example")
SPECS = [ModelSpec("embeddings", name, f"org/{name}", None) for name in ("small", "large")]
ASKED = Asked("host.example", "org/small")
LONGEST = 3600.0
LONGEST_LOAD = 120.0
ROUNDING = 1e-6


class Source:
    """One way to name a wait: the headers and the body of a reply that asks for `seconds`."""

    on_success = False
    statuses = (429,)
    waits = (0, 1, 2, 7, 30, 59, 300, 3599, 3600, 5000, 10**12)

    def reply(self, seconds, date):
        headers, body = self.named(seconds, date)
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        return [(b"date", format_datetime(date, usegmt=True).encode()), *encoded], body

    def named(self, seconds, date):
        raise AssertionError((seconds, date))


class RetryAfterSeconds(Source):
    waits = (*Source.waits, 0.5, 12.25)

    def named(self, seconds, date):
        return [("Retry-After", str(seconds))], b""


class RetryAfterDate(Source):
    waits = Source.waits[:-1]

    def named(self, seconds, date):
        until = format_datetime(date + timedelta(seconds=seconds), usegmt=True)
        return [("Retry-After", until)], b""


class RateLimit(Source):
    on_success = True

    def named(self, seconds, date):
        policy = ("RateLimit-Policy", '"api";q=500;w=300')
        return [("RateLimit", f'"api";r=0;t={seconds}'), policy], b""


class XRateLimit(Source):
    on_success = True
    waits = Source.waits[:-1]

    def named(self, seconds, date):
        form = random.Random(seconds + date.second).choice(["plain", "duration", "epoch"])
        reset = {
            "plain": str(seconds),
            "duration": f"{seconds // 60}m{seconds % 60}s",
            "epoch": str(int(date.timestamp()) + seconds),
        }[form]
        limit = [("X-RateLimit-Limit", "500"), ("X-RateLimit-Remaining", "0")]
        return [*limit, ("X-RateLimit-Reset", reset)], b""


class EstimatedTime(Source):
    statuses = (429, 503)
    waits = (*Source.waits, 0.5, 12.25)

    def named(self, seconds, date):
        message = {"error": "Model org/small is currently loading", "estimated_time": seconds}
        return [], json.dumps(message).encode()


class Ask:
    """One call under way: its flow, its model, and whether it has been told to poll."""

    def __init__(self, flow, spec):
        self.flow, self.spec = flow, spec
        self.may_poll_at = None
        self.sent_at = self.wakes_at = 0.0


class Server:
    """Names waits, and counts the requests that do not keep them."""

    def __init__(self, source, randomness):
        self.source, self.randomness = source, randomness
        self.date_at_zero = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(
            seconds=randomness.randint(-90_000, 90_000)
        )
        self.account_until = 0.0
        self.model_until = {}
        self.requests = self.waits_named = self.early = 0

    def receive(self, ask, now):
        self.requests += 1
        until = self.account_until
        # The call that was told that its model loads may poll: at half the estimate.
        until = max(until, ask.may_poll_at or self.model_until.get(ask.spec, 0.0))
        self.early += now < until - ROUNDING

    def answer(self, ask, now):
        """Status, headers and body; what they ask for holds from now on."""
        status = self.randomness.choice([200, 200, *self.source.statuses])
        names_wait = status != 200 or (self.source.on_success and self.randomness.random() < 0.3)
        if status == 200 and ask.may_poll_at is not None:
            self.model_until.pop(ask.spec, None)  # its poll found the model loaded: no more to wait
        if not names_wait:
            return status, [], b""
        seconds = self.randomness.choice(self.source.waits)
        self.waits_named += 1
        if status == 503:
            until = now + min(seconds, LONGEST_LOAD)
            self.model_until[ask.spec] = max(self.model_until.get(ask.spec, 0.0), until)
            ask.may_poll_at = now + min(min(seconds, LONGEST) / 2, 20.0)
        else:
            self.account_until = max(self.account_until, now + min(seconds, LONGEST))
        date = (self.date_at_zero + timedelta(seconds=now)).replace(microsecond=0)
        return status, *self.source.reply(seconds, date)


class Walk:
    """One client, one server, and any number of calls, each somewhere on its way."""

    def __init__(self, source, seed):
        self.now = 1000.0
        self.randomness = random.Random(seed)
        self.server = Server(source, self.randomness)
        self.health = Health(lambda: self.now, random.Random(seed))
        self.pacing = Pacing({})
        self.under_way, self.waiting = [], []
        self.trace = []

    def step(self):
        action = self.randomness.choice([self.call, self.call, self.reply, self.reply, self.pass_])
        action()
        self.trace.append((action.__name__, self.now, self.server.requests))

    def call(self):
        if len(self.under_way) + len(self.waiting) > 20:
            return self.reply() if self.under_way else self.pass_()
        choose = self.randomness.choice
        spec = choose(SPECS)
        local = choose([Readiness(ReadinessState.WARM), Readiness(ReadinessState.COLD, 8.0)])
        plan = make_plan(
            policy=choose(["remote-only", "remote-first"]),
            route=None,
            remotes=[RemoteFact(REMOTE)],
            local=local,
            unsupported=None,
        )
        context = FlowContext(
            spec=spec,
            deadline=Deadline(choose([1.0, 10.0, 60.0, 4000.0]), clock=lambda: self.now),
            settings=RoutingSettings(),
            health=self.health,
            pacing=self.pacing,
            remote_latency=LatencyWindow(),
            clock=lambda: self.now,
            randomness=self.randomness,
            readiness=lambda: local,
            local_seconds=1.0,
        )
        return self.go_on(Ask(run(plan, context), spec), None)

    def go_on(self, ask, outcome):
        try:
            while True:
                step = ask.flow.send(outcome)
                outcome = None
                if isinstance(step, Wait):
                    ask.wakes_at = self.now + step.seconds
                    self.waiting.append(ask)
                    return
                if isinstance(step, Preload):
                    continue
                if step.target == REMOTE:
                    self.server.receive(ask, self.now)
                    ask.sent_at = self.now
                    self.under_way.append(ask)
                    return
                outcome = Outcome(0.0, result=object())
        except (StopIteration, HybridInferError):
            return

    def reply(self):
        if not self.under_way:
            return
        ask = self.under_way.pop(self.randomness.randrange(len(self.under_way)))
        status, headers, body = self.server.answer(ask, self.now)
        if (state := rate_limit_state(headers)) is not None:
            self.pacing.of(REMOTE.name).learn(state, self.now)
        seconds = self.now - ask.sent_at
        if status == 200:
            self.go_on(ask, Outcome(seconds, result=object()))
        else:
            self.go_on(ask, Outcome(seconds, error=refusal(status, headers, body, ASKED)))

    def pass_(self):
        """Time: a little, a lot, or to just before or just after a wait is over."""
        ends = [self.server.account_until, *self.server.model_until.values()]
        ends = [end for end in ends if end > self.now]
        kind = self.randomness.choice(["little", "little", "lot", "before", "after"])
        if kind in ("before", "after") and ends:
            end = self.randomness.choice(ends)
            until = end - 0.001 if kind == "before" else end
        else:
            until = self.now + self.randomness.uniform(0, 60.0 if kind == "lot" else 2.0)
        while self.waiting:
            first = min(self.waiting, key=lambda ask: ask.wakes_at)
            if first.wakes_at > until:
                break
            self.waiting.remove(first)
            self.now = max(self.now, first.wakes_at)
            self.go_on(first, None)
        self.now = max(self.now, until)


def walked(source, steps, seed=7):
    walk = Walk(source(), seed)
    for _ in range(steps):
        walk.step()
    for ask in walk.under_way + walk.waiting:
        ask.flow.close()
    return walk


SOURCES = [RetryAfterSeconds, RetryAfterDate, RateLimit, XRateLimit, EstimatedTime]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_nothing_is_sent_before_a_named_wait_is_over(source):
    server = walked(source, STEPS).server
    print(
        f"{source.__name__}: steps={STEPS} requests={server.requests} "
        f"waits_named={server.waits_named} early={server.early}"
    )
    assert server.early == 0
    assert server.waits_named >= STEPS / 50, "a walk without waits shows nothing"
    assert server.requests >= STEPS / 20


def test_the_same_seed_leaves_the_same_trace():
    one, two = walked(EstimatedTime, 300, seed=3), walked(EstimatedTime, 300, seed=3)
    assert one.trace == two.trace
    assert one.trace != walked(EstimatedTime, 300, seed=4).trace
