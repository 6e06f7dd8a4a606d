"""Local chat on a GPU: the same answers as on the CPU, alone and together, and survival when its memory is short."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.errors import HybridInferError

pytestmark = pytest.mark.gpu

PROMPTS = [f"question number {number}" + " and more" * (number % 40) for number in range(64)]


def answers(client, alias):
    def ask(prompt):
        made = client.chat_completion(prompt, model=alias, max_tokens=24, temperature=0)
        return made.choices[0].message.content

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(ask, PROMPTS))
    assert [ask(prompt) for prompt in PROMPTS[:4]] == together[:4]
    return together


@pytest.mark.parametrize("alias", ["default", "small"])
def test_the_answers_are_those_of_the_cpu(alias):
    options = {"policy": "local-only", "profile": "tiny", "dtype": "float32"}
    with HybridClient(device="cpu", **options) as client:
        expected = answers(client, alias)
    with HybridClient(device="cuda", **options) as client:
        assert answers(client, alias) == expected


def test_bfloat16_answers_everyone():
    with HybridClient(
        policy="local-only", profile="tiny", device="cuda", dtype="bfloat16"
    ) as client:
        assert all(answers(client, "default"))


def test_short_memory_fails_some_and_serves_the_next():
    import torch

    options = {"policy": "local-only", "profile": "tiny", "device": "cuda", "dtype": "float32"}
    with HybridClient(**options) as client:
        client.chat_completion("load the model", max_tokens=1)
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        allowed = torch.cuda.memory_allocated() + 8 * 2**20
        torch.cuda.set_per_process_memory_fraction(allowed / total)

        def ask(prompt):
            try:
                return client.chat_completion(prompt, max_tokens=2000, deadline=60)
            except HybridInferError as error:
                return error

        try:
            with ThreadPoolExecutor(len(PROMPTS)) as pool:
                list(pool.map(ask, PROMPTS))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert client.chat_completion("hi", max_tokens=3).route.backend == "local"
