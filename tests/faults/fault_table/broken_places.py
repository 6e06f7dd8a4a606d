"""Places where no answer can come from: a bad certificate, a full backlog, an unknown name."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import trustme

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class TlsListener:
    """Offers a certificate to whoever connects, and counts the requests that come through."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        self.num_requests = 0
        self._thread = threading.Thread(target=self._serve, name="tls-listener", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                with self._context.wrap_socket(connection, server_side=True) as secured:
                    self.num_requests += bool(secured.recv(65536))

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


class Certificates:
    """One authority, and a certificate for each way in which one can be wrong."""

    def __init__(self) -> None:
        self._known, self._unknown = trustme.CA(), trustme.CA()
        self._folder = tempfile.TemporaryDirectory()
        self._bundle = Path(self._folder.name) / "authority.pem"
        self._known.cert_pem.write_to_path(str(self._bundle))
        self._made = {
            "tls_unknown_authority": self._unknown.issue_cert("localhost"),
            "tls_expired": self._known.issue_cert("localhost", not_after=LONG_AGO),
            "tls_wrong_host": self._known.issue_cert("example.org"),
        }

    @contextlib.contextmanager
    def listener(self, place: str) -> Iterator[TlsListener]:
        """A listener with the certificate of `place`; the known authority is trusted meanwhile."""
        listener = TlsListener(self._made[place])
        try:
            with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(self._bundle)}):
                yield listener
        finally:
            listener.close()

    def close(self) -> None:
        """Throw the authority away."""
        self._folder.cleanup()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a port whose backlog is full: connecting takes for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def no_names() -> Iterator[str]:
    """The URL of a host that the resolver does not know."""

    def unknown(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with mock.patch.object(socket, "getaddrinfo", unknown):
        yield "http://localhost:9"
