"""Whether the kernels are used: only where they were built and the processor has what they need."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_infer.local import native
from hybrid_infer.local.native import wordpiece

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


@pytest.mark.parametrize("content", [None, b"not a library"], ids=["none", "foreign"])
def test_a_tokenizer_that_cannot_be_loaded_is_not_used(monkeypatch, tmp_path, content):
    file = tmp_path / "_wordpiece.so"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(wordpiece, "LIBRARY", file)
    assert wordpiece.library.__wrapped__() is None


def build(code, *arguments):
    script = f"import sys; sys.path.insert(0, 'scripts'); from build_native import *; {code}"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


def test_kernels_that_are_older_than_their_sources_are_not_used(
    monkeypatch, fresh, tmp_path, caplog
):
    if native.library() is None:
        pytest.skip("no kernels: no C compiler, or a processor without AMX")
    for file in native.LIBRARY.parent.glob("*"):
        if file.suffix in (".c", ".h", ".so"):
            shutil.copy(file, tmp_path)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "LIBRARY", tmp_path / native.LIBRARY.name)
    native.library.cache_clear()
    assert native.library() is not None
    (tmp_path / "tiles.h").write_text("/* changed */")
    native.library.cache_clear()
    assert native.library() is None
    assert "older than its sources" in caplog.text
    for file in tmp_path.glob("*.[ch]"):  # as where only the library is installed
        file.unlink()
    native.library.cache_clear()
    assert native.library() is not None


def test_a_tokenizer_that_is_older_than_its_source_is_not_used(monkeypatch, tmp_path, caplog):
    if wordpiece.library() is None:
        pytest.skip("no tokenizer of our own: no C compiler")
    for file in native.FOLDER.glob("*"):
        if file.suffix in (".c", ".h", ".so"):
            shutil.copy(file, tmp_path)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(wordpiece, "LIBRARY", tmp_path / wordpiece.LIBRARY.name)
    assert wordpiece.library.__wrapped__() is not None
    (tmp_path / "wordpiece.c").write_text("/* changed */")
    assert wordpiece.library.__wrapped__() is None
    assert "older than its sources" in caplog.text


@pytest.mark.parametrize(
    ("library", "names"), [("KERNELS", native.SOURCES), ("TOKENIZER", ("wordpiece.c",))]
)
def test_the_build_and_the_library_agree_on_what_sources_are(library, names):
    folder = ROOT / "hybrid_infer" / "local" / "native"
    names = [*names, *(file.name for file in folder.glob("*.h"))]
    content = b"".join((folder / name).read_bytes() for name in sorted(names))
    said = build(f"print(digest(Path(sys.argv[1]), {library}))", ROOT)
    assert said.strip() == hashlib.sha256(content).hexdigest()


def test_every_source_is_compiled_into_a_library():
    listed = build("print(*KERNELS.sources, *TOKENIZER.sources)").split()
    folder = ROOT / "hybrid_infer" / "local" / "native"
    assert sorted(listed) == sorted(file.name for file in folder.glob("*.c"))


@pytest.mark.parametrize(
    ("compiler", "said"), [("no-such-compiler", "there is no C compiler"), ("false", "false said")]
)
def test_a_build_without_a_working_compiler_says_so(monkeypatch, tmp_path, compiler, said):
    native_folder = tmp_path / "hybrid_infer" / "local" / "native"
    native_folder.mkdir(parents=True)
    (native_folder / "wordpiece.c").write_text("int one;")
    monkeypatch.setenv("CC", compiler)
    assert said in build("print(compiled(Path(sys.argv[1]), TOKENIZER))", tmp_path)
    assert [file.name for file in native_folder.iterdir()] == ["wordpiece.c"]


def test_kernels_that_cannot_be_compiled_leave_the_tokenizer(tmp_path):
    native_folder = tmp_path / "hybrid_infer" / "local" / "native"
    native_folder.mkdir(parents=True)
    for name in ("decoder.c", "encoder.c", "processor.c"):
        (native_folder / name).write_text("this is not C")
    (native_folder / "wordpiece.c").write_text("int one;")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    root = "Path(sys.argv[1])"
    build(f"print(compiled({root}, KERNELS), compiled({root}, TOKENIZER))", tmp_path)
    assert [file.name for file in native_folder.glob("*.so")] == ["_wordpiece.so"]


def test_a_compiler_that_is_no_program_is_named(monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"\x7fELF and nothing else")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert f"{compiler}: " in build("print(compiled(Path(sys.argv[1]), TOKENIZER))", tmp_path)


def test_a_blank_compiler_is_none_chosen(monkeypatch, tmp_path):
    said = []
    for compiler in (" ", ""):
        native_folder = tmp_path / repr(compiler) / "hybrid_infer" / "local" / "native"
        native_folder.mkdir(parents=True)
        (native_folder / "wordpiece.c").write_text("int one;")
        monkeypatch.setenv("CC", compiler)
        said.append(
            build("print(compiled(Path(sys.argv[1]), TOKENIZER))", tmp_path / repr(compiler))
        )
    assert said[0] == said[1]
