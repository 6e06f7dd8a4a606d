"""Where files live, as the environment says at the moment of the question."""

from pathlib import Path

import pytest

from hybrid_infer.errors import ConfigError
from hybrid_infer.snapshots.folders import cache_root, hub_cache_dir, offline_variable


def test_the_hubs_own_order_of_variables(tmp_path):
    environ = {
        "HF_HUB_CACHE": str(tmp_path / "1"),
        "HUGGINGFACE_HUB_CACHE": str(tmp_path / "2"),
        "HF_HOME": str(tmp_path / "3"),
        "XDG_CACHE_HOME": str(tmp_path / "4"),
    }
    expected = [tmp_path / "1", tmp_path / "2", tmp_path / "3/hub", tmp_path / "4/huggingface/hub"]
    for variable, folder in zip(list(environ), expected, strict=True):
        assert hub_cache_dir(environ) == folder
        del environ[variable]
    assert hub_cache_dir(environ) == Path.home() / ".cache" / "huggingface" / "hub"


def test_names_are_expanded_as_the_hub_expands_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_ROOT", str(tmp_path))
    assert hub_cache_dir({"HF_HOME": "$SOME_ROOT/x"}) == tmp_path / "x" / "hub"
    assert hub_cache_dir({"HF_HUB_CACHE": "~/x"}) == Path.home() / "x"
    assert hub_cache_dir({"HF_HUB_CACHE": "~nosuchuser/x"}) == Path.cwd() / "~nosuchuser" / "x"


def test_the_environment_is_read_at_every_call(tmp_path, monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / name))
        assert hub_cache_dir() == tmp_path / name


def test_this_librarys_own_folder(tmp_path):
    assert cache_root({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "hybrid_infer"
    assert cache_root({"HYBRID_INFER_CACHE_DIR": str(tmp_path / "own")}) == tmp_path / "own"
    assert cache_root({"HYBRID_INFER_CACHE_DIR": ""}) == cache_root({})


@pytest.mark.parametrize("value", ["{file}", "{file}/below", "~nosuchuser/x", "  ", "{broken}"])
def test_a_malformed_folder_names_its_variable(tmp_path, value):
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to("nowhere")
    value = value.format(file=tmp_path / "file", broken=tmp_path / "broken")
    with pytest.raises(ConfigError, match="HYBRID_INFER_CACHE_DIR must name a folder"):
        cache_root({"HYBRID_INFER_CACHE_DIR": value})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "On"}, "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "true", "TRANSFORMERS_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "off"}, None),
        ({"HF_HUB_OFFLINE": "2"}, None),
        ({"HF_HUB_OFFLINE": ""}, None),
    ],
)
def test_offline_variables(environ, expected):
    assert offline_variable(environ) == expected
