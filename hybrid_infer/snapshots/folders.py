"""Where files live, read from the environment at the moment of the question."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hybrid_infer.errors import ConfigError

CACHE_VARIABLE = "HYBRID_INFER_CACHE_DIR"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})  # as huggingface_hub reads its switches


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """This library's own folder: $HYBRID_INFER_CACHE_DIR, else ``~/.cache/hybrid_infer``.

    Raises:
        ConfigError: the variable names something that is not a folder.
    """
    named = environ.get(CACHE_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{CACHE_VARIABLE} must name a folder; {named!r} is none")
        return folder.absolute()
    return _user_cache(environ) / "hybrid_infer"


def hub_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The Hub's cache, by the Hub's own rules.

    HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, else ``~/.cache/huggingface/hub``. They are
    read at every call, unlike in huggingface_hub, which reads them once at its import.
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return Path(environ[variable]).expanduser().absolute()
    if environ.get("HF_HOME"):
        return Path(environ["HF_HOME"]).expanduser().absolute() / "hub"
    return _user_cache(environ) / "huggingface" / "hub"


def _user_cache(environ: Mapping[str, str]) -> Path:
    named = environ.get("XDG_CACHE_HOME")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache"


def offline_variable(environ: Mapping[str, str] = os.environ) -> str | None:
    """The name of the variable that forbids Hugging Face's hosts, or None."""
    for variable in OFFLINE_VARIABLES:
        if environ.get(variable, "").upper() in _TRUE:
            return variable
    return None


def repo_folder(repo: str, cache: Path) -> Path:
    """The folder of a repository in a cache of the Hub's layout."""
    return cache / ("models--" + repo.replace("/", "--"))
