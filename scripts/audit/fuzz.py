"""Coverage-guided fuzzing of everything that reads a stranger's bytes: python scripts/audit/fuzz.py.

    fuzz.py --seconds 60             every target for so long each, one after the other
    fuzz.py --seconds 60 sse lock    only these
    fuzz.py --one sse [libFuzzer's own arguments]    one target in this process

A target may end with its own typed error and with nothing else; anything more is a crash. The last
line counts executions and crashes. Seeds are in scripts/audit/corpus; what is found on the way is
thrown away, but for crashes, which stay under the name that is printed. Needs atheris
(Google's, over libFuzzer).
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
_RUNS = re.compile(r"Done (\d+) runs in (\d+) second")
Target = Callable[[bytes], None]


def sse() -> Target:
    """The parser of event streams, fed in two pieces."""
    from hybrid_infer.remote.sse import SseDecoder

    def run(data: bytes) -> None:
        decoder, whole = SseDecoder(4096), SseDecoder(4096)
        cut = data[0] if data else 0
        try:
            pieces = decoder.feed(data[:cut]) + decoder.feed(data[cut:])
            together = whole.feed(data)
        except ValueError:
            return
        if pieces != together:
            raise AssertionError("a cut changes the events")

    return run


def header_times() -> Target:
    """How long a refusal asks to wait."""
    from hybrid_infer.remote.rate_limits import rate_limit_state
    from hybrid_infer.remote.waits import wait_seconds

    def run(data: bytes) -> None:
        value, _, date = data.partition(b"\n")
        headers = [
            (b"retry-after", value),
            (b"date", date),
            (b"ratelimit", value),
            (b"ratelimit-policy", date),
            (b"x-ratelimit-reset-requests", value),
        ]
        wait = wait_seconds(headers)
        if wait is not None and not 0 <= wait <= 3600:  # noqa: PLR2004 - the cap
            raise AssertionError(wait)
        rate_limit_state(headers)

    return run


def models_yaml() -> Target:
    """A models.yaml, to the whole of its checks."""
    from hybrid_infer.errors import ConfigError
    from hybrid_infer.registry.schema import validated_file
    from hybrid_infer.registry.yaml_source import parse_yaml

    def run(data: bytes) -> None:
        try:
            validated_file(parse_yaml("it", data))
        except ConfigError:
            return

    return run


def _of_file(read: Callable[[Path], object], name: str) -> Target:
    from hybrid_infer.errors import ModelIntegrityError

    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 - memory, not disk
    path = Path(tempfile.mkdtemp(dir=folder)) / name

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except ModelIntegrityError:
            return

    return run


def safetensors() -> Target:
    """The reader of safetensors headers."""
    from hybrid_infer.snapshots.tensors import safetensors_header

    return _of_file(safetensors_header, "x.safetensors")


def gguf() -> Target:
    """The reader of GGUF headers."""
    from hybrid_infer.snapshots.gguf_header import gguf_header

    return _of_file(gguf_header, "x.gguf")


def lock() -> Target:
    """models.lock; what is read is written and read again."""
    from hybrid_infer.errors import ModelIntegrityError
    from hybrid_infer.snapshots.lock import format_lock, parse_lock

    def run(data: bytes) -> None:
        try:
            locked = parse_lock(data, "it")
        except ModelIntegrityError:
            return
        if parse_lock(format_lock(locked).encode(), "it") != locked:
            raise AssertionError("it reads otherwise than it was written")

    return run


def bundle() -> Target:
    """The texts at the beginning of a bundle, and every member behind them."""
    from hybrid_infer.errors import ModelIntegrityError
    from hybrid_infer.snapshots.archive import ArchiveReader
    from hybrid_infer.snapshots.bundles import members_of, read_bundle

    def run(data: bytes) -> None:
        reader = ArchiveReader(io.BytesIO(data))
        try:
            read = read_bundle(reader)
            for name, wanted, _ in members_of(read.locked):
                reader.member(name, wanted.size, lambda _: None)
            reader.end()
        except ModelIntegrityError:
            return

    return run


def packed() -> Target:
    """What zstd unpacks of a bundle, as far as its bounds let it."""
    from hybrid_infer.errors import ModelIntegrityError
    from hybrid_infer.snapshots.compression import unpacked

    def run(data: bytes) -> None:
        source = unpacked(io.BytesIO(data))
        try:
            while source.read(65536):
                pass
        except ModelIntegrityError:
            return

    return run


def bodies() -> Target:
    """Bodies of the server's routes, to the whole of their checks."""
    import orjson

    from hybrid_infer.errors import InvalidRequestError
    from hybrid_infer.server.bodies import check_depth, parsed
    from hybrid_infer.server.errors import RefusedError
    from hybrid_infer.server.schemas import ChatBody, EmbeddingsBody

    def run(data: bytes) -> None:
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if not isinstance(document, dict):
            return
        for kind in (ChatBody, EmbeddingsBody):
            try:
                check_depth(document, 16)
                parsed(document, kind)
            except (InvalidRequestError, RefusedError):
                continue

    return run


