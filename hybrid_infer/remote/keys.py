"""API keys: where one is found, where it may go, and how it stays out of every text."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NoReturn
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from hybrid_infer.datatypes.models import RemoteSpec
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.urls import is_loopback

MASK = "***"

_VARIABLES_BEFORE_LOGIN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_VARIABLES_AFTER_LOGIN = ("HUGGINGFACE_API_KEY", "HUGGINGFACEHUB_API_TOKEN")
_HUGGINGFACE_HOSTS = ("huggingface.co", "endpoints.huggingface.cloud")
_SENDABLE = re.compile(r"[\x21-\x7e\xa1-\xff]+")
_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")

__all__ = [
    "MASK",
    "Secret",
    "find_key",
    "is_huggingface_host",
    "is_loopback",
    "redact",
    "redact_known",
]


class Secret:
    """An API key that no text shows: ``repr``, ``str`` and ``format`` give ``***``.

    Secrets compare by value, in constant time. Copying gives the same object; pickling is
    refused, because a pickle is text that leaves the process.

    Args:
        value: the key.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        _known[id(self)] = self

    def reveal(self) -> str:
        """The key itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, specification: str) -> str:
        return format(MASK, specification)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


# Every key that is in use, for texts of which nobody can say whose they may hold.
# By identity: equal ones come and go apart.
_known: WeakValueDictionary[int, Secret] = WeakValueDictionary()


def redact_known(text: str) -> str:
    """`text` without any key that this process has, and without what looks like a Hub token."""
    return _redacted(text, tuple(_known.values()))


def redact(text: str, secret: Secret | None) -> str:
    """`text` without `secret`, and without anything else that looks like a Hub token."""
    return _redacted(text, () if secret is None else (secret,))


def _redacted(text: str, secrets: Iterable[Secret]) -> str:
    for secret in secrets:
        for form in _forms(secret.reveal()):
            text = text.replace(form, MASK)
    return _HUB_TOKEN.sub(MASK, text)


def _forms(value: str) -> set[str]:
    """A key as it is, and as it is written in the representation of text or bytes that hold it."""
    if value.isalnum() and value.isascii():  # as a rule
        return {value}
    shown = {value, repr(value)[1:-1], repr(value.encode("latin-1", "replace"))[2:-1]}
    return shown | {form.replace("'", r"\'") for form in shown}


@lru_cache(maxsize=128)  # asked at every call, of the few URLs that are configured
def is_huggingface_host(url: str) -> bool:
    """Whether `url` leads to one of Hugging Face's own hosts."""
    host = _host(url)
    return any(host == name or host.endswith(f".{name}") for name in _HUGGINGFACE_HOSTS)


def find_key(remote: RemoteSpec, explicit: str | None) -> Secret | None:
    """The key to send to `remote`.

    Looked for in this order: `explicit`, the remote's own ``key_env``, then the ambient ones:
    ``HF_TOKEN``, ``HUGGING_FACE_HUB_TOKEN``, the saved login, ``HUGGINGFACE_API_KEY``,
    ``HUGGINGFACEHUB_API_TOKEN``. Ambient keys go to Hugging Face's hosts and to loopback only.
    On a host that is not Hugging Face's, ``key_env`` comes before `explicit`, which may well be a
    Hugging Face token.
    White space around a key is dropped; an empty one counts as none.

    Args:
        remote: the remote, with a validated ``base_url``.
        explicit: the constructor's ``api_key``.

    Raises:
        ConfigError: the key cannot be sent in a header, or would cross a network unencrypted.
    """
    for source, value in _candidates(remote, explicit):
        key = value.strip() if value is not None else ""
        if not key:
            continue
        if _SENDABLE.fullmatch(key) is None:
            raise ConfigError(f"the API key in {source} has characters that no header can carry")
        if not remote.base_url.lower().startswith("https://") and not is_loopback(remote.base_url):
            raise ConfigError(
                f"remote {remote.name!r}: the API key in {source} would be sent unencrypted to "
                f"{_host(remote.base_url)}; use https, or unset the key"
            )
        return Secret(key)
    return None


def _candidates(remote: RemoteSpec, explicit: str | None) -> Iterator[tuple[str, str | None]]:
    """Where a key may be, and what is there, each looked at only when its turn comes."""
    if explicit is not None and not isinstance(explicit, str):
        raise ConfigError(f"api_key must be text, not {type(explicit).__name__}")
    is_at_home = is_huggingface_host(remote.base_url)
    own = [(remote.key_env, os.environ.get(remote.key_env))] if remote.key_env else []
    given = ("api_key", explicit)
    yield from (given, *own) if is_at_home else (*own, given)
    if not (is_at_home or is_loopback(remote.base_url)):
        return
    for variable in _VARIABLES_BEFORE_LOGIN:
        yield variable, os.environ.get(variable)
    yield "the saved Hugging Face login", _saved_login()
    for variable in _VARIABLES_AFTER_LOGIN:
        yield variable, os.environ.get(variable)


def _saved_login() -> str | None:
    from huggingface_hub import get_token

    try:
        return get_token()
    except (OSError, UnicodeError):
        return None  # an unreadable login is no login: the next source may hold a key


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
