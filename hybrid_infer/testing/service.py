"""The server itself, on its event loop: listens, answers connection by connection, goes down."""

from __future__ import annotations

import asyncio
import socket

from hybrid_infer.errors import ConfigError
from hybrid_infer.testing.answered import Answer, failure, json_answer
from hybrid_infer.testing.connection import Connection, WatchedReader
from hybrid_infer.testing.delivery import Delivery, HangUp, scripted_answer
from hybrid_infer.testing.ledger import Ledger
from hybrid_infer.testing.routes import Healthy, healthy_answer
from hybrid_infer.testing.scenario import Reply
from hybrid_infer.testing.script import Script, asked
from hybrid_infer.testing.wire import Arrival, BadRequestError, head_bytes, read_request

HOST = "127.0.0.1"  # never another: what is answered here must not leave the machine
BACKLOG = 128


def reserved(port: int) -> socket.socket:
    """A socket that has `port`, and refuses connections until it listens.

    Raises:
        ConfigError: the port is taken, or not allowed.
    """
    # Named, the protocol makes asyncio switch Nagle's algorithm off, which costs 40 ms an answer.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) else "ports go from 0 to 65535"
        raise ConfigError(f"cannot listen on port {port} of {HOST}: {reason}") from None
    return bound


class Service:
    """Serves on one port; every method runs on the event loop.

    Args:
        bound: the port's socket; it is closed with the service.
        script: which reply a request gets.
        ledger: where requests are recorded.
        healthy: what healthy answers are made from.
    """

    def __init__(
        self, bound: socket.socket, script: Script, ledger: Ledger, healthy: Healthy
    ) -> None:
        self._port: int = bound.getsockname()[1]
        self._reserve: socket.socket | None = bound
        self._server: asyncio.Server | None = None
        self._script, self._ledger, self._healthy = script, ledger, healthy
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._num_connections = 0
        self._released_number = -1
        self._return: asyncio.Task[None] | None = None

    async def come_back(self) -> None:
        """Listen, if it does not."""
        if self._reserve is None:
            return
        bound, self._reserve = self._reserve, None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=bound, backlog=BACKLOG)

    async def go_down(self) -> None:
        """Refuse connections and drop those that are open; keeps the port for `come_back`."""
        await self._stop_return()
        if self._server is not None:
            self._server.close()
            self._server = None
            self._reserve = reserved(self._port)
        await self._drop(list(self._tasks))

    async def drop_answering(self) -> None:
        """Drop the connections on which an answer has not ended."""
        await self._drop([task for task, one in self._tasks.items() if one.is_answering])

    async def release(self) -> None:
        """Let the answers go on that are stalled, or will stall for a request already received."""
        self._released_number = self._ledger.last_number
        for connection in self._tasks.values():
            connection.resume()

    async def close(self) -> None:
        """Drop everything and give the port up."""
        await self._stop_return()
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        await self._drop(list(self._tasks))

    async def _drop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop_return(self) -> None:
        waiting, self._return = self._return, None
        if waiting is not None and waiting is not asyncio.current_task():
            await self._drop([waiting])

    async def _nap(self, seconds: float) -> None:
        """Be down for a while; runs apart from the connections, which it drops."""
        await self.go_down()
        await asyncio.sleep(seconds)
        await self.come_back()

    # Connections -----------------------------------------------------------------------------

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(WatchedReader(loop), self._accepted, loop=loop)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not isinstance(reader, WatchedReader):
            writer.transport.abort()  # accepted in the moment of going down
            return
        self._num_connections += 1
        connection = Connection(self._num_connections, reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks[task] = connection
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, connection: Connection) -> None:
        try:
            while arrival := await self._arrival(connection):
                connection.is_answering = True
                await self._exchange(connection, arrival)
                connection.is_answering = False
        except (ConnectionError, HangUp):
            pass  # the client went, or the reply says so: both end the connection
        finally:
            await connection.close()

    async def _arrival(self, connection: Connection) -> Arrival | None:
        try:
            return await read_request(connection.reader, connection.id, connection.send_soon)
        except BadRequestError as error:
            answer = json_answer({"error": str(error)}, error.status)
            framing = [("content-length", str(len(answer.body))), ("connection", "close")]
            head = head_bytes(answer.status, [*answer.headers, *framing])
            await connection.send(head + answer.body)
            return None

    async def _exchange(self, connection: Connection, arrival: Arrival) -> None:
        request = arrival.request
        number = self._ledger.add(request)
        delivery = Delivery(connection)
        try:
            reply, answer = await self._decide(arrival)
            connection.resets = reply.reset
            may_stall = number > self._released_number
            if reply.down_seconds is not None:
                await self._stop_return()
                loop = asyncio.get_running_loop()
                self._return = loop.create_task(self._nap(reply.down_seconds))
                raise HangUp
            if reply.disconnect:
                raise HangUp
            if reply.raw is not None:
                await delivery.send_raw(reply, reply.raw, may_stall=may_stall)
            try:
                self._ledger.answer(number, answer.status)
                await delivery.send_answer(reply, answer, arrival, may_stall=may_stall)
            finally:
                answer.abandon()
            connection.resets = False
        finally:
            self._ledger.finish(number, delivery.bytes_sent)

    async def _decide(self, arrival: Arrival) -> tuple[Reply, Answer]:
        """The reply to a request, and the answer that it bends."""
        request = arrival.request
        try:
            taken = self._script.take(request)
            if taken is not None and not isinstance(taken, Reply):
                taken = await self._healthy.workers.run(asked, taken, request)
            reply = Reply() if taken is None else taken
            if reply.disconnect or reply.down_seconds is not None or reply.raw is not None:
                return reply, Answer()
            if not reply.is_healthy:
                return reply, scripted_answer(reply, request.model or "")
            return reply, await healthy_answer(request, self._healthy)
        except Exception as error:  # noqa: BLE001 - the server must survive any answers and responder
            return Reply(), json_answer({"error": failure(error)}, 500)
