"""Hedging over real TCP: a remote that is slower than usual gets company, rarely, and is let go."""

import asyncio
import threading

import pytest

from hybrid_infer import AsyncHybridClient, HybridClient, Reason, RoutingSettings, Settings
from hybrid_infer.routing.budget import HedgeBudget
from hybrid_infer.testing import FakeRemote, Reply

SETTINGS = Settings(routing=RoutingSettings(hedge=True))
USUAL_CALLS = 25  # enough to know what is usual


@pytest.fixture
def fake():
    with FakeRemote(answers="tiny") as remote:
        yield remote


class Stall:
    """A remote that holds its answers back from now on."""

    def __init__(self, fake):
        self.released = threading.Event()
        self.b_has_come = threading.Event()
        fake.respond_with(self._answer)

    def _answer(self, request):
        if request.body_json["inputs"] == ["b"]:
            self.b_has_come.set()
        assert self.released.wait(20.0)
        return Reply()


def test_the_warm_copy_answers_for_a_stalled_remote(fake):
    with HybridClient(profile="tiny", base_url=fake.url, settings=SETTINGS) as client:
        client.warm("embeddings/small")
        usual = [client.embed(f"text {n}", "small") for n in range(USUAL_CALLS)]
        assert {e.route.backend for e in usual} == {"remote"}
        client._session.hedges.give_back()  # whatever those calls have used of the budget
        stall = Stall(fake)
        hedged = client.embed("text 0", "small", deadline=60.0)
        stall.released.set()
        assert (hedged.route.backend, hedged.route.reason) == ("local", Reason.TIMEOUT)
        assert hedged.vectors[0] @ usual[0].vectors[0] > 0.999
        assert (
            client.status()["remotes"]["huggingface"]["state"] == "available"
        )  # slow is not broken


def test_without_budget_there_is_no_hedge(fake):
    with HybridClient(profile="tiny", base_url=fake.url, settings=SETTINGS) as client:
        client.warm("embeddings/small")
        for n in range(USUAL_CALLS):
            client.embed(f"text {n}", "small")
        client._session.hedges = HedgeBudget()
        client._session.hedges.give_back()  # one, and no more
        stall = Stall(fake)
        assert client.embed("a", "small").route.backend == "local"
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(client.embed("b", "small")))
        waiting.start()
        assert stall.b_has_come.wait(20.0)  # the hedged call's own request may not have been sent
        stall.released.set()
        waiting.join(20.0)
        assert answers[0].route.backend == "remote"  # the budget of one hedge was spent


def test_awaited_it_is_the_same(fake):
    async def main():
        async with AsyncHybridClient(
            profile="tiny", base_url=fake.url, settings=SETTINGS
        ) as client:
            await client.warm("embeddings/small")
            for n in range(USUAL_CALLS):
                await client.embed(f"text {n}", "small")
            client._session.hedges.give_back()
            stall = Stall(fake)
            hedged = await client.embed("a", "small", deadline=60.0)
            stall.released.set()
            assert (hedged.route.backend, hedged.route.reason) == ("local", Reason.TIMEOUT)

    asyncio.run(main())
