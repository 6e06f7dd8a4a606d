"""The three ways in which an alias may name a GGUF file as its local copy."""

from __future__ import annotations

import os
import re

from hybrid_infer.datatypes.models import GgufFile
from hybrid_infer.registry.names import hub_id_problem, shown

HUB_SCHEME = "hf://"
MAX_LENGTH = 1024
_ON_DISK = ("/", "./", "../", "~/")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def gguf_file(
    text: str, *, repo: str = "org/name", revision: str | None = None, folder: str = ""
) -> GgufFile:
    """The file that `text` names.

    Args:
        text: a path on this machine, which begins with ``/``, ``./``, ``../`` or ``~/``; a file of
            another repository, ``hf://org/name@commit/file.gguf`` (huggingface_hub's notation; the
            commit may be left out); or else a file of the alias's own repository.
        repo: the alias's repository.
        revision: its pinned commit, if it has one.
        folder: where relative paths begin.

    Raises:
        ValueError: it is something else; the message starts with "must" or "names".
    """
    if not text.lower().endswith(".gguf") or len(text) > MAX_LENGTH or not text.isprintable():
        raise ValueError("must be the name of a .gguf file")
    if text.startswith(_ON_DISK):
        return GgufFile(os.path.abspath(os.path.join(folder, os.path.expanduser(text))))  # noqa: PTH100, PTH111, PTH118 - Path's own raises for an unknown user
    if text.startswith(HUB_SCHEME):
        repo, revision, text = _parts(text.removeprefix(HUB_SCHEME))
    if not all(part.strip(".") for part in text.split("/")) or "\\" in text:
        raise ValueError(
            "must be a path that begins with /, ./, ../ or ~/, a file of the alias's own "
            "repository, or hf://org/name/file.gguf"
        )
    return GgufFile(text, repo, revision)


def _parts(text: str) -> tuple[str, str | None, str]:
    """Repository, commit and file of ``org/name@commit/file.gguf``."""
    organisation, _, rest = text.partition("/")
    name, _, file = rest.partition("/")
    name, at, revision = name.partition("@")
    repo = f"{organisation}/{name}"
    problem = hub_id_problem(repo)
    if problem:
        raise ValueError(f"names {shown(repo)}: {problem}")
    if at and not _COMMIT.fullmatch(revision.lower()):
        raise ValueError("must name a commit of 40 hex digits behind the @, or none")
    return repo, revision.lower() or None, file
