"""The one place where a pickle is read: a program of its own, started by `conversion.py` alone.

    python -I unpickling.py PICKLE SAFETENSORS

It knows nothing of this package, gets no environment, opens no network, may write one small file,
and ends after a minute of computing. torch's restricted unpickler (``weights_only=True``) builds
tensors and plain containers only.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

CPU_SECONDS = 60
MAX_FILE_BYTES = 512 * 1024 * 1024


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
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
    whole = {name: tensors[name].detach().contiguous().clone() for name in sorted(tensors)}
    save_file(whole, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
