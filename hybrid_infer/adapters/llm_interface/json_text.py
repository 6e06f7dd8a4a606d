"""JSON in what a chat model has written: alone, in a fence, or in the middle of prose."""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")


def find_json(text: str) -> Any:
    """The first JSON object or list of `text`; None if there is none.

    A text that is JSON as a whole counts as that, whatever it is.
    """
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder()
    for match in _OPENING.finditer(text):
        try:
            return decoder.raw_decode(text, match.start())[0]
        except ValueError:
            continue
        except RecursionError:  # too deep, and its inner part is not what was written
            return None
    return None


def repair_json(text: str) -> Any:
    """What `text` was meant to be as JSON, an object or a list; None if nothing of it is.

    Raises:
        ImportError: json-repair is not installed.
    """
    try:
        import json_repair
    except ImportError as missing:
        raise ImportError(
            'attempt_json_repair needs json-repair: pip install "hybrid-infer[llm-interface]"'
        ) from missing

    fenced = _FENCE.search(text)
    try:
        mended = json_repair.loads(fenced.group(1) if fenced else text)
    except (RecursionError, ValueError):  # nested too deep, in the words of one version or another
        return None
    return mended if isinstance(mended, dict | list) and mended else None
