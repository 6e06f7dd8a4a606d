"""What tests of single parts share."""

import threading

import numpy as np
import pytest

from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.goldens import load_goldens
from hybrid_infer.snapshots.probes import PROBES
from hybrid_infer.testing import EchoAnswers


class GoldenAnswers(EchoAnswers):
    """The true vectors of the probes without any model, or what `change` makes of them."""

    def __init__(self):
        super().__init__()
        self.change = lambda vectors: vectors
        self._goldens = {}

    def embed(self, model, texts, *, normalize, truncate):
        alias = "small" if model.endswith("all-MiniLM-L6-v2") else "default"
        if alias not in self._goldens:
            spec = load_registry().resolve("embeddings", alias)
            self._goldens[alias] = load_goldens(spec).vectors
        return self.change(np.stack([self._vector(text, self._goldens[alias]) for text in texts]))

    @staticmethod
    def _vector(text, goldens):
        for probe, vector in zip(PROBES, goldens, strict=True):
            if text == probe.text:
                return vector
        return goldens[0]  # any other text may have any vector


def of_another_model(vectors):
    """A rotation: shapes and norms are as they were, and every vector is another."""
    return vectors * np.random.default_rng(7).choice([-1, 1], vectors.shape[1])


def of_permuted_numbers(vectors):
    return np.roll(vectors, 1, axis=1)


def of_permuted_texts(vectors):
    return vectors[::-1]


def not_normalised(vectors):
    return vectors * 3


WRONG = {
    "another model": of_another_model,
    "permuted numbers": of_permuted_numbers,
    "permuted texts": of_permuted_texts,
}


@pytest.fixture
def until():
    """Waits for what another thread does, where nothing tells of it; pytest's own limit ends it."""

    def wait(is_so):
        pause = threading.Event()
        while not is_so():
            pause.wait(0.001)

    return wait


@pytest.fixture
def golden_answers():
    return GoldenAnswers()


@pytest.fixture(params=WRONG.values(), ids=WRONG)
def wrong(request):
    """A change after which vectors are of the right shape and length, and wrong."""
    return request.param


@pytest.fixture
def unnormalised():
    return not_normalised
