"""Whether the kernels are used: only where they were built and the processor has what they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_infer.local import native

ROOT = Path(__file__).parents[4]


@pytest.fixture
def fresh():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def test_a_processor_without_tiles_has_none(monkeypatch, fresh):
    for missing in native.NEEDED_FLAGS:
        monkeypatch.setattr(native, "cpu_flags", lambda gone=missing: native.NEEDED_FLAGS - {gone})
        native.library.cache_clear()
        assert native.library() is None


@pytest.mark.parametrize("content", [None, b"", b"not a library"], ids=["none", "empty", "foreign"])
def test_a_library_that_cannot_be_loaded_is_not_used(monkeypatch, fresh, tmp_path, content):
    file = tmp_path / "_kernels.so"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(native, "cpu_flags", lambda: native.NEEDED_FLAGS)
    monkeypatch.setattr(native, "LIBRARY", file)
    assert native.library() is None


def build(folder, compiler):
    """What a build with this compiler says, and the files that are there behind it."""
    script = (
        "import sys; sys.path.insert(0, 'scripts'); from pathlib import Path; "
        "from build_native import compiled; print(compiled(Path(sys.argv[1])))"
    )
    native_folder = folder / "hybrid_infer" / "local" / "native"
    native_folder.mkdir(parents=True)
    (native_folder / "one.c").write_text("int one;")
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "CC": compiler},
    )
    return done.stdout, [file.name for file in native_folder.iterdir()]


@pytest.mark.parametrize(
    ("compiler", "said"), [("no-such-compiler", "there is no C compiler"), ("false", "false said")]
)
def test_a_build_without_a_working_compiler_says_so(tmp_path, compiler, said):
    output, files = build(tmp_path, compiler)
    assert said in output
    assert files == ["one.c"]


def test_a_compiler_that_is_no_program_is_named(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"\x7fELF and nothing else")
    compiler.chmod(0o755)
    output, files = build(tmp_path, str(compiler))
    assert f"{compiler}: " in output
    assert files == ["one.c"]


def test_a_blank_compiler_is_none_chosen(tmp_path):
    assert build(tmp_path, " ")[0] == build(tmp_path / "again", "")[0]
