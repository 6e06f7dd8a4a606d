"""A real language model, end to end: SmolLM2-135M-Instruct against transformers' generate."""

from concurrent.futures import ThreadPoolExecutor

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
QUESTIONS = (
    "What is {}?",
    "Write one line about {}.",
    "Why do people like {}?",
    "List two kinds of {}.",
    "Explain {} to a child, please: what is it made of, where does one find it, and what is it for?",
)
SUBJECTS = (
    "bread",
    "the moon",
    "rain",
    "chess",
    "a violin",
    "snow",
    "tea",
    "a bridge",
    "gold",
    "sleep",
)
FIFTY = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
NEW_TOKENS = 6
BATCH = 10


@pytest.fixture
def client(smollm2):
    with HybridClient(models=smollm2, policy="local-only", dtype="float32") as made:
        yield made


@pytest.fixture
def one_thread():
    """On a busy machine threads that wait for each other after every operator take minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reference(path, prompts):
    """What `generate` answers to each prompt alone: tokens of the prompt, tokens of the answer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        start = inputs["input_ids"].shape[1]
        whole = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, start:]
        answers.append((start, whole.tolist()))
    return tokenizer, answers


def expected_choice(tokenizer, tokens, ends, stop=None):
    """Text, finish reason and tokens of an answer, token by token as an API would end it."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(
            tokens[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if stop is not None and stop in text:
            return text[: text.index(stop)], "stop", count
        if tokens[count - 1] in ends:
            return text, "stop", count
    return text, "length", len(tokens)


@pytest.mark.usefixtures("one_thread")
def test_fifty_answers_are_those_of_generate_batched_or_alone(client, smollm2):
    path = find_snapshot(load_registry(smollm2).resolve("chat", "real"))
    tokenizer, answers = reference(path, FIFTY)
    ends = {tokenizer.eos_token_id}

    def ask(prompt, stop=None):
        options = {"model": "real", "max_tokens": NEW_TOKENS, "temperature": 0, "stop": stop}
        made = client.chat_completion(prompt, **options)
        choice, usage = made.choices[0], made.usage
        return usage.prompt_tokens, (
            choice.message.content,
            choice.finish_reason,
            usage.completion_tokens,
        )

    expected = [(start, expected_choice(tokenizer, tokens, ends)) for start, tokens in answers]
    with ThreadPoolExecutor(BATCH) as pool:
        assert list(pool.map(ask, FIFTY)) == expected
    assert [ask(prompt) for prompt in FIFTY[::BATCH]] == expected[::BATCH]
    # Stop strings that begin inside one token and end inside another.
    stops = [text[5:9] for _, (text, _, _) in expected[::BATCH]]
    stopped = [
        (start, expected_choice(tokenizer, tokens, ends, stop))
        for (start, tokens), stop in zip(answers[::BATCH], stops, strict=True)
    ]
    with ThreadPoolExecutor(BATCH) as pool:
        assert list(pool.map(ask, FIFTY[::BATCH], stops)) == stopped
    assert {reason for _, (_, reason, _) in stopped} == {"stop"}


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
