"""What ``response_format`` asks for, as a grammar of llguidance. No torch, and no model.

Source: https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from hybrid_infer.local.generation.bounds import check_numbers, mappings, may_intersect
from hybrid_infer.local.generation.circles import has_circle

MAX_SCHEMA_BYTES = 32_768  # at most some 0.2 s to compile
# Whether a text can match several patterns at once takes exponential time to find out: measured with
# llguidance 1.9, 1 ms for 8 patterns, 1.4 s for 16, and no end for 20.
MOST_PATTERNS = 8
# JSON allows blanks without end, and small models write them: an indented line break is enough.
WHITESPACE = r"[ \t\n\r]{0,32}"

MOST_SHOWN = 200  # characters of a message that may quote the whole schema


def grammar_of(response_format: Mapping[str, Any]) -> str:
    """The grammar of the answers that `response_format` allows.

    It is compiled without a model's vocabulary, which takes less than a millisecond for a usual
    schema, so that a wrong one is known before anything is computed.

    Args:
        response_format: ``{"type": "json_object"}``, or ``{"type": "json_schema", "json_schema":
            {"schema": …}}``.

    Raises:
        ValueError: it is of another type, its schema is wrong, has a keyword that is not known
            here, is too large, has numbers that would not surely be obeyed, or is one that no text
            can match; the message says which.
    """
    kind = response_format.get("type")
    if kind == "json_object":
        return _compiled('{"type": "object"}')
    if kind != "json_schema":
        raise ValueError(f"its type is {kind!r}")
    schema = response_format["json_schema"]["schema"]
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"its schema has {len(text)} bytes, more than {MAX_SCHEMA_BYTES}")
    _check_patterns(schema)
    check_numbers(schema)
    return _compiled(text)


@functools.lru_cache(maxsize=64)
def _compiled(schema: str) -> str:
    from llguidance import LLMatcher

    grammar: str = LLMatcher.grammar_from_json_schema(
        schema, overrides={"whitespace_pattern": WHITESPACE}
    )
    is_wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_wrong:
        raise ValueError("; ".join(messages)[:MOST_SHOWN])
    if has_circle(json.loads(schema)) or not _can_begin(grammar):
        raise ValueError("its schema has a $ref that leads back to itself, so nothing can match it")
    return grammar


def _can_begin(grammar: str) -> bool:
    """Whether a text may begin with any byte at all; llguidance knows it only once it is asked."""
    from llguidance import LLMatcher

    matcher = LLMatcher(_byte_tokenizer(), grammar, log_level=0)
    matcher.compute_bitmask()
    return not is_dead_end(matcher)


@functools.cache
def _byte_tokenizer() -> Any:
    """A vocabulary of all bytes; to make one takes longer than all else here."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def is_dead_end(matcher: Any) -> bool:
    """Whether a matcher failed because nothing can follow, and not because of its limits.

    It has no code for that: its message begins with the name of the reason.
    """
    message: str = matcher.get_error()
    return message.startswith("NoExtensionBias")


def _check_patterns(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that may ask of a text to match too many patterns at once."""
    patterns: set[str] = set()
    intersects = False
    for node in mappings(schema):
        found = [node.get("pattern"), node.get("format")]
        if isinstance(node.get("patternProperties"), Mapping):
            found += node["patternProperties"]
        patterns.update(pattern for pattern in found if isinstance(pattern, str))
        intersects |= may_intersect(node)
    if intersects and len(patterns) > MOST_PATTERNS:
        raise ValueError(
            f"its schema has {len(patterns)} patterns, more than {MOST_PATTERNS}, beside allOf, "
            "patternProperties or a $ref with siblings"
        )
