"""A real language model, end to end: SmolLM2-135M-Instruct against transformers' generate."""

import pytest
import torch

from hybrid_infer import HybridClient
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.testing import Event, FakeRemote, Reply

pytestmark = [pytest.mark.real_weights, pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Count from one to five.",
]


@pytest.fixture
def client(smollm2):
    with HybridClient(models=smollm2, policy="local-only", dtype="float32") as made:
        yield made


def test_greedy_equals_generate(client, smollm2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = find_snapshot(load_registry(smollm2).resolve("chat", "real"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for prompt in PROMPTS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        start = inputs["input_ids"].shape[1]
        whole = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, start:]
        expected = tokenizer.decode(
            whole, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        answer = client.chat_completion(prompt, model="real", max_tokens=24, temperature=0)
        assert answer.choices[0].message.content == expected


def test_it_knows_a_fact_and_streams_it(client):
    with client.chat_completion(
        PROMPTS[0], model="real", max_tokens=24, temperature=0, stream=True
    ) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "Paris" in text
    assert stream.route.model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_cut_after_every_event_the_real_answer_is_the_same(smollm2, capsys):
    """What a remote with these weights would send, cut everywhere, and continued here."""

    def streamed(prompt, route=None):
        options = {"max_tokens": 16, "temperature": 0, "stream": True, "route": route}
        with client.chat_completion(prompt, model="real", **options) as stream:
            return [c.choices[0].delta.content or "" for c in stream if c.choices]

    exact = cuts = 0
    with (
        FakeRemote() as fake,
        HybridClient(models=smollm2, base_url=fake.url, dtype="float32") as client,
    ):
        for prompt in PROMPTS[:2]:
            pieces = [piece for piece in streamed(prompt, "local") if piece]
            whole = "".join(pieces)
            for cut in range(1, len(pieces)):
                client.reset()
                events = [Event(content=piece) for piece in pieces[:cut]]
                fake.enqueue(Reply(events=events, cut_after_events=cut))
                joined = "".join(streamed(prompt))
                assert joined.startswith("".join(pieces[:cut]))
                cuts += 1
                exact += joined == whole
    with capsys.disabled():
        print(f"\nSmolLM2: {exact} of {cuts} cuts give the uninterrupted text")
    assert exact == cuts
