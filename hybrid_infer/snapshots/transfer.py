"""Files fetched from the Hub side by side, each of which goes on where an earlier try stopped.

What has arrived of a file is in ``<file>.part``. Nothing of it is believed: who asked compares the
whole file with its hash.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx2

from hybrid_infer.errors import ModelIntegrityError

MAX_PARALLEL = 8
_GONE = 416  # the server has no such range: what is here is of another file


class OtherContentsError(ModelIntegrityError):
    """One file arrived with other bytes than the Hub lists."""

    @classmethod
    def of(cls, name: str) -> Self:
        """The error about a file, by the name that a user knows."""
        return cls(f"{name} arrived with other contents than the Hub lists; try again")


class _Stopped(Exception):
    """Another file failed, or the caller has gone."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file to fetch.

    Attributes:
        name: what messages call it.
        url: where from.
        size: how many bytes it must have.
        target: where to; it appears when it has them all.
    """

    name: str
    url: str
    size: int
    target: Path


def part_of(target: Path) -> Path:
    """Where an unfinished file is."""
    return target.with_name(f"{target.name}.part")


def fetch_all(
    transfers: Sequence[Transfer], headers: Mapping[str, str], *, name: str, progress: bool
) -> None:
    """Fetch files, several at once; what a failure leaves unfinished is gone on with by the next call.

    An interrupted caller does not wait for its threads: they end with their next bytes, and a file
    that one of them still holds is begun anew by whoever wants it next.

    Args:
        transfers: the files; the folders of their targets are there.
        headers: of every request.
        name: what the progress bar is called.
        progress: whether there is one.

    Raises:
        OtherContentsError: a file is longer or shorter than it must be.
        Exception: whatever huggingface_hub's client raised for one of them; see `hub.asked`.
    """
    left: SimpleQueue[Transfer] = SimpleQueue()
    for transfer in sorted(transfers, key=lambda transfer: transfer.size, reverse=True):
        left.put(transfer)
    ended: SimpleQueue[Exception | None] = SimpleQueue()
    stop = Event()
    with _total_bar(name, sum(transfer.size for transfer in transfers), progress) as bar:
        share = _share_of(bar, stop)
        for _ in range(min(MAX_PARALLEL, len(transfers))):
            work = (left, ended, stop, lambda transfer: _fetch(transfer, headers, share, stop))
            Thread(target=_work, args=work, name="hybrid-infer-fetch", daemon=True).start()
        try:
            for _ in transfers:
                error = ended.get()
                if error is not None:
                    raise error
        finally:
            stop.set()


def _work(
    left: SimpleQueue[Transfer],
    ended: SimpleQueue[Exception | None],
    stop: Event,
    fetch: Callable[[Transfer], None],
) -> None:
    while not stop.is_set():
        try:
            transfer = left.get_nowait()
        except Empty:
            return
        try:
            fetch(transfer)
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits for it
            ended.put(error)
        else:
            ended.put(None)


def _fetch(transfer: Transfer, headers: Mapping[str, str], bar_class: Any, stop: Event) -> None:
    from huggingface_hub.file_download import http_get

    part = part_of(transfer.target)
    with _opened(part) as file:
        here = file.tell()
        if here > transfer.size:
            file.seek(0)
            here = file.truncate()
        try:
            http_get(
                transfer.url,
                file,
                resume_size=here,
                headers=dict(headers),
                expected_size=transfer.size,
                tqdm_class=bar_class,
            )
            file.flush()
        except Exception as error:
            if not _may_go_on(error):
                part.unlink(missing_ok=True)
            if type(error) is OSError and error.errno is None:  # how it says that the size is wrong
                raise OtherContentsError.of(transfer.name) from None
            raise
        if stop.is_set():
            raise _Stopped
        part.replace(transfer.target)


def _may_go_on(error: Exception) -> bool:
    """Whether what is here is a beginning of the file, as far as anybody knows."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return int(error.response.status_code) != _GONE
    return isinstance(error, httpx2.TransportError | _Stopped)


def _opened(part: Path) -> BinaryIO:
    """An unfinished file, or a new one in its place if a thread of an interrupted call has it."""
    file = part.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        part.unlink(missing_ok=True)
        file = part.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _total_bar(name: str, total: int, progress: bool) -> AbstractContextManager[Any]:
    from huggingface_hub.utils.tqdm import tqdm

    visible: Any = tqdm
    is_hidden = None if progress else True  # None: unless there is a terminal
    bar: AbstractContextManager[Any] = visible(
        total=total, desc=name, unit="B", unit_scale=True, disable=is_hidden
    )
    return bar


def _share_of(bar: Any, stop: Event) -> type:
    """A class of bars, as huggingface_hub makes one a file, that all move the same one."""
    lock = Lock()

    class Share:
        def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
            self.update(initial)

        def update(self, count: float | None = 1) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                bar.update(count)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            pass

    return Share
