"""Hostile schemas: each is judged at once, whatever it asks for."""

import itertools

import pytest
from llguidance import LLMatcher, LLTokenizer

from hybrid_infer.local.generation import grammars
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


def chained(joined=lambda schema, link: {**schema, **link}):
    links = {
        f"link{index}": joined(text(pattern), {"$ref": f"#/$defs/link{index + 1}"})
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
        chained(lambda schema, link: {"anyOf": [schema], **link}),
        {"type": "object", "patternProperties": {key: {} for key in HARD}},
    ],
    ids=["allOf", "anyOf with siblings", "nested", "$ref", "$ref and anyOf", "patternProperties"],
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


HUGE = {"type": "integer", "minimum": -1e20, "maximum": -1e19}


@pytest.mark.parametrize(
    "schema",
    [
        HUGE,
        {"type": "integer", "minimum": -(2**63), "maximum": -(2**63)},
        {"const": -(2**63)},
        {"enum": ["a", [{"b": -(2**63)}]]},
        {"type": "integer", "exclusiveMaximum": 1e16},
        {"const": 2**53 + 1},
        {"properties": {"default": HUGE, "enum": {"type": "string"}}},
        {"$defs": HUGE, "$ref": "#/$defs"},
        {"default": HUGE, "$ref": "#/default"},
        {"properties": {"a": {"$ref": "#/def%61ult/0"}}, "default": [HUGE]},
    ],
    ids=str,
)
def test_numbers_too_large_never_reach_the_compiler(schema, monkeypatch):
    monkeypatch.setattr(grammars, "_compiled", pytest.fail)  # some would end the process
    with pytest.raises(ValueError, match=r"2\*\*53"):
        grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1, "default": -(2**63)},
        {"type": "object", "properties": {"minimum": {"type": "string", "examples": [HUGE]}}},
        {"enum": [{"exclusiveMinimum": 0, "maximum": 7}, True, "minimum"]},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 1.5},
        {
            "properties": {
                "a": {"type": "number", "exclusiveMinimum": 0},
                "b": {"type": "number", "maximum": 0.5, "multipleOf": 0.01},
                "c": {"type": "integer", "multipleOf": 3600},
            },
        },
    ],
    ids=str,
)
def test_usual_numbers_are_no_trouble(schema):
    assert grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 123_456_789},
        {"type": "number", "multipleOf": 9_940_089.1},
        {"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]},
        {"allOf": [{"type": "number", "multipleOf": 1e-5}, {"multipleOf": 7}]},
        {"properties": {name: {"type": "integer", "multipleOf": 9973} for name in "abcde"}},
    ],
    ids=str,
)
@pytest.mark.timeout(10)  # unchecked, some of them compute for minutes
def test_multiples_that_take_too_long_are_refused(schema):
    with pytest.raises(ValueError, match="multipleOf"):
        grammar(schema)


TEXTS = [f"{sign}{text}" for sign in ("", "-") for text in ("0", "0.0", "0.5", "0.50", "1", "1.0")]
TEXTS += ["0.25", "1.25", "1.5", "2", "10", "10.1", "11", "-0.25", "-1.25", "-1.5", "-2", "0.75"]
BYTES = LLTokenizer("byte")
ENDS = (-1.5, -1, -0.5, 0, 0.05, 0.5, 1, 1.5, 10, 10.25)


@pytest.mark.parametrize(
    "spelled",
    [
        lambda lower, upper: {"type": "number", **lower, **upper},
        lambda lower, upper: {**lower, **upper},
        lambda lower, upper: {"allOf": [{"type": "number", **lower}, upper]},
        lambda lower, upper: {
            "$defs": {"a": {"type": "number", **lower}},
            "$ref": "#/$defs/a",
            "anyOf": [upper],
        },
    ],
    ids=["together", "no type", "allOf", "$ref beside anyOf"],
)
@pytest.mark.parametrize("low", ["minimum", "exclusiveMinimum"])
@pytest.mark.parametrize("high", ["maximum", "exclusiveMaximum"])
def test_bounds_that_are_accepted_are_obeyed(spelled, low, high):
    num_accepted = 0
    for least, most in itertools.combinations(ENDS, 2):
        try:
            accepted = grammar(spelled({low: least}, {high: most}))
        except ValueError:
            continue
        num_accepted += 1
        for text in filter(lambda text: matches(accepted, text), TEXTS):
            value = float(text)
            assert least <= value <= most
            assert low == "minimum" or value > least, (least, most)
            assert high == "maximum" or value < most, (least, most)
    assert num_accepted > len(ENDS) * (len(ENDS) - 1) / 2 - 10


def matches(accepted, text):
    matcher = LLMatcher(BYTES, accepted, log_level=0)
    spelling = list(text.encode())
    return matcher.try_consume_tokens(spelling) == len(spelling) and matcher.is_accepting()


def test_the_older_draft_s_exclusive_bounds_are_judged_too():
    with pytest.raises(ValueError, match="excludes 0, close to another bound"):
        grammar({"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 0.5})
