"""A client's constructor arguments, judged once, for both kinds of client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_infer.errors import ConfigError, InvalidRequestError
from hybrid_infer.events import Observer
from hybrid_infer.settings import POLICIES, Policy, Settings

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The constructor arguments of `HybridClient`, as given; see there for their meaning."""

    policy: str | None = None
    profile: str | None = None
    models: str | os.PathLike[str] | Mapping[str, Any] | None = None
    api_key: str | None = None
    base_url: str | None = None
    deadline: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    allow_download: bool = False
    strict_auth: bool = False
    cache: int | None = None
    on_event: Observer | None = None
    settings: Settings | None = None

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "'***'"
        return f"ClientOptions(policy={self.policy!r}, profile={self.profile!r}, api_key={key})"


def checked_policy(policy: str | None, from_environment: Policy | None) -> Policy:
    """The policy in force: the argument, else $HYBRID_INFER_POLICY, else ``remote-first``.

    Raises:
        ConfigError: it is none of the four.
    """
    if policy is None:
        return from_environment or "remote-first"
    for known in POLICIES:
        if policy == known:
            return known
    raise ConfigError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")


def checked_device(device: Any) -> str:
    """The device to compute on.

    Raises:
        ConfigError: not ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    name, _, index = str(device).partition(":")
    if name in DEVICES and (not index or (name == "cuda" and index.isdecimal())):
        return str(device)
    raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, not {device!r}")


def checked_dtype(dtype: Any) -> str:
    """The dtype to compute in.

    Raises:
        ConfigError: not one of `DTYPES`.
    """
    if dtype in DTYPES:
        return str(dtype)
    raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")


def as_config_error(error: InvalidRequestError) -> ConfigError:
    """The same message as an error of the constructor."""
    return ConfigError(error.message)


def check_types(options: ClientOptions) -> None:
    """Refuse constructor arguments of the wrong type.

    Raises:
        ConfigError: one is; the message names it and never shows a key.
    """
    for name in ("allow_download", "strict_auth"):
        if not isinstance(getattr(options, name), bool):
            raise ConfigError(f"{name} must be True or False, not {getattr(options, name)!r}")
    cache: Any = options.cache
    if cache is not None and (isinstance(cache, bool) or not isinstance(cache, int) or cache < 1):
        raise ConfigError(f"cache must be None or a positive number of entries, not {cache!r}")
    if options.on_event is not None and not callable(options.on_event):
        raise ConfigError("on_event must be callable")
    if options.api_key is not None and not isinstance(options.api_key, str):
        raise ConfigError(f"api_key must be a str, not {type(options.api_key).__name__}")
    if options.settings is not None and not isinstance(options.settings, Settings):
        raise ConfigError(f"settings must be a Settings, not {type(options.settings).__name__}")
