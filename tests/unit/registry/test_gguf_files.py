from pathlib import Path

import pytest

from hybrid_infer.datatypes.models import GgufFile
from hybrid_infer.errors import ConfigError
from hybrid_infer.registry import load_registry
from hybrid_infer.registry.gguf_files import gguf_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load(entry):
    return load_registry({"chat": {"mine": {"repo": "org/model", **entry}}}, environ={})


def test_a_bare_name_is_a_file_of_the_aliass_own_repository():
    spec = load({"gguf": "q4.gguf", "revision": COMMIT}).resolve("chat", "mine")
    assert spec.gguf == GgufFile("q4.gguf", "org/model", COMMIT)
    assert load({"gguf": "sub/Q4.GGUF"}).resolve("chat", "mine").gguf == GgufFile(
        "sub/Q4.GGUF", "org/model", None
    )


def test_a_file_of_another_repository_with_and_without_its_commit():
    pinned = gguf_file(f"hf://other/weights-GGUF@{COMMIT.upper()}/sub/q4.gguf", revision="ignored")
    assert pinned == GgufFile("sub/q4.gguf", "other/weights-GGUF", COMMIT)
    assert gguf_file("hf://other/weights/q4.gguf") == GgufFile("q4.gguf", "other/weights", None)


def test_a_path_begins_at_the_yaml_file(tmp_path, monkeypatch):
    yaml = tmp_path / "conf" / "models.yaml"
    yaml.parent.mkdir()
    yaml.write_text(
        "chat:\n"
        "  mine: {repo: org/model, gguf: ./q4.gguf}\n"
        "  up: {repo: org/model, gguf: ../q4.gguf}\n"
    )
    registry = load_registry(yaml, environ={})
    assert registry.resolve("chat", "mine").gguf == GgufFile(str(tmp_path / "conf" / "q4.gguf"))
    assert registry.resolve("chat", "up").gguf == GgufFile(str(tmp_path / "q4.gguf"))
    monkeypatch.chdir(tmp_path)
    relative = load_registry("conf/models.yaml", environ={}).resolve("chat", "mine")
    assert relative.gguf == GgufFile(str(tmp_path / "conf" / "q4.gguf"))
    assert load({"gguf": "./q4.gguf"}).resolve("chat", "mine").gguf == GgufFile(
        str(tmp_path / "q4.gguf")
    )
    assert gguf_file("~/q4.gguf") == GgufFile(str(Path.home() / "q4.gguf"))
    assert gguf_file("/opt/x/../q4.gguf") == GgufFile("/opt/q4.gguf")


def test_null_takes_it_away_and_another_repo_drops_it():
    assert load({"gguf": None}).resolve("chat", "mine").gguf is None
    assert load_registry(environ={}).resolve("chat", "small").gguf is None


def test_the_tiny_profile_has_no_files():
    entry = {"chat": {"small": {"gguf": "/q4.gguf"}}}
    assert load_registry(entry, environ={}).resolve("chat", "small").gguf is not None
    tiny = load_registry(entry, profile="tiny", environ={}).resolve("chat", "small")
    assert tiny.gguf is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "q4.bin",
        "a/../q4.gguf",
        "a//q4.gguf",
        "a\\q4.gguf",
        "line\nbreak.gguf",
        "hf://org/q4.gguf",
        "hf://org/model@main/q4.gguf",
        "hf://org/model@/q4.gguf",
        "hf://chat/model/q4.gguf",
        "hf://org/model/../q4.gguf",
        "x" * 1024 + ".gguf",
    ],
)
def test_anything_else_is_an_error_that_names_the_key(text):
    with pytest.raises(ConfigError, match=r"chat\.mine\.gguf (must|names)"):
        load({"gguf": text})


def test_embeddings_have_none():
    with pytest.raises(ConfigError, match="unknown key 'gguf'"):
        load_registry({"embeddings": {"small": {"gguf": "/q4.gguf"}}}, environ={})
