"""Every option of local chat against a reference computed here from transformers' own model."""

import asyncio
import itertools
import json

import pytest
import torch

from hybrid_infer import (
    AsyncHybridClient,
    ChatTimings,
    ContextLengthError,
    HybridClient,
    InvalidRequestError,
    Reason,
)
from hybrid_infer.local.generation.loop import DecodeLoop
from hybrid_infer.local.generation.options import HONOURED, seed_of_choice
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.testing import FakeRemote

PROMPT = "tell me a story about water and light"
NUM_TOKENS = 24
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "size": {"type": "integer"}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}


class Reference:
    """Transformers' model of an alias, one forward pass a token."""

    def __init__(self, alias):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = find_snapshot(load_registry(profile="tiny").resolve("chat", alias))
        self.alias = alias
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=True
        )["input_ids"]

    def text(self, tokens):
        return self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def greedy(self, change=lambda logits, prompt, answer: logits, most=NUM_TOKENS):
        """Tokens and the model's own log-probabilities of them and of all others."""
        answer, rows = [], []
        with torch.inference_mode():
            while len(answer) < most:
                logits = self.model(torch.tensor([self.prompt + answer])).logits[0, -1]
                rows.append(logits.log_softmax(-1))
                answer.append(int(change(logits.clone(), self.prompt, answer).argmax()))
                if answer[-1] in self.model.generation_config.eos_token_id:
                    break
        return answer, rows


@pytest.fixture(scope="module", params=["default", "small"])
def reference(request):
    return Reference(request.param)


@pytest.fixture(scope="module")
def client():
    with HybridClient(profile="tiny", policy="local-only", dtype="float32") as made:
        yield made


@pytest.fixture
def ask(client, reference):
    def asked(**options):
        given = {"max_tokens": NUM_TOKENS, "temperature": 0} | options
        return client.chat_completion(PROMPT, model=reference.alias, **given)

    return asked


def text_of(answer):
    return answer.choices[0].message.content


def test_repetition_penalty_is_transformers_processor(ask, reference):
    from transformers import RepetitionPenaltyLogitsProcessor

    def change(logits, prompt, answer):
        said = torch.tensor([prompt + answer])
        return RepetitionPenaltyLogitsProcessor(1.6)(said, logits[None])[0]

    expected = reference.text(reference.greedy(change)[0])
    assert text_of(ask(repetition_penalty=1.6)) == expected != text_of(ask())


@pytest.mark.parametrize(
    ("frequency", "presence"), [(1.5, 0), (0, 1.9), (-1.0, 0.5)], ids=["often", "once", "both"]
)
def test_frequency_and_presence_penalties_are_openai_s_formula(ask, reference, frequency, presence):
    def change(logits, prompt, answer):
        for token in set(answer):
            logits[token] -= answer.count(token) * frequency + presence
        return logits

    expected = reference.text(reference.greedy(change)[0])
    assert text_of(ask(frequency_penalty=frequency, presence_penalty=presence)) == expected


def test_logprobs_are_the_models_own_whatever_the_sampling(ask, reference):
    tokens, rows = reference.greedy()
    answer = ask(logprobs=True, top_logprobs=5, top_k=1, temperature=1.7)
    ended = answer.choices[0].finish_reason == "stop"
    content = answer.choices[0].logprobs["content"]
    spoken = tokens[:-1] if ended else tokens
    assert len(content) == len(spoken)
    for entry, token, row in zip(content, spoken, rows, strict=False):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == pytest.approx(row.topk(5).values.tolist(), abs=1e-3)
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
    spelled = b"".join(bytes(entry["bytes"]) for entry in content).decode()
    assert spelled.lstrip() == text_of(answer).lstrip()
    assert text_of(answer) == reference.text(tokens)
    assert ask(logprobs=True).choices[0].logprobs["content"][0]["top_logprobs"] == []
    assert ask().choices[0].logprobs is None


@pytest.mark.parametrize(("limit", "tops"), [({"top_k": 2}, 2), ({"top_k": 5}, 5)])
def test_top_k_keeps_to_the_likeliest(ask, limit, tops):
    answer = ask(temperature=2.0, seed=3, logprobs=True, top_logprobs=tops, **limit)
    for entry in answer.choices[0].logprobs["content"]:
        assert entry["token"] in [top["token"] for top in entry["top_logprobs"]]


def test_min_p_keeps_to_what_is_nearly_as_likely(ask):
    for seed in range(3):
        answer = ask(temperature=1.0, seed=seed, logprobs=True, top_logprobs=1, min_p=0.4)
        for entry in answer.choices[0].logprobs["content"]:
            likeliest = entry["top_logprobs"][0]["logprob"]
            assert entry["logprob"] >= likeliest + torch.tensor(0.4).log().item() - 1e-4


