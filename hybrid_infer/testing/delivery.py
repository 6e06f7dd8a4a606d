"""Puts an answer on the wire as a reply says: whole, cut, stalled or dripped, to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hybrid_infer.testing.answered import Answer, json_answer, refusal_answer, stream_answer
from hybrid_infer.testing.connection import Connection
from hybrid_infer.testing.scenario import Reply
from hybrid_infer.testing.wire import LAST_CHUNK, Arrival, chunk_bytes, head_bytes

_BODILESS = frozenset({204, 304})
_FRAMING = frozenset({"content-length", "transfer-encoding"})


class HangUp(Exception):
    """The connection ends here, because the reply says so or because the client is gone."""


class Delivery:
    """Sends one answer.

    Args:
        connection: where to.

    Attributes:
        bytes_sent: so far.
    """

    def __init__(self, connection: Connection) -> None:
        self.bytes_sent = 0
        self._connection = connection
        self._reply = Reply()
        self._may_stall = True

    async def send_raw(self, reply: Reply, raw: bytes, *, may_stall: bool) -> None:
        """Send `raw` and hang up."""
        self._reply, self._may_stall = reply, may_stall
        await self._send(raw)
        await self._checkpoint()
        raise HangUp

    async def send_answer(
        self, reply: Reply, answer: Answer, arrival: Arrival, *, may_stall: bool
    ) -> None:
        """Send `answer`.

        Args:
            reply: whose faults apply.
            answer: what to send.
            arrival: what is answered.
            may_stall: whether stalls are not released already.

        Raises:
            HangUp: the connection is not to be used again.
        """
        self._reply, self._may_stall = reply, may_stall
        is_chunked = self._is_chunked(answer, arrival)
        keep_alive = arrival.keep_alive and (answer.events is None or is_chunked)
        headers = self._headers(answer, is_chunked=is_chunked, keep_alive=keep_alive)
        await self._send(head_bytes(answer.status, headers))
        if arrival.request.method == "HEAD":
            pass
        elif answer.events is None:
            await self._send(answer.body)
        else:
            await self._send_events(answer.events, is_chunked=is_chunked)
        await self._checkpoint()
        if self._reply.close or not keep_alive:
            raise HangUp

    def _is_chunked(self, answer: Answer, arrival: Arrival) -> bool:
        given = {name.lower() for name, _ in self._reply.header_pairs}
        return answer.events is not None and arrival.knows_chunks and not given & _FRAMING

    def _headers(
        self, answer: Answer, *, is_chunked: bool, keep_alive: bool
    ) -> list[tuple[str, str]]:
        headers = list(answer.headers)
        if is_chunked:
            headers.append(("transfer-encoding", "chunked"))
        elif answer.events is None and answer.status not in _BODILESS:
            headers.append(("content-length", str(len(answer.body))))
        if not keep_alive:
            headers.append(("connection", "close"))
        given = self._reply.header_pairs
        names = {name.lower() for name, _ in given}
        return [pair for pair in headers if pair[0] not in names] + given

    async def _send_events(self, events: AsyncIterator[bytes], *, is_chunked: bool) -> None:
        reply, count = self._reply, 0
        while True:
            if reply.stall_after_events == count:
                await self._stall()
            if reply.cut_after_events == count:
                if reply.clean_end:
                    break
                raise HangUp
            event = await anext(events, None)
            if event is None:
                break
            await self._send(chunk_bytes(event) if is_chunked else event)
            count += 1
        if is_chunked:
            await self._send(LAST_CHUNK)

    async def _send(self, data: bytes) -> None:
        reply, start = self._reply, 0
        while start < len(data):
            await self._checkpoint()
            stop = len(data)
            for limit in (reply.stall_after_bytes, reply.cut_after_bytes):
                if limit is not None and limit > self.bytes_sent:
                    stop = min(stop, start + limit - self.bytes_sent)
            if reply.drip_bytes:
                stop = min(stop, start + reply.drip_bytes)
                if self.bytes_sent:
                    await asyncio.sleep(reply.drip_seconds)
            await self._connection.send(data[start:stop])
            self.bytes_sent += stop - start
            start = stop

    async def _checkpoint(self) -> None:
        """What is to happen after this many bytes."""
        if self._reply.stall_after_bytes == self.bytes_sent:
            await self._stall()
        if self._reply.cut_after_bytes == self.bytes_sent:
            raise HangUp

    async def _stall(self) -> None:
        if not self._may_stall:
            return
        self._may_stall = False  # once: the same byte is looked at twice
        if not await self._connection.stall():
            raise HangUp


def scripted_answer(reply: Reply, model: str) -> Answer:
    """The answer that a reply brings itself.

    Args:
        reply: with a body, or with an error status.
        model: what the events of a chat call themselves.
    """
    status = 200 if reply.status is None else reply.status
    if reply.events is not None:
        answer = stream_answer(_listed(reply, model))
    elif reply.body is not None:
        is_text = isinstance(reply.body, str)
        kind = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        if body.lstrip()[:1] == b"<":
            kind = "text/html; charset=utf-8"
        answer = Answer(200, (("content-type", kind),), body)
    elif reply.has_body:
        answer = json_answer(reply.json)
    else:
        answer = refusal_answer(status)
    return Answer(status, answer.headers, answer.body, answer.events)


async def _listed(reply: Reply, model: str) -> AsyncIterator[bytes]:
    identity = {"id": "chatcmpl-scripted", "created": 1_700_000_000, "model": model}
    for event in reply.event_list or ():
        yield event.encode(identity)
