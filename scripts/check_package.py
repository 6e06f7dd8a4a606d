"""Build the wheel and try it away from the sources: metadata, contents, and that it loads."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "hybrid_infer/models.yaml",
    "hybrid_infer/py.typed",
    "hybrid_infer/__init__.py",
    "hybrid_infer/snapshots/models.lock",
)
TRIAL = """
import pathlib, hybrid_infer
from hybrid_infer.registry import load_registry
registry = load_registry()
small = registry.resolve("embeddings", "small")
from hybrid_infer.snapshots.goldens import load_goldens
assert load_goldens(small).vectors.shape[1] == small.dim == 384
print(pathlib.Path(hybrid_infer.__file__).parent)
"""


def run(*command: str, **options: object) -> str:
    """Run a command; its output, or this script's end with it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]  # options are subprocess's own
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} … failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def main() -> None:
    """Build, inspect, install and try."""
    with tempfile.TemporaryDirectory() as scratch:
        dist, target = Path(scratch, "dist"), Path(scratch, "site")
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), cwd=ROOT)
        built = [str(path) for path in sorted(dist.iterdir())]
        run(sys.executable, "-m", "twine", "check", "--strict", *built)
        (wheel,) = dist.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        missing = [name for name in NEEDED if name not in names]
        # A .pth file would run code in every program of the environment.
        foreign = [
            name
            for name in names
            if not name.startswith(("hybrid_infer/", "hybrid_infer-")) or name.endswith(".pth")
        ]
        if missing or foreign:
            sys.exit(f"the wheel lacks {missing} and should not have {foreign}")
        run(
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
            "--target", str(target), str(wheel),
        )  # fmt: skip
        loaded = run(
            sys.executable, "-c", TRIAL, cwd=scratch, env={**os.environ, "PYTHONPATH": str(target)}
        ).strip()
        if not loaded.startswith(str(target)):
            sys.exit(f"the trial loaded {loaded}, not the installed wheel")
    print("package: wheel and sdist are in order, and the wheel works away from its sources")


if __name__ == "__main__":
    main()
