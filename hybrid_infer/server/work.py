"""Work on behalf of a client that may leave at any moment: it then stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from hybrid_infer.server.bodies import GoneError


@asynccontextmanager
async def until_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside as soon as the client has left.

    Args:
        receive: of the request, whose body has been read.

    Raises:
        GoneError: the client has left.
    """
    worker = asyncio.current_task()
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = True
        if worker is not None:
            worker.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not has_left or worker is None or worker.uncancel():
            raise  # somebody else wants the work to end, too
        raise GoneError from None
    finally:
        watcher.cancel()
