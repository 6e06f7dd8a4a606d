"""Bytes behind the end of a reply: a connection that holds some carries no further request.

httpcore2 hands such a connection back to its pool, and the next call would take those bytes for
its own answer. The pool itself closes an idle connection that is "readable", so that is what a
stream says of itself as soon as it holds bytes that nobody asked for, wherever they lie.
"""

from __future__ import annotations

import ssl
from operator import attrgetter

import httpcore2

# From the pool's stream to the connection's, its connection, its h11: nothing public leads there.
_parser = attrgetter("_stream._connection._h11_state")


class Reusable:
    """A connection that may be marked as not to be used again.

    Attributes:
        is_spent: it carried bytes behind the end of its last reply.
    """

    is_spent = False


def mark_if_spent(response: httpcore2.Response) -> None:
    """Before `response` is closed: keep its connection from being used again, if bytes are left.

    Bytes of a body that was not read count, too; httpcore2 closes such a connection anyway.
    """
    connection = response.extensions.get("network_stream")
    if isinstance(connection, Reusable) and _left_in_parser(response):
        connection.is_spent = True


def _left_in_parser(response: httpcore2.Response) -> bool:
    try:
        data, _ = _parser(response.stream).trailing_data
    except AttributeError:  # another httpcore2: a new connection for each call, but no wrong answer
        return True
    return bool(data)


def left_in_tls(stream: httpcore2.NetworkStream | httpcore2.AsyncNetworkStream) -> bool:
    """Whether TLS in memory holds bytes of an idle connection, or its end.

    Such a TLS takes what the socket has, and gives out one record at a time, so that the rest
    shows neither at the socket nor in the parser. (Over a socket, TLS takes one record.)
    """
    tls = stream.get_extra_info("ssl_object")
    if not isinstance(tls, ssl.SSLObject):
        return False
    try:
        tls.read(1)  # that byte is lost, and the connection with it
    except ssl.SSLWantReadError:
        return False
    except OSError:  # its end, or damage
        return True
    return True
