"""References that lead back to themselves: refused at once, and nothing else is."""

import pytest

from hybrid_infer.local.generation.circles import has_circle
from hybrid_infer.local.generation.grammars import MAX_SCHEMA_BYTES, grammar_of

TEXT = {"type": "string"}
ROOT = {"$ref": "#"}
LOOP = {"$ref": "#/$defs/loop"}


def within(schema):
    """A schema that refers to a definition which is a circle."""
    return {**schema, "$defs": {"loop": LOOP}}


CIRCLES = {
    "itself": ROOT,
    "allOf": {"allOf": [ROOT]},
    "anyOf": {"anyOf": [ROOT, {"anyOf": [ROOT]}]},
    "a default beside": {**ROOT, "default": 1},
    "two": {
        "$defs": {"one": {"$ref": "#/$defs/other"}, "other": {"$ref": "#/$defs/one"}},
        "$ref": "#/$defs/one",
    },
    "a property": within({"type": "object", "properties": {"a": LOOP}}),
    "an additional property": within({"type": "object", "additionalProperties": LOOP}),
    "an item": within({"type": "array", "items": LOOP}),
    "a first item": within({"type": "array", "prefixItems": [TEXT, LOOP]}),
    "an item of an alternative": within({"anyOf": [TEXT, {"type": "array", "items": LOOP}]}),
    "escaped": {
        "type": "object",
        "properties": {"a/b c": {"$ref": "#/properties/a~1b%20c"}},
    },
    "in a list": {"anyOf": [TEXT, {"$ref": "#/anyOf/1"}, {"type": "array", "items": LOOP}]},
}
CIRCLES["in a list"]["$defs"] = {"loop": {"$ref": "#/anyOf/1"}}

# Circles that only the compiler can follow: their first token is asked for.
FOLLOWED = {
    "an anchor": {"$defs": {"a": {"$anchor": "here", "$ref": "#here"}}, "$ref": "#here"},
    "an address": {"$id": "http://example.org/a", "$ref": "http://example.org/a"},
    "an empty reference": {"$ref": ""},
}

FRUITFUL = {
    "a tree": {"type": "array", "items": ROOT},
    "a list": {"type": "object", "properties": {"next": ROOT}},
    "another way": {"anyOf": [ROOT, TEXT]},
    "a circle that nothing refers to": within(TEXT),
    "properties named as keywords": {
        "type": "object",
        "properties": {"$ref": {"const": "#"}, "allOf": {"enum": [ROOT]}},
    },
    "twice the same": {
        "$defs": {"text": TEXT},
        "anyOf": [{"$ref": "#/$defs/text"}, {"allOf": [{"$ref": "#/$defs/text"}]}],
    },
    "anything": {"type": "array", "items": {"anyOf": [True, ROOT]}},
    "an optional property that is nothing": {
        "type": "object",
        "properties": {"a": {"anyOf": []}},
    },
    "another document inside": {
        "$defs": {
            "loop": {
                "$id": "http://example.org/inner",
                "anyOf": [LOOP],
                "$defs": {"loop": TEXT},
            }
        },
        "$ref": "#/$defs/loop",
    },
}


def grammar(schema):
    return grammar_of({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


@pytest.mark.parametrize("schema", CIRCLES.values(), ids=list(CIRCLES))
def test_a_circle_is_found_wherever_an_answer_comes_to_it(schema):
    assert has_circle(schema)
    with pytest.raises(ValueError, match="back to itself"):
        grammar(schema)


@pytest.mark.parametrize("schema", FOLLOWED.values(), ids=list(FOLLOWED))
def test_a_schema_with_which_no_text_can_begin_is_refused(schema):
    assert not has_circle(schema)
    with pytest.raises(ValueError, match="back to itself"):
        grammar(schema)


@pytest.mark.parametrize("schema", FRUITFUL.values(), ids=list(FRUITFUL))
def test_what_can_be_matched_is_none(schema):
    assert not has_circle(schema)
    assert grammar(schema)


@pytest.mark.timeout(20)
def test_a_long_chain_is_followed_at_once():
    count = MAX_SCHEMA_BYTES // 40
    chain = {f"{n}": {"$ref": f"#/$defs/{n + 1}"} for n in range(count)}
    assert not has_circle({"$defs": {**chain, f"{count}": TEXT}, "$ref": "#/$defs/0"})
    assert has_circle({"$defs": {**chain, f"{count}": LOOP, "loop": LOOP}, "$ref": "#/$defs/0"})


@pytest.mark.parametrize("wrong", [{"$ref": 5}, {"anyOf": 3}, {"allOf": {"a": ROOT}}, {"items": 3}])
def test_what_is_wrong_is_left_to_the_compiler(wrong):
    assert not has_circle({"type": "object", "properties": {"a": wrong, "b": {"$ref": "#/x/0"}}})
