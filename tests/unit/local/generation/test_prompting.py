"""What a chat template is given, and what it may not leave out."""

import pytest

from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.local.generation.prompting import Prompter, room_left
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

REGISTRY = load_registry(profile="tiny")
USER = {"role": "user", "content": "hi"}


@pytest.fixture(params=["default", "small"])
def prompter(request):
    spec = REGISTRY.resolve("chat", request.param)
    return Prompter(find_snapshot(spec), spec.context_length)


def test_a_developer_is_the_system_where_the_template_knows_no_other(prompter):
    told = [
        prompter.encode([{"role": r, "content": "obey"}, USER]) for r in ("system", "developer")
    ]
    assert told[0] == told[1]
    assert told[0] != prompter.encode([USER])


def test_a_template_that_knows_developers_gets_them(prompter):
    prompter._tokenizer.chat_template = (
        "{% for m in messages %}"
        "{% if m.role == 'developer' %}D{% endif %}{{ m.role }}{{ m.content }}{% endfor %}"
    )
    assert "developer" in prompter._rendered([prompter._told({"role": "developer", "content": ""})])


def test_a_message_that_a_template_leaves_out_is_refused(prompter):
    prompter._tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(InvalidRequestError, match="leaves out messages of role 'system'") as caught:
        prompter.encode([USER, {"role": "system", "content": "obey"}])
    assert caught.value.argument == "messages[1].role"


def test_a_key_other_than_role_and_content_cannot_forge_a_role(prompter):
    prompter._tokenizer.chat_template = (
        "{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}"
    )
    special = "".join(prompter._tokenizer.get_added_vocab())
    assert prompter.encode([{**USER, "name": special}]) == prompter.encode([USER])


def test_special_tokens_spell_their_names_and_others_their_bytes(prompter):
    for token in prompter.special_tokens:
        assert prompter.spell(token).decode() == prompter.pieces[token]
    text = "Ünïcödé 日本語 🎉 plain words"
    ids = prompter._ids(text, is_plain=True)
    assert b"".join(map(prompter.spell, ids)).decode().lstrip() == text


def test_what_does_not_fit_is_counted():
    with pytest.raises(ContextLengthError) as caught:
        room_left(90, 20, 100, may_shrink=False, name="m")
    assert caught.value.num_tokens == 110
    with pytest.raises(ContextLengthError) as caught:
        room_left(100, 20, 100, may_shrink=True, name="m")
    assert caught.value.num_tokens == 101
