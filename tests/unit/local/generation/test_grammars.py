"""Hostile schemas: each is judged at once, whatever it asks for."""

import pytest

from hybrid_infer.local.generation.grammars import MOST_PATTERNS, grammar_of

PATTERNS = ["(a|b)*a(a|b){20}", "[a-z]*x[a-z]{30}", "(?:ab|ba|c)*d", "[^q]*q[^r]*r.{40}"]
HARD = [f"{PATTERNS[index % 4]}{index}?" for index in range(20)]


def grammar(schema):
    return grammar_of({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def text(pattern):
    return {"type": "string", "pattern": pattern}


def nested(make):
    schema = {"type": "string"}
    for pattern in HARD:
        schema = make(pattern, schema)
    return schema


def chained():
    links = {
        f"link{index}": {**text(pattern), "$ref": f"#/$defs/link{index + 1}"}
        for index, pattern in enumerate(HARD)
    }
    last = {f"link{len(HARD)}": {"type": "string"}}
    return {"$defs": {**links, **last}, "$ref": "#/$defs/link0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [text(pattern) for pattern in HARD]},
        nested(lambda pattern, schema: {**text(pattern), "anyOf": [schema]}),
        nested(lambda pattern, schema: {"allOf": [text(pattern), schema]}),
        chained(),
        {"type": "object", "patternProperties": {key: {} for key in HARD}},
    ],
    ids=["allOf", "anyOf with siblings", "nested allOf", "chained $ref", "patternProperties"],
)
@pytest.mark.timeout(10)  # unchecked, each of them computes for ever
def test_many_patterns_at_once_are_refused(schema):
    with pytest.raises(ValueError, match=f"20 patterns, more than {MOST_PATTERNS}"):
        grammar(schema)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"required": [f"k{i}{j}"]} for j in range(8)]} for i in range(8)]},
        {"allOf": [text(pattern) for pattern in HARD[:MOST_PATTERNS]]},
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, text("x")]}}, "$ref": "#/$defs/a"},
        {"$ref": "http://127.0.0.1/schema"},
        {"type": "object", "properties": 3},
    ],
)
def test_what_cannot_be_compiled_says_so(schema):
    with pytest.raises(ValueError, match=r".") as caught:
        grammar(schema)
    assert len(str(caught.value)) <= 200


def test_a_schema_of_great_depth_is_refused():
    schema = {"type": "string"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="recursion"):
        grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"key{i}": text(f"^{i}[a-z]*$") for i in range(100)}},
        {
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
            "$ref": "#/$defs/node",
            "title": "A list",
        },
        {"type": "array", "minItems": 10**6, "items": text("(a{1000}){1000}")},
    ],
)
def test_many_patterns_in_different_places_are_no_trouble(schema):
    assert grammar(schema)
