"""Where files live, read from the environment at the moment of the question."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hybrid_infer.errors import ConfigError

CACHE_VARIABLE = "HYBRID_INFER_CACHE_DIR"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
INCOMING = "incoming"  # of a repository's folder: what a pull has not proved yet
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})  # as huggingface_hub reads its switches


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """This library's own folder: $HYBRID_INFER_CACHE_DIR, else ``~/.cache/hybrid_infer``.

    Raises:
        ConfigError: the variable names something that is not, and cannot become, a folder.
    """
    named = environ.get(CACHE_VARIABLE)
    if not named:
        return _user_cache(environ) / "hybrid_infer"
    folder = Path(os.path.expanduser(named))  # noqa: PTH111 - Path's own raises for an unknown user
    if not named.strip() or folder.parts[0].startswith("~") or not _can_be_folder(folder):
        raise ConfigError(f"{CACHE_VARIABLE} must name a folder; {named!r} is none")
    return folder.absolute()


def _can_be_folder(folder: Path) -> bool:
    """Whether the nearest thing that exists on the way to `folder` is a folder."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if os.path.lexists(place):
            return place.is_dir()
    return False


def hub_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The Hub's cache, by the Hub's own rules.

    HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, else ``~/.cache/huggingface/hub``. They are
    read at every call, unlike in huggingface_hub, which reads them once at its import
    (``huggingface_hub/constants.py``).
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return _expanded(environ[variable])
    if environ.get("HF_HOME"):
        return _expanded(environ["HF_HOME"]) / "hub"
    return _user_cache(environ) / "huggingface" / "hub"


def _user_cache(environ: Mapping[str, str]) -> Path:
    return _expanded(environ.get("XDG_CACHE_HOME") or "~/.cache")


def _expanded(name: str) -> Path:
    """A folder's name as the Hub expands it: an unknown user or variable is a name like any other."""
    return Path(os.path.expandvars(os.path.expanduser(name))).absolute()  # noqa: PTH111 - see above


def offline_variable(environ: Mapping[str, str] = os.environ) -> str | None:
    """The name of the variable that forbids Hugging Face's hosts, or None."""
    for variable in OFFLINE_VARIABLES:
        if environ.get(variable, "").upper() in _TRUE:
            return variable
    return None


def repo_folder(repo: str, cache: Path) -> Path:
    """The folder of a repository in a cache of the Hub's layout."""
    return cache / ("models--" + repo.replace("/", "--"))
