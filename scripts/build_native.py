"""Compile the C code of hybrid_infer/local/native when the package is built; a build without it is complete.

Hatchling calls this for wheels and for editable installs on Linux. Two libraries come of it. The
kernels need x86-64, and are used after the processor has been asked what it can do; without them torch
computes. The tokenizer runs on any processor; without it Hugging Face's does everything.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("hybrid_infer", "local", "native")
COMMON_FLAGS = ("-O3", "-fPIC", "-Wall", "-Wextra")


class Library(NamedTuple):  # no dataclass: hatchling's loader does not register this module
    """What is compiled into one file, and how."""

    name: str
    sources: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is put, from the project's root."""
        return SOURCES / self.name


# Linked without -fopenmp, so that no second OpenMP is loaded: torch's serves.
KERNELS = Library(
    "_kernels.so",
    ("decoder.c", "encoder.c", "processor.c"),
    ("-std=gnu11", "-march=sapphirerapids", "-fopenmp"),
)
TOKENIZER = Library("_wordpiece.so", ("wordpiece.c",), ("-std=c11",))


class NativeHook(BuildHookInterface[Any]):
    """Adds the compiled libraries to what is built, as far as they can be compiled here."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        """Compile before the files are collected."""
        if self.target_name != "wheel" or sys.platform != "linux":
            return
        for library in libraries():
            problem = compiled(Path(self.root), library)
            if problem:
                self.app.display_warning(f"built without {library.name}: {problem}")
                continue
            build_data["artifacts"].append(f"/{library.path.as_posix()}")
            build_data["pure_python"] = False
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"  # no part of Python is linked


def libraries() -> tuple[Library, ...]:
    """Those that this machine's processor may run."""
    return (KERNELS, TOKENIZER) if platform.machine() == "x86_64" else (TOKENIZER,)


def compiled(root: Path, library: Library) -> str:
    """Compile a library in place; what went wrong, or nothing."""
    (root / library.path).unlink(missing_ok=True)
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler ({compiler[0]})"
    objects = []
    try:
        for name in library.sources:
            source = root / SOURCES / name
            target = source.with_suffix(".o")
            objects.append(target)
            flags = (*COMMON_FLAGS, *library.flags, f'-DSOURCES="{digest(root, library)}"')
            run(*compiler, *flags, "-c", str(source), "-o", str(target))
        run(*compiler, "-shared", *map(str, objects), "-o", str(root / library.path))
    except OSError as error:  # no program after all, or no permission to run it or to write
        return f"{compiler[0]}: {error}"
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} said: {error.stderr.strip()[-500:]}"
    finally:
        for target in objects:
            target.unlink(missing_ok=True)
    return ""


def digest(root: Path, library: Library) -> str:
    """What a library's sources are; `hybrid_infer.local.native` knows by it one that is older than they."""
    names = [*library.sources, *(header.name for header in (root / SOURCES).glob("*.h"))]
    content = b"".join((root / SOURCES / name).read_bytes() for name in sorted(names))
    return hashlib.sha256(content).hexdigest()


def run(*command: str) -> None:
    """Run a command, and keep what it says."""
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":  # after a change of a source, without installing again
    root = Path(__file__).resolve().parent.parent
    sys.exit("\n".join(filter(None, (compiled(root, each) for each in libraries()))) or 0)
