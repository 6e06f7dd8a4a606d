"""A bare remote for benchmarks, in a process of its own: fixed answers, and faults every so often.

Run as a program it prints its port and serves until its stdin closes.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny/Phi-3-mini-4k-instruct",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
}
VECTOR = [[1.0] + [0.0] * 383]
LIMITED = (429, b"Too Many Requests", b'{"error":"slow down"}')
LIMITED_EVERY = 500  # faults: after each, requests are sent gently for six seconds
FAULTS = (
    (500, b"Internal Server Error", b'{"error":"boom"}'),
    (200, b"OK", b"<html>proxy</html>"),
)
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n[[0.1, "  # and the connection ends


def _answer(status: int, words: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        % (status, words, len(body))
        + (b"Retry-After: 0\r\n" if status == 429 else b"")  # noqa: PLR2004 - HTTP
        + b"\r\n"
        + body
    )


class Loopback:
    """Counts requests; every `fault_every`-th gets a fault, or the one status that is `always`."""

    def __init__(self, fault_every: int, always: int) -> None:
        self._chat = _answer(200, b"OK", json.dumps(CHAT).encode())
        self._vector = _answer(200, b"OK", json.dumps(VECTOR).encode())
        self._fault_every = fault_every
        self._always = always
        self._count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                reply = await self._reply(head, reader)
                writer.write(reply)
                await writer.drain()
                if reply == CUT:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        lines = head.lower().split(b"\r\n")
        size = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0)
        await reader.readexactly(size)
        if head.startswith(b"GET"):
            return _answer(200, b"OK", b"%d" % self._count)
        self._count += 1
        if self._always:
            return _answer(self._always, b"Always", b'{"error":"always"}')
        if self._fault_every and self._count % self._fault_every == 0:
            return self._fault(self._count // self._fault_every)
        return self._chat if b"/chat/completions" in head else self._vector

    @staticmethod
    def _fault(number: int) -> bytes:
        if number % LIMITED_EVERY == 0:
            return _answer(*LIMITED)
        return CUT if number % 3 == 0 else _answer(*FAULTS[number % 3 - 1])


async def _main(fault_every: int, always: int) -> None:
    loopback = Loopback(fault_every, always)
    server = await asyncio.start_server(loopback.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def loopback(*, fault_every: int = 0, always: int = 0) -> Iterator[str]:
    """The URL of such a remote.

    Args:
        fault_every: every so many requests one fails, by a 500, a wrong body or a cut one in turn, and
            now and then by a 429; 0: none.
        always: the status of every answer; 0: a healthy one.
    """
    command = [sys.executable, str(Path(__file__)), str(fault_every), str(always)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("the loopback remote has no pipes")
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))