def test_top_p_keeps_to_the_nucleus(ask):
    for seed in range(3):
        answer = ask(temperature=1.0, seed=seed, logprobs=True, top_logprobs=20, top_p=0.5)
        for entry in answer.choices[0].logprobs["content"]:
            before = [
                torch.tensor(top["logprob"]).exp().item()
                for top in entry["top_logprobs"]
                if top["logprob"] > entry["logprob"] + 1e-6
            ]
            assert sum(before) < 0.5 + 1e-4


def test_temperature_seed_and_max_tokens(ask, reference):
    greedy = reference.text(reference.greedy(most=5)[0])
    assert text_of(ask(max_tokens=5)) == greedy
    assert text_of(ask(max_tokens=5, temperature=1e-7, seed=1)) == greedy
    hot = [text_of(ask(temperature=2.0, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_several_answers_are_those_that_their_seeds_give(ask):
    many = ask(n=3, seed=8, temperature=1.5, logprobs=True)
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    alone = [ask(seed=seed_of_choice(8, index), temperature=1.5) for index in range(3)]
    assert [c.message.content for c in many.choices] == [text_of(one) for one in alone]
    assert len({c.message.content for c in many.choices}) == 3
    assert many.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert many.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)
    assert all(len(c.logprobs["content"]) > 0 for c in many.choices)


def test_a_stop_string_takes_its_logprobs_with_it(ask):
    whole = text_of(ask())
    stop = whole[9:16]
    cut = ask(stop=[stop], logprobs=True).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    spelled = b"".join(bytes(e["bytes"]) for e in cut.logprobs["content"]).decode().lstrip()
    assert spelled.startswith(cut.message.content.lstrip())
    assert len(spelled) - len(cut.message.content) < 8  # one token at most lies across the border


def test_a_schema_is_obeyed_and_a_cut_says_so(ask):
    reasons = set()
    for seed, most in itertools.product(range(6), (6, 200)):
        answer = ask(response_format=AS_SCHEMA, temperature=1.0, seed=seed, max_tokens=most)
        choice = answer.choices[0]
        reasons.add(choice.finish_reason)
        if choice.finish_reason == "stop":
            found = json.loads(choice.message.content)
            assert found["city"] in ("Paris", "Rome")
            assert type(found["size"]) is int
    assert reasons == {"stop", "length"}
    greedy = ask(response_format={"type": "json_object"}, max_tokens=3).choices[0]
    assert greedy.message.content.startswith("{")


def test_a_stream_says_the_same_as_the_whole(client, reference, ask, monkeypatch):
    options = {"n": 2, "seed": 4, "temperature": 1.2, "logprobs": True, "top_logprobs": 2}
    whole = ask(**options)
    text, entries, ends, order = ["", ""], [[], []], {}, []
    has_work, begun = DecodeLoop._has_work, []

    def has_work_for_both(loop, late):  # however late a thread prepares the second
        if not begun and len(loop._schedule) == 2:
            begun.append(True)
        return bool(begun) and has_work(loop, late)

    monkeypatch.setattr(DecodeLoop, "_has_work", has_work_for_both)
    with client.chat_completion(
        PROMPT, model=reference.alias, max_tokens=NUM_TOKENS, stream=True, **options
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                text[choice.index] += choice.delta.content or ""
                entries[choice.index] += (choice.logprobs or {}).get("content", [])
                if choice.delta.content:
                    order.append(choice.index)
                    assert choice.logprobs["content"]
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
    assert text == [choice.message.content for choice in whole.choices]
    assert [ends[0], ends[1]] == [choice.finish_reason for choice in whole.choices]
    for mine, choice in zip(entries, whole.choices, strict=True):
        for streamed, told in zip(mine, choice.logprobs["content"], strict=True):
            assert streamed["token"] == told["token"]
            assert streamed["logprob"] == pytest.approx(told["logprob"], abs=1e-3)
    assert order != sorted(order)  # they come side by side
    assert stream.timings.first_token_seconds > 0
    assert stream.timings.seconds_per_token > 0


def test_the_answers_timings(ask):
    timings = ask().timings
    assert timings.first_token_seconds > 0
    assert timings.seconds_per_token > 0
    assert ask(max_tokens=1).timings.seconds_per_token is None


def test_a_remotes_stream_is_timed_and_its_whole_answer_cannot_be():
    with (
        FakeRemote(answers="echo") as fake,
        HybridClient(profile="tiny", base_url=fake.url) as made,
    ):
        assert made.chat_completion("one two three").timings == ChatTimings(None, None)
        with made.chat_completion("one two three", stream=True) as stream:
            assert stream.timings == ChatTimings(None, None)
            list(stream)
    assert stream.route.backend == "remote"
    assert stream.timings.first_token_seconds > 0
    assert stream.timings.seconds_per_token >= 0


def test_every_option_of_the_table_has_its_test():
    shown = {
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed",
        "frequency_penalty", "presence_penalty", "repetition_penalty", "logprobs", "top_logprobs",
        "n", "response_format",
    }  # fmt: skip
    assert shown == set(HONOURED)


@pytest.mark.parametrize("option", ["tools", "logit_bias", "something_new"])
def test_an_option_outside_the_table_takes_local_out_and_is_named(client, option):
    value = [{"type": "function", "function": {"name": "f"}}] if option == "tools" else {"a": 1}
    with pytest.raises(InvalidRequestError, match=option) as caught:
        client.chat_completion("hi", **{option: value})
    assert caught.value.argument == option
    with (
        FakeRemote(answers="echo") as fake,
        HybridClient(profile="tiny", policy="local-first", base_url=fake.url) as hybrid,
    ):
        route = hybrid.chat_completion("hi", max_tokens=3, **{option: value}).route
        assert (route.backend, route.reason) == ("remote", Reason.UNSUPPORTED)
        assert route.detail == option
        assert fake.ledger[0].body_json[option] == value


def test_openai_s_shape_takes_them_and_a_remote_gets_them_as_they_are(client):
    options = {
        "frequency_penalty": 0.5, "presence_penalty": 0.5, "logprobs": True, "top_logprobs": 2,
        "response_format": AS_SCHEMA, "seed": 3, "extra_body": {"min_p": 0.1, "top_k": 4},
    }  # fmt: skip
    messages = [{"role": "user", "content": "hi"}]
    made = client.chat.completions.create(messages=messages, max_completion_tokens=90, **options)
    assert made.choices[0].message.content.startswith("{")
    assert len(made.choices[0].logprobs["content"][0]["top_logprobs"]) == 2
    two = client.chat.completions.create(messages=messages, max_tokens=3, n=2)
    assert len(two.choices) == 2
    with (
        FakeRemote(answers="echo") as fake,
        HybridClient(profile="tiny", base_url=fake.url) as hybrid,
    ):
        hybrid.chat.completions.create(messages=messages, max_tokens=3, **options)
        body = fake.ledger[0].body_json
    given = {**options, **options.pop("extra_body")}
    given.pop("extra_body")
    assert {name: body[name] for name in given} == given


def test_async_has_them_too():
    async def main():
        async with AsyncHybridClient(profile="tiny", policy="local-only") as made:
            return await made.chat_completion(
                "hi", max_tokens=90, n=2, logprobs=True, response_format=AS_SCHEMA
            )

    answer = asyncio.run(main())
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.logprobs["content"] for choice in answer.choices)


def test_what_cannot_fit_names_the_alias_whose_window_would_hold_it(client):
    wider = "chat/default has a window of 8192"
    with pytest.raises(ContextLengthError, match=rf"5004 tokens.*4096; {wider}$"):
        client.chat_completion("the " * 5000, model="small", max_tokens=5)
    with pytest.raises(ContextLengthError, match=rf"max_tokens=5000.*4096 tokens; {wider}$"):
        client.chat_completion("hi", model="small", max_tokens=5000)
    with pytest.raises(ContextLengthError, match=r"8192$"):
        client.chat_completion("the " * 9000, model="default", max_tokens=5)


def test_leaving_a_stream_of_many_frees_the_engine(client):
    with client.chat_completion("hi", n=4, max_tokens=4000, stream=True, temperature=1) as stream:
        for _ in range(9):
            next(stream)
    assert client.chat_completion("hi", max_tokens=3, deadline=20).route.backend == "local"


@pytest.mark.real_weights
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_model_fills_a_form(smollm2):
    with HybridClient(models=smollm2, policy="local-only", dtype="float32") as made:
        answer = made.chat_completion(
            "Which is the capital of France, and how many people live there? Answer in JSON.",
            model="real", temperature=0, max_tokens=100, response_format=AS_SCHEMA,
            logprobs=True, top_logprobs=3,
        )  # fmt: skip
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert json.loads(choice.message.content)["city"] == "Paris"
    spelled = b"".join(bytes(entry["bytes"]) for entry in choice.logprobs["content"])
    assert spelled.decode() == choice.message.content
