"""Bodies that are too long, too deep or too odd to be written down in faults.yaml."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

CANARY = "hf_canaryCANARYcanaryCANARYcanary"  # the key of every client here
DIM = 384
NUM_TEXTS = 3
TOO_LARGE_BYTES = 200_000


def _vectors(rows: int = NUM_TEXTS, dim: int = DIM, first: float | str = 1.0) -> str:
    row = [first, *[0.0] * (dim - 1)]
    return json.dumps([row] * rows)


def _ragged() -> str:
    rows = json.loads(_vectors())
    rows[1].pop()
    return json.dumps(rows)


TEXTS: Mapping[str, Callable[[], str]] = {
    "one_vector_too_few": lambda: _vectors(rows=NUM_TEXTS - 1),
    "one_vector_too_many": lambda: _vectors(rows=NUM_TEXTS + 1),
    "another_dimension": lambda: _vectors(dim=DIM * 2),
    "ragged": _ragged,
    "three_deep": lambda: json.dumps([json.loads(_vectors())]),
    "words": lambda: _vectors(first="one"),
    "nulls": lambda: _vectors().replace("1.0", "null"),
    "not_a_number": lambda: _vectors().replace("1.0", "NaN"),
    "infinite": lambda: _vectors().replace("1.0", "Infinity"),
    "overflowing": lambda: _vectors(first=1e300),
    "zero": lambda: _vectors(first=0.0),
    "too_long": lambda: _vectors(first=1.1),
    "deep_json": lambda: "[" * 100_000,
    "the_key": lambda: json.dumps({"error": f"your key {CANARY} is wrong"}),
    "large": lambda: " " * TOO_LARGE_BYTES,
}
BOMB_BYTES = 20_000_000


def filled(step: Mapping[str, Any], elsewhere_url: str) -> dict[str, Any]:
    """A step of a scenario, with what cannot be written down.

    ``body_of`` names a body above, or is ``{loading: JSON}``, a model that loads, and for how long;
    ``to_elsewhere: true`` redirects to another server.
    """
    done = dict(step)
    body, redirects = done.pop("body_of", None), done.pop("to_elsewhere", False)
    if redirects:
        done["headers"] = {"location": elsewhere_url + "/v1/chat/completions"}
    if body == "gzip_bomb":
        bomb = gzip.compress(b" " * BOMB_BYTES)
        done |= {
            "base64": base64.b64encode(bomb).decode(),
            "headers": {"content-encoding": "gzip"},
        }
    elif isinstance(body, Mapping):
        done["text"] = f'{{"error": "Model x is loading", "estimated_time": {body["loading"]}}}'
    elif body is not None:
        done["text"] = TEXTS[body]()
    return done
