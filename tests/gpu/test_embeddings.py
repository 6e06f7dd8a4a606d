"""Local embeddings on a GPU: the same vectors as on the CPU, and survival when its memory is short."""

import asyncio
import gc

import numpy as np
import pytest

from hybrid_infer import AsyncHybridClient, HybridClient
from hybrid_infer.local.embedding.lanes import CUDA_LANES

pytestmark = pytest.mark.gpu

TEXTS = [f"sentence number {index} " + "and more words " * (index % 60) for index in range(200)]
ROOM = 96 * 2**20  # bytes; all texts together take 300 MB at the least
WORKSPACE = (
    32 * 2**20
)  # that cuBLAS keeps for each lane's stream, if the lane has computed yet or not
BOUNDS = {"float32": 0.9999, "bfloat16": 0.995}  # of seeded weights, whose vectors are less robust


@pytest.fixture
def expected():
    with HybridClient(policy="local-only", profile="tiny", device="cpu", dtype="float32") as client:
        return {
            alias: client.embed(TEXTS, model=alias).vectors
            for alias in ("small", "default", "large")
        }


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_vectors_are_those_of_the_cpu(expected, dtype):
    with HybridClient(policy="local-only", profile="tiny", device="cuda", dtype=dtype) as client:
        for alias, vectors in expected.items():
            got = client.embed(TEXTS, model=alias).vectors
            assert (got * vectors).sum(1).min() >= BOUNDS[dtype]
            alone = np.vstack([client.embed(text, model=alias).vectors for text in TEXTS[:8]])
            assert (got[:8] * alone).sum(1).min() >= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_callers_of_one_text_get_the_vectors_of_the_cpu_from_recordings_too(expected, dtype):
    """Their batches have all sizes; those of a size that has come thrice are recorded and replayed."""

    async def call_all(client):
        calls = (client.embed(text, model="small") for text in TEXTS)
        return np.vstack([result.vectors for result in await asyncio.gather(*calls)])

    async def call_often():
        async with AsyncHybridClient(
            policy="local-only", profile="tiny", device="cuda", dtype=dtype
        ) as client:
            for _ in range(12):
                got = await call_all(client)
                assert (got * expected["small"]).sum(1).min() >= BOUNDS[dtype]

    asyncio.run(call_often())


def test_a_batch_that_does_not_fit_is_computed_in_smaller_ones(expected):
    import torch

    with HybridClient(
        policy="local-only", profile="tiny", device="cuda", dtype="float32"
    ) as client:
        client.embed("load the model", model="small")
        client.embed(TEXTS[:64], model="small")
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        allowed = torch.cuda.memory_allocated() + ROOM + (CUDA_LANES + 1) * WORKSPACE
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        try:
            got = client.embed(TEXTS, model="small").vectors
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert (got * expected["small"]).sum(1).min() >= BOUNDS["float32"]
