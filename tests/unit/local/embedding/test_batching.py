"""The window as a pure machine: properties first, then the promises by example."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.buckets import length_buckets
from hybrid_infer.local.embedding.shares import Share

LENGTHS = st.lists(st.integers(0, 600), max_size=60)


def texts_of(batch):
    """How many texts each owner has in a batch."""
    counts = Counter()
    for share in batch:
        counts[share.owner] += len(share)
    return counts


def drain(window, budget, items):
    while batch := window.take(budget, items):
        yield batch


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), LENGTHS), max_size=12),
    st.integers(1, 1000),
    st.integers(1, 50),
)
def test_every_sequence_is_in_exactly_one_batch_within_the_bounds(bulks, budget, items):
    window, expected, kinds = Window(), Counter(), {}
    for number, (owner, kind, lengths) in enumerate(bulks):
        kinds.setdefault(owner, kind)
        window.add(owner, kinds[owner], number, lengths)
        expected.update((owner, number, place, length) for place, length in enumerate(lengths))
    assert len(window) == expected.total()
    seen = Counter()
    for batch in drain(window, budget, items):
        tokens = [length for share in batch for length in share.lengths]
        assert sum(tokens) <= budget or len(tokens) == 1
        assert len(tokens) <= items
        assert all(share.lengths == sorted(share.lengths, reverse=True) for share in batch)
        assert all(share.tokens == sum(share.lengths) for share in batch)
        assert len({kinds[share.owner] for share in batch}) == 1
        seen.update(
            (share.owner, share.source, *found)
            for share in batch
            for found in zip(share.places, share.lengths, strict=True)
        )
    assert seen == expected
    assert not window


class NobodyStarves(RuleBasedStateMachine):
    """Owners come and go in any order; whoever waits is served within as many batches as owners."""

    budget, items = 64, 8

    def __init__(self):
        super().__init__()
        self.window = Window()
        self.kinds, self.waited, self.left = {}, {}, {}

    @rule(
        owner=st.integers(0, 6),
        kind=st.booleans(),
        lengths=st.lists(st.integers(1, 90), min_size=1, max_size=20),
    )
    def add(self, owner, kind, lengths):
        kind = self.kinds.setdefault(owner, kind)
        self.window.add(owner, kind, None, lengths)
        self.left[owner] = self.left.get(owner, 0) + len(lengths)
        self.waited.setdefault(owner, 0)

    @precondition(lambda self: self.waited)
    @rule(data=st.data())
    def discard(self, data):
        self.forget(data.draw(st.sampled_from(sorted(self.waited))))

    def forget(self, owner):
        self.window.discard(owner)
        del self.waited[owner], self.left[owner], self.kinds[owner]

    @rule()
    def take(self):
        batch = self.window.take(self.budget, self.items)
        served = texts_of(batch)
        assert set(served) <= set(self.waited)
        assert bool(batch) == bool(self.waited)
        for owner in list(self.waited):
            self.waited[owner] = 0 if owner in served else self.waited[owner] + 1
            self.left[owner] -= served[owner]
            if not self.left[owner]:
                self.forget(owner)

    @invariant()
    def nobody_waits_longer_than_a_turn_of_each(self):
        assert all(waited <= 7 for waited in self.waited.values())


TestNobodyStarves = NobodyStarves.TestCase


class OneByOne:
    """The window's rules, sequence by sequence."""

    def __init__(self):
        self.queues = []  # of (owner, kind, sequences), the least recently served in front

    def add(self, owner, kind, source, lengths):
        queue = next((queue for queue in self.queues if queue[0] == owner), None)
        if queue is None:
            queue = (owner, kind, [])
            self.queues.append(queue)
        places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        queue[2].extend((source, place, lengths[place]) for place in places)

    def discard(self, unwanted):
        self.queues = [queue for queue in self.queues if queue[0] not in unwanted]

    def take(self, budget, items):
        same = [queue for queue in self.queues if queue[1] == self.queues[0][1]]
        batch, tokens = [], 0
        for limit in (budget // max(1, len(same)), budget):
            for queue in same:
                owner, _, sequences = queue
                own = 0
                while sequences:
                    length = sequences[0][2]
                    fits = len(batch) < items and tokens + length <= budget
                    if (batch and not fits) or (own and own + length > limit):
                        break
                    batch.append((owner, *sequences.pop(0)))
                    own, tokens = own + length, tokens + length
                if own:
                    self.queues.remove(queue)
                    if sequences:
                        self.queues.append(queue)
        return batch


class SameAsOneByOne(RuleBasedStateMachine):
    """Whatever the window does by bisection and at once, it does as one by one.

    A crowd is many owners in the model.
    """

    OWNERS = st.integers(0, 5)
    CROWDS = st.integers(0, 9).map("crowd {}".format)

    def __init__(self):
        super().__init__()
        self.window, self.model, self.bulks = Window(), OneByOne(), 0
        self.crowds = {}

    @rule(owner=OWNERS, lengths=st.lists(st.integers(1, 90), min_size=1, max_size=12))
    def add(self, owner, lengths):
        self.bulks += 1
        for window in (self.window, self.model):
            window.add(owner, owner % 4 == 0, self.bulks, lengths)

    @rule(crowd=CROWDS, lengths=st.lists(st.integers(1, 90), min_size=1, max_size=12))
    def add_crowd(self, crowd, lengths):
        if self.window.tokens_of(crowd):
            return
        self.bulks += 1
        kind = int(crowd[-1]) % 4 == 0
        self.window.add_crowd(crowd, kind, self.bulks, lengths)
        self.crowds[crowd] = [(crowd, place) for place in range(len(lengths))]
        for member, length in zip(self.crowds[crowd], lengths, strict=True):
            self.model.add(member, kind, self.bulks, [length])

    @rule(crowd=CROWDS)
    def discard_crowd(self, crowd):
        self.window.discard(crowd)
        self.model.discard(set(self.crowds.pop(crowd, ())))

    @rule(owner=OWNERS)
    def discard(self, owner):
        self.window.discard(owner)
        self.model.discard({owner})

    @rule(
        budget=st.integers(1, 400), items=st.integers(1, 20), unwanted=st.sets(OWNERS, max_size=2)
    )
    def take(self, budget, items, unwanted):
        batch = self.window.take(budget, items, lambda owner: owner not in unwanted)
        self.model.discard(unwanted)
        assert all(share.tokens == sum(share.lengths) for share in batch)
        assert [
            ((share.owner, place), share.source, 0, length)
            if share.owner in self.crowds
            else (share.owner, share.source, place, length)
            for share in batch
            for place, length in zip(share.places, share.lengths, strict=True)
        ] == self.model.take(budget, items)

    @invariant()
    def as_much_waits(self):
        left = {owner: [one[2] for one in rest] for owner, _, rest in self.model.queues}
        assert len(self.window) == sum(map(len, left.values()))
        assert bool(self.window) == bool(left)
        assert self.window.tokens == sum(map(sum, left.values()))
        for owner in range(6):
            assert self.window.tokens_of(owner) == sum(left.get(owner, []))
        for crowd, members in self.crowds.items():
            tokens = sum(sum(left.get(member, [])) for member in members)
            assert self.window.tokens_of(crowd) == tokens


TestSameAsOneByOne = SameAsOneByOne.TestCase


def test_a_single_query_is_in_the_next_batch_whatever_bulk_job_it_meets():
    window = Window()
    window.add("bulk", True, None, [40] * 100_000)
    window.take(8192, 4096)
    window.add("query", True, None, [30])
    batch = window.take(8192, 4096)
    assert texts_of(batch) == {"query": 1, "bulk": 204}


def test_bulk_jobs_share_evenly():
    window = Window()
    for owner in "abc":
        window.add(owner, True, None, [10] * 1000)
    shares = texts_of(window.take(600, 4096))
    assert shares == {"a": 20, "b": 20, "c": 20}


def test_what_the_small_leave_the_large_get():
    window = Window()
    window.add("small", True, None, [10])
    window.add("large", True, None, [10] * 1000)
    assert texts_of(window.take(600, 4096)) == {"small": 1, "large": 59}


def test_neighbours_have_similar_lengths():
    window = Window()
    window.add("a", True, None, [index % 97 + 1 for index in range(970)])
    shares = [share.lengths for batch in drain(window, 2000, 4096) for share in batch]
    spreads = [lengths[0] - lengths[-1] for lengths in shares]
    assert max(spreads[:10]) <= 3


def test_bulks_of_one_owner_never_overtake_each_other():
    window = Window()
    window.add("a", True, "earlier", [1])
    window.add("a", True, "later", [500])
    assert [share.source for share in window.take(500, 4096)] == ["earlier"]


def test_an_owner_in_front_is_served_although_it_does_not_fit_behind_others():
    window = Window()
    window.add("first", True, None, [60] * 4)
    window.add("long", True, None, [100])
    assert [share.owner for share in window.take(100, 4096)] == ["first"]
    assert [share.owner for share in window.take(100, 4096)] == ["long"]


def test_what_is_not_wanted_is_dropped():
    window = Window()
    window.add("gone", True, None, [5, 5])
    window.add("here", True, None, [5])
    asked = []
    batch = window.take(100, 10, lambda owner: asked.append(owner) or owner == "here")
    assert [share.owner for share in batch] == ["here"]
    assert asked == ["gone", "here"]
    assert not window


@pytest.mark.parametrize("budget", [1, 4, 5])
def test_a_sequence_above_the_budget_is_a_batch_of_its_own(budget):
    window = Window()
    window.add("a", True, None, [5, 5])
    assert [texts_of(batch)["a"] for batch in drain(window, budget, 10)] == [1, 1]


def test_an_empty_window_gives_an_empty_batch():
    window = Window()
    window.add("a", True, None, [])
    assert not window
    assert window.take(10, 10) == []


@given(st.lists(st.integers(1, 600), max_size=200))
def test_buckets_cover_a_batch_and_pad_little(lengths):
    lengths.sort(reverse=True)
    numbers = []
    for bucket in length_buckets(lengths):
        own = lengths[bucket.first : bucket.first + bucket.count]
        numbers += range(bucket.first, bucket.first + bucket.count)
        assert max(own) <= bucket.length < min(own) + 32
        assert bucket.length in (own[0], 16) or bucket.length % 32 == 0
        assert len(set(own)) > 1 or bucket.length == own[0]
    assert numbers == list(range(len(lengths)))


def test_who_does_not_fit_is_overtaken_by_the_crowd_behind_it_and_is_in_front_next():
    window = Window()
    window.add_crowd("crowd", True, None, [60, 50, 30, 10, 40])
    first, second = drain(window, 100, 4096)
    assert [list(share.places) for share in first] == [[0, 2, 3]]
    assert [list(share.places) for share in second] == [[1, 4]]


def test_a_crowd_does_not_keep_a_bulk_job_from_its_turn():
    window = Window()
    window.add_crowd("crowd", True, None, [10] * 100)
    window.add("bulk", True, None, [10] * 100)
    for number in range(20):  # others come, always as many as a batch holds
        batch = window.take(1000, 4096)
        if "bulk" in texts_of(batch):
            break
        window.add_crowd(number, True, None, [10] * 100)
    assert number == 1


@given(st.lists(st.integers(1, 9), max_size=9), st.data())
def test_a_share_of_those_that_are_chosen(lengths, data):
    chosen = [data.draw(st.booleans()) for _ in lengths]
    share = Share("a", "source", range(len(lengths)), lengths, sum(lengths)).of(chosen)
    assert list(share.places) == [place for place, is_chosen in enumerate(chosen) if is_chosen]
    assert share.lengths == [lengths[place] for place in share.places]
    assert share.tokens == sum(share.lengths)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.data())
def test_a_share_splits_into_what_it_was(lengths, data):
    window = Window()
    window.add("a", True, "source", lengths)
    (share,) = window.take(1000, 1000)
    count = data.draw(st.integers(0, len(lengths)))
    one, other = share.split(count)
    assert len(one) == count
    assert one.places + other.places == share.places
    assert [lengths[place] for place in share.places] == one.lengths + other.lengths
    assert (one.tokens, other.tokens) == (sum(one.lengths), sum(other.lengths))
    assert {(part.owner, part.source) for part in (one, other)} == {("a", "source")}