def replies() -> Target:
    """Answers of remotes: chat documents, chunks, vectors and refusals."""
    from hybrid_infer.datatypes.models import ModelSpec
    from hybrid_infer.datatypes.requests import EmbedRequest
    from hybrid_infer.errors import HybridInferError
    from hybrid_infer.remote.completions import chat_part, chat_reply
    from hybrid_infer.remote.responses import Asked, parsed, refusal
    from hybrid_infer.remote.vectors import checked_vectors

    spec = ModelSpec("chat", "small", "org/model", None)
    asked = Asked("host", "org/model")
    request = EmbedRequest(spec, ("one", "two"), normalize=True, truncate=True)

    def run(data: bytes) -> None:
        refusal(400 + (len(data) % 200), [], data, asked)
        is_json, document = parsed(data)
        if not is_json:
            return
        tries: list[Callable[[], object]] = [
            lambda: chat_reply(document, spec, "org/model", asked),
            lambda: checked_vectors(document, request, 0.02, asked),
        ]
        if isinstance(document, dict):
            tries.append(lambda: chat_part(document, asked))
        for attempt in tries:
            try:
                attempt()
            except HybridInferError:
                continue

    return run


TARGETS: dict[str, Callable[[], Target]] = {
    "sse": sse,
    "header_times": header_times,
    "models_yaml": models_yaml,
    "safetensors": safetensors,
    "gguf": gguf,
    "lock": lock,
    "bundle": bundle,
    "packed": packed,
    "bodies": bodies,
    "replies": replies,
}


def run_one(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer never returns."""
    import atheris

    with atheris.instrument_imports(include=["hybrid_infer"]):
        target = TARGETS[name]()
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


def run_all(names: list[str], seconds: int) -> int:
    """Fuzz targets in processes of their own; the number of those that crashed."""
    executions = crashes = 0
    for name in names:
        with tempfile.TemporaryDirectory() as found:
            crash = Path(tempfile.gettempdir()) / f"crash-{name}-"
            command = [
                *(sys.executable, __file__, "--one", name, found, str(CORPUS / name)),
                *(f"-max_total_time={seconds}", "-max_len=65536", "-timeout=10"),
                *("-rss_limit_mb=4096", f"-artifact_prefix={crash}"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        counted = _RUNS.search(done.stderr)
        runs = int(counted.group(1)) if counted else 0
        executions += runs
        crashes += done.returncode != 0
        print(f"{name}: {runs:,} executions, {'CRASHED' if done.returncode else 'no crash'}")
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-3000:], sep="\n")
    print(f"fuzzing: targets={len(names)} executions={executions:,} crashes={crashes}")
    return crashes


def main() -> int:
    """Fuzz; returns how many targets crashed."""
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    return run_all(arguments.targets or list(TARGETS), arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
