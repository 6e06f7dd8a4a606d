"""Where the server listens, and who may ask: judged before anything is opened."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from hybrid_infer.errors import ConfigError

KEY_VARIABLE = "HYBRID_INFER_SERVER_KEY"

_SENDABLE = re.compile(r"[!-~]{1,512}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")


class ServerKey:
    """The key that clients must send; no text shows it.

    Args:
        value: printable ASCII without spaces.

    Raises:
        ConfigError: it is something else, which no client could send in a header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not _SENDABLE.fullmatch(value):
            raise ConfigError(
                f"the server's key ({KEY_VARIABLE} or --api-key) must be 1 to 512 printable ASCII "
                "characters without spaces"
            )
        self._value = value.encode()

    def matches(self, given: bytes) -> bool:
        """Whether `given` is the key; takes the same time wherever they differ."""
        return hmac.compare_digest(self._value, given)

    def __repr__(self) -> str:
        return "ServerKey(***)"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What `serve` is asked for.

    Attributes:
        host: the address to listen on.
        port: the port; 0 picks a free one.
        key: what clients must send; None: nothing is asked of them.
        host_names: names by which clients reach this server, beyond this machine's own.
        accepts_token_ids: whether ids are read as those of the model's own tokenizer.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: ServerKey | None = None
    host_names: tuple[str, ...] = ()
    accepts_token_ids: bool = False


def server_options(
    host: str,
    port: int,
    key: str | None,
    host_names: Iterable[str] = (),
    *,
    accepts_token_ids: bool = False,
) -> ServerOptions:
    """The options, checked.

    Args:
        host: an IP address or a name of this machine.
        port: 0 to 65535.
        key: the key, or None or nothing for none.
        host_names: further names for the ``Host`` header, for instance a proxy's.
        accepts_token_ids: whether ids are read as those of the model's own tokenizer.

    Raises:
        ConfigError: a value is wrong, or the address can be reached from elsewhere and there is
            no key.
    """
    if not is_address(host) and not _HOST_NAME.fullmatch(host):
        raise ConfigError("--host must be an IP address or a host name")
    names = tuple(name.lower() for name in host_names)
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise ConfigError("--allowed-host must be a host name, without a port")
    if not key and not is_loopback_address(host):
        raise ConfigError(
            f"{host} can be reached from other machines, so clients must send a key: set "
            f"{KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    return ServerOptions(host, port, ServerKey(key) if key else None, names, accepts_token_ids)


def is_loopback_address(host: str) -> bool:
    """Whether only this machine can reach `host`, by its very form."""
    if is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def is_address(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def own_names(options: ServerOptions) -> frozenset[str]:
    """The names that the ``Host`` header may hold.

    An IP address is always right: a page that rebinds its own name to this machine (DNS
    rebinding) still sends its own name.
    """
    names = {"localhost", options.host.lower(), *options.host_names}
    if not is_loopback_address(options.host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)
