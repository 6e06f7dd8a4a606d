"""Golden messages: what a user reads when a models.yaml is wrong."""

from __future__ import annotations

import pytest

GOLDEN = {
    "embeddings:\n  small:\n    revison: x\n": (
        "my.yaml:3: unknown key 'revison' in embeddings.small; did you mean 'revision'?"
    ),
    "embedings: {}\n": "my.yaml:1: unknown key 'embedings' at the top level; did you mean 'embeddings'?",
    "zzz: {}\n": "my.yaml:1: unknown key 'zzz' at the top level",
    "chat:\n  small:\n    dim: 3\n": "my.yaml:3: unknown key 'dim' in chat.small",
    "chat:\n  small:\n    generation:\n      temprature: 1\n": (
        "my.yaml:4: unknown key 'temprature' in chat.small.generation; did you mean 'temperature'?"
    ),
    "chat:\n  Small:\n    repo: a/b\n": (
        "my.yaml:2: 'Small' in chat: an alias is 1 to 64 lower-case letters, digits, '.', '_' or '-'"
    ),
    "chat:\n  small:\n": "my.yaml:2: chat.small must be a mapping",
    "chat: [small]\n": "my.yaml:1: chat must be a mapping",
    "chat:\n  new:\n    gated: true\n": "my.yaml:2: chat.new needs 'repo'",
    "chat:\n  small:\n    repo: 3\n": "my.yaml:3: chat.small.repo must be text; put it in quotes",
    "chat:\n  small:\n    repo:\n": "my.yaml:3: chat.small.repo must be text; put it in quotes",
    "chat:\n  small:\n    repo: gpt2\n": (
        "my.yaml:3: chat.small.repo is not a Hub id: a Hub id is written org/name"
    ),
    "chat:\n  small:\n    repo: chat/x\n": (
        "my.yaml:3: chat.small.repo is not a Hub id: 'chat/' is reserved for aliases"
    ),
    "chat:\n  small:\n    repo: tiny/x\n": (
        "my.yaml:3: chat.small.repo must not start with 'tiny/', which marks the tiny profile's models"
    ),
    "chat:\n  small:\n    revision: main\n": (
        "my.yaml:3: chat.small.revision must be a commit of 40 hex digits, "
        "or null for whatever was pulled"
    ),
    "chat:\n  small:\n    context_length: true\n": (
        "my.yaml:3: chat.small.context_length must be a whole number"
    ),
    "chat:\n  small:\n    context_length: 0\n": (
        "my.yaml:3: chat.small.context_length must be at least 1"
    ),
    "chat:\n  small:\n    context_length: 99999999\n": (
        "my.yaml:3: chat.small.context_length must be at most 16,777,216"
    ),
    "chat:\n  small:\n    context_length: 4096.0\n": (
        "my.yaml:3: chat.small.context_length must be a whole number"
    ),
    "chat:\n  small:\n    generation: {max_tokens: null}\n": (
        "my.yaml:3: chat.small.generation.max_tokens must be a whole number"
    ),
    "chat:\n  small:\n    generation: {temperature: -1}\n": (
        "my.yaml:3: chat.small.generation.temperature must be at least 0"
    ),
    "chat:\n  small:\n    generation: {temperature: .nan}\n": (
        "my.yaml:3: chat.small.generation.temperature must be a finite number"
    ),
    "chat:\n  small:\n    generation: {temperature: .inf}\n": (
        "my.yaml:3: chat.small.generation.temperature must be a finite number"
    ),
    "chat:\n  small:\n    generation: {temperature: warm}\n": (
        "my.yaml:3: chat.small.generation.temperature must be a number"
    ),
    "chat:\n  small:\n    generation: {top_p: 0}\n": (
        "my.yaml:3: chat.small.generation.top_p must be above 0"
    ),
    "chat:\n  small:\n    gated: 1\n": "my.yaml:3: chat.small.gated must be true or false",
    "embeddings:\n  small:\n    forbidden_dtypes: float16\n": (
        "my.yaml:3: embeddings.small.forbidden_dtypes must be a list"
    ),
    "embeddings:\n  small:\n    forbidden_dtypes:\n    - float16\n    - fp32\n": (
        "my.yaml:5: embeddings.small.forbidden_dtypes[1] must be one of float16, bfloat16, float32"
    ),
    "embeddings:\n  small:\n    forbidden_dtypes: [float16, bfloat16, float32]\n": (
        "my.yaml:3: embeddings.small.forbidden_dtypes must have at most 2 entries"
    ),
    "embeddings:\n  small:\n    pooling: meen\n": (
        "my.yaml:3: embeddings.small.pooling must be one of mean, cls, max, mean_sqrt_len_tokens, "
        "weightedmean, lasttoken; did you mean 'mean'?"
    ),
    "remotes: {}\n": "my.yaml:1: remotes must be a list",
    "remotes:\n- dialect: tei\n": "my.yaml:2: remotes[0] needs 'name'",
    "remotes:\n- name: a\n  base_url: http://h\n": "my.yaml:2: remotes[0] needs 'dialect'",
    "remotes:\n- name: a\n  dialect: tei\n": "my.yaml:2: remotes[0] needs 'base_url'",
    "remotes:\n- name: cache\n": "my.yaml:2: remotes[0].name must not be one of local, remote, cache",
    "remotes:\n- name: local\n": "my.yaml:2: remotes[0].name must not be one of local, remote, cache",
    "remotes:\n- name: huggingface\n- name: huggingface\n": (
        "my.yaml:3: remotes[1].name: two remotes are named 'huggingface'"
    ),
    "remotes:\n- name: a\n  dialect: opnai\n": (
        "my.yaml:3: remotes[0].dialect must be one of hf-router, openai, tei; did you mean 'openai'?"
    ),
    "remotes:\n- name: a\n  base_url: https://me:hunter2@host\n": (
        "my.yaml:3: remotes[0].base_url must not hold a user name or password; "
        "name the key's variable in key_env"
    ),
    "remotes:\n- name: a\n  key_env: hf_hunter2\n": (
        "my.yaml:3: remotes[0].key_env must be the name of an environment variable, in capitals, "
        "such as MY_API_KEY; never the key itself"
    ),
    "remotes:\n- name: a\n  api_key: hunter2\n": "my.yaml:3: unknown key 'api_key' in remotes[0]",
    "remotes:\n- name: a\n  dialect: tei\n  base_url: http://h\n  models:\n    chat/smal: x\n": (
        "my.yaml:6: remotes[0].models: 'chat/smal' is neither an alias with its task, "
        "such as chat/small, nor a Hub id; did you mean 'chat/small'?"
    ),
    "remotes:\n- name: a\n  models:\n    org/x: a b\n": (
        "my.yaml:4: remotes[0].models.'org/x' must be 1 to 200 printable ASCII characters without spaces"
    ),
    "settings: 3\n": "my.yaml:1: settings must be a mapping",
    "settings:\n  routing: 3\n": "my.yaml:2: settings.routing must be a mapping",
    "settings:\n  routin: {}\n": "my.yaml:2: unknown key 'routin' in settings; did you mean 'routing'?",
    "settings:\n  routing:\n    num_retries: 2\n": (
        "my.yaml:3: unknown key 'num_retries' in settings.routing; "
        "did you mean max_attempts_per_target?"
    ),
    "settings:\n  routing:\n    embed_timeout_seconds: -1\n": (
        "my.yaml:3: settings.routing.embed_timeout_seconds must be a number above 0 "
        "and at most 86,400"
    ),
    "settings:\n  routing:\n    preload: always\n": (
        "my.yaml:3: settings.routing.preload must be one of on_failure, at_start, never"
    ),
}


@pytest.mark.parametrize("content", GOLDEN)
def test_golden_messages(content, refusal):
    message = refusal(content)
    assert message == GOLDEN[content]
    assert "hunter2" not in message


def test_every_problem_is_told_in_the_order_of_the_lines(refusal):
    content = "embeddings:\n  small:\n    dim: x\n    poling: mean\nchat:\n  small:\n    gated: 3\n"
    assert refusal(content).splitlines() == [
        "my.yaml:3: embeddings.small.dim must be a whole number",
        "my.yaml:4: unknown key 'poling' in embeddings.small; did you mean 'pooling'?",
        "my.yaml:7: chat.small.gated must be true or false",
    ]


def test_many_problems_are_counted(refusal):
    content = "chat:\n" + "".join(f"  a{index}: 3\n" for index in range(5000))
    lines = refusal(content).splitlines()
    assert len(lines) == 9
    assert lines[-1] == "and 4992 more"
