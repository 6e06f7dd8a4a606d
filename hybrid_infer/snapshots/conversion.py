"""Tail modules that a repository has only as a pickle, made safetensors once, in a child process.

sentence-transformers kept its Dense layers in ``pytorch_model.bin`` for years. Such a file of a
few megabytes is the one pickle that `pull` fetches; its hash is the Hub's, and what is made of it
goes into models.lock. It is never loaded itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.snapshots import unpickling
from hybrid_infer.snapshots.digests import size_of
from hybrid_infer.snapshots.modules import modules_of
from hybrid_infer.snapshots.tensors import safetensors_header

MAX_PICKLE_BYTES = 64 * 1024 * 1024
TIMEOUT_SECONDS = 180.0
PICKLE, SAFE = "pytorch_model.bin", "model.safetensors"
_TAIL = re.compile(r"[0-9]+_[A-Za-z]+")


def pickled_tails(names: Iterable[str]) -> list[str]:
    """The folders of a repository that hold a tail module as a pickle and not as safetensors.

    Args:
        names: all files of the repository.
    """
    files = set(names)
    folders = {name.removesuffix(f"/{PICKLE}") for name in files if name.endswith(f"/{PICKLE}")}
    return sorted(
        folder for folder in folders if _TAIL.fullmatch(folder) and f"{folder}/{SAFE}" not in files
    )


def is_dense(snapshot: Path, folder: str) -> bool:
    """Whether modules.json says that a folder is a Dense layer: nothing else is converted.

    Raises:
        ModelIntegrityError: modules.json is damaged.
    """
    return ("Dense", folder) in modules_of(snapshot)


def convert_small(source: Path, target: Path, name: str = PICKLE) -> None:
    """`convert`, of a file that is no larger than a Dense layer may be.

    Raises:
        ModelIntegrityError: it is larger, or as `convert`.
        LocalEngineError: as `convert`.
    """
    if size_of(source) > MAX_PICKLE_BYTES:
        raise ModelIntegrityError(f"{name} is too large for a Dense layer")
    convert(source, target, name)


def convert(source: Path, target: Path, name: str = PICKLE) -> None:
    """Make `target` of the tensors in `source`; it appears whole or not at all.

    Args:
        source: a pickle, already known to be the one that the Hub lists.
        target: the safetensors file; the same pickle gives the same bytes.
        name: what messages call the pickle.

    Raises:
        ModelIntegrityError: the pickle holds anything but tensors.
        LocalEngineError: the disk refused, or the child process did not end.
    """
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    # As -I, but that the user's own site-packages may be where torch is.
    command = [sys.executable, "-E", "-P", str(Path(unpickling.__file__)), str(source), str(draft)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lifeline() as lifeline:
            done = subprocess.run(  # noqa: S603 - this interpreter, our own file, no shell
                command,
                env={"PATH": "/usr/bin:/bin"},
                stdin=lifeline,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise ModelIntegrityError(f"{name} could not be converted: {_last_line(done.stderr)}")
        safetensors_header(draft)
        draft.replace(target)
    except subprocess.TimeoutExpired:
        raise LocalEngineError(f"{name} was not converted within {TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise LocalEngineError(f"{target} could not be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _lifeline() -> Iterator[int]:
    """The end of a pipe that is read until this process is no more: the child then ends, too."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "the child process was ended"
