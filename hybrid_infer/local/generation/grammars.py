"""What ``response_format`` asks for, as a grammar of llguidance. No torch, no tokenizer.

Source: https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

MAX_SCHEMA_BYTES = 65_536
# JSON allows blanks without end, and small models write them: an indented line break is enough.
WHITESPACE = r"[ \t\n\r]{0,32}"


def grammar_of(response_format: Mapping[str, Any]) -> str:
    """The grammar of the answers that `response_format` allows.

    It is compiled without a vocabulary, which takes less than a millisecond for a usual schema, so
    that a wrong one is known before anything is computed.

    Args:
        response_format: ``{"type": "json_object"}``, or ``{"type": "json_schema", "json_schema":
            {"schema": …}}``.

    Raises:
        ValueError: it is of another type, its schema is wrong, has a keyword that is not known
            here, or is too large; the message says which.
    """
    kind = response_format.get("type")
    if kind == "json_object":
        return _compiled('{"type": "object"}')
    if kind != "json_schema":
        raise ValueError(f"its type is {kind!r}")
    schema = json.dumps(response_format["json_schema"]["schema"])
    if len(schema) > MAX_SCHEMA_BYTES:
        raise ValueError(f"its schema has {len(schema)} bytes, more than {MAX_SCHEMA_BYTES}")
    return _compiled(schema)


@functools.lru_cache(maxsize=64)
def _compiled(schema: str) -> str:
    from llguidance import LLMatcher

    grammar: str = LLMatcher.grammar_from_json_schema(
        schema, overrides={"whitespace_pattern": WHITESPACE}
    )
    is_wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_wrong:
        raise ValueError("; ".join(messages))
    return grammar
