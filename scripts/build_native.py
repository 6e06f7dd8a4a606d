"""Compile the kernels of hybrid_infer/local/native when the package is built; a build without them is complete.

Hatchling calls this for wheels and for editable installs. The kernels are used on Linux with x86-64 only,
after the processor has been asked what it can do; everywhere else, and without a C compiler, torch computes.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("hybrid_infer", "local", "native")
LIBRARY = SOURCES / "_kernels.so"
FLAGS = ("-std=gnu11", "-O3", "-march=sapphirerapids", "-fPIC", "-fopenmp", "-Wall", "-Wextra")


class KernelsHook(BuildHookInterface[Any]):
    """Adds the compiled kernels to what is built, if they can be compiled here."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        """Compile before the files are collected."""
        if self.target_name != "wheel" or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        problem = compiled(Path(self.root))
        if problem:
            self.app.display_warning(f"built without native kernels: {problem}")
            return
        build_data["artifacts"].append(f"/{LIBRARY.as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"  # no part of Python is linked


def compiled(root: Path) -> str:
    """Compile the library in place; what went wrong, or nothing."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler ({compiler[0]})"
    library = root / LIBRARY
    library.unlink(missing_ok=True)
    objects = []
    try:
        for source in sorted((root / SOURCES).glob("*.c")):
            target = source.with_suffix(".o")
            objects.append(target)
            run(*compiler, *FLAGS, "-c", str(source), "-o", str(target))
        # Without -fopenmp here, so that no second OpenMP is loaded: torch's serves.
        run(*compiler, "-shared", *map(str, objects), "-o", str(library))
    except OSError as error:  # no program after all, or no permission to run it or to write
        return f"{compiler[0]}: {error}"
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} said: {error.stderr.strip()[-500:]}"
    finally:
        for target in objects:
            target.unlink(missing_ok=True)
    return ""


def run(*command: str) -> None:
    """Run a command, and keep what it says."""
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":  # after a change of a source, without installing again
    sys.exit(compiled(Path(__file__).resolve().parent.parent) or 0)
