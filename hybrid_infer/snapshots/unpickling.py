"""The one place where a pickle is read: a program of its own, started by `conversion.py` alone.

    python -E -P unpickling.py PICKLE SAFETENSORS

It knows nothing of this package, gets no environment, opens no network, may write one small file
and hold a few gigabytes, and ends after a minute of computing, or with the process that started it,
which holds the other end of its standard input. torch's restricted unpickler
(``weights_only=True``) builds tensors and plain containers only.
"""

from __future__ import annotations

import os
import resource
import sys
import zipfile
from collections.abc import Mapping
from threading import Thread

CPU_SECONDS = 60
# Of the tensors, too: a view may be larger than what it is stored in.
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_DATA_BYTES = 4 * 1024 * 1024 * 1024


def main(source: str, target: str) -> None:
    """Write the tensors of a pickle as safetensors.

    Args:
        source: the pickle, ``pytorch_model.bin``.
        target: the file to write.

    Raises:
        SystemExit: it holds something else than named tensors.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check_archive(source)
    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - any byte may be in it; the parent has one sentence
        sys.exit(f"torch refuses it ({type(error).__name__})")
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in tensors.items()
    ):
        sys.exit("it holds something else than named tensors")
    if any(tensor.layout != torch.strided for tensor in tensors.values()):
        sys.exit("it holds something else than dense tensors")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > MAX_FILE_BYTES:
        sys.exit("its tensors are too large for a Dense layer")
    whole = {name: tensors[name].detach().contiguous().clone() for name in sorted(tensors)}
    save_file(whole, target)


def _check_archive(source: str) -> None:
    """Refuse a file of torch's own kind, a zip archive, that becomes larger than it may."""
    if not zipfile.is_zipfile(source):
        return  # a bare pickle has its tensors in itself
    try:
        with zipfile.ZipFile(source) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"its archive is damaged ({type(error).__name__})")
    if size > MAX_FILE_BYTES:
        sys.exit("what its archive unpacks to is too large for a Dense layer")


def _end_with_parent() -> None:
    """Wait for the end of standard input, where nothing is ever written."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    Thread(target=_end_with_parent, daemon=True).start()
    main(*sys.argv[1:])
