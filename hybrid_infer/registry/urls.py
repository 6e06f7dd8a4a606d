"""A remote's base URL: its shape, and whether it stays on this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PRINTABLE = re.compile(r"[!-~]{1,2048}")

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


def validated_base_url(url: object) -> str:
    """`url` without a trailing slash.

    Args:
        url: scheme, host, and optionally port and path.

    Raises:
        ValueError: it is something else. The message starts with "must", or "must not", and
            never repeats the URL, which may hold a password or a key.
    """
    if not isinstance(url, str):
        raise ValueError("must be text such as https://host/path")  # noqa: TRY004 - callers turn ValueError into ConfigError
    if not _PRINTABLE.fullmatch(url):
        raise ValueError("must be a URL of printable ASCII characters, such as https://host/path")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://host/path") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must start with https:// or http://")
    if "@" in parts.netloc:
        raise ValueError(
            "must not hold a user name or password; name the key's variable in key_env"
        )
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or a fragment")
    if not host or not _is_host(host) or port == 0:
        raise ValueError("must name a host, such as https://host/path")
    return url.rstrip("/")


def _is_host(host: str) -> bool:
    return _address(host) is not None or _HOST.fullmatch(host) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(url: str) -> bool:
    """Whether a validated `url` leads to this machine by its very form, without a look-up."""
    host = urlsplit(url).hostname or ""
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost"  # a resolver may send any other name, *.localhost too, elsewhere
