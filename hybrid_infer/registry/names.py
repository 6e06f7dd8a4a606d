"""The shapes of aliases and Hub ids, and how an unknown name is answered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import get_args

from hybrid_infer.datatypes.models import Task

TASKS: tuple[Task, ...] = get_args(Task)

ALIAS_RULE = "1 to 64 lower-case letters, digits, '.', '_' or '-'"
MAX_HUB_ID_LENGTH = 96

_ALIAS = re.compile(r"[a-z0-9._-]{1,64}")
_HUB_ID_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_SECRET = re.compile(r"(hf_|sk-|api_org_)[A-Za-z0-9_-]{16,}")
_LONGEST_SHOWN = 60


def is_alias(name: str) -> bool:
    """Whether `name` may be an alias, or a remote's name."""
    return _ALIAS.fullmatch(name) is not None and name.strip(".") != ""


def hub_id_problem(name: str) -> str | None:
    """Why `name` is not a Hub id ``org/name``, or None if it is one.

    Source: the rules of ``huggingface_hub.utils.validate_repo_id``, with the organisation
    required and this library's task prefixes reserved.
    """
    if len(name) > MAX_HUB_ID_LENGTH:
        return f"a Hub id has at most {MAX_HUB_ID_LENGTH} characters"
    parts = name.split("/")
    if len(parts) != 2:  # noqa: PLR2004 - an organisation and a name
        return "a Hub id is written org/name"
    if parts[0] in TASKS:
        return f"'{parts[0]}/' is reserved for aliases"
    if not all(_HUB_ID_PART.fullmatch(part) for part in parts):
        return (
            "a Hub id is written org/name, each part of letters, digits, '.', '_' and '-', "
            "with no '.' or '-' at its ends"
        )
    if ".." in name or "--" in name or name.endswith(".git"):
        return "a Hub id has no '..', no '--' and no '.git' at its end"
    return None


def shown(text: str) -> str:
    """`text` as an error message may show it: quoted, short, and no API key."""
    if _SECRET.search(text):
        return "'***'"
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[:_LONGEST_SHOWN]}…"
    return ascii(text)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of `choices`, or an empty string."""
    from difflib import get_close_matches

    by_folded = {choice.lower(): choice for choice in choices}
    nearest = get_close_matches(word[:_LONGEST_SHOWN].strip().lower(), by_folded, n=1)
    return f"; did you mean '{by_folded[nearest[0]]}'?" if nearest else ""
