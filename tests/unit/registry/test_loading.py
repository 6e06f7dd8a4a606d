from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry import Registry, load_registry
from hybrid_infer.registry.loading import packaged_file

TABLE = {
    "chat/default": ("meta-llama/Meta-Llama-3-8B-Instruct", "8afb486c1db24fe5011ec46dfbe5b5dccdb575c2"),
    "chat/large": ("meta-llama/Meta-Llama-3-8B-Instruct", "8afb486c1db24fe5011ec46dfbe5b5dccdb575c2"),
    "chat/agent": ("meta-llama/Meta-Llama-3-8B-Instruct", "8afb486c1db24fe5011ec46dfbe5b5dccdb575c2"),
    "chat/small": ("microsoft/Phi-3-mini-4k-instruct", "0a67737cc96d2554230f90338b163bc6380a2a85"),
    "embeddings/default": ("sentence-transformers/all-mpnet-base-v2", "9a3225965996d404b775526de6dbfe85d3368642"),
    "embeddings/large": ("sentence-transformers/sentence-t5-large", "1fc08ea477205aa54a3e5b13f0971ae16b86410a"),
    "embeddings/small": ("sentence-transformers/all-MiniLM-L6-v2", "8b3219a92973c328a8e22fadcfa821b5dc75636a"),
}  # fmt: skip


def test_the_packaged_file_says_what_the_table_says(packaged):
    assert {spec.name: (spec.repo, spec.revision) for spec in packaged.models} == TABLE


def test_limits_and_defaults(packaged):
    llama, phi = packaged.resolve("chat", "default"), packaged.resolve("chat", "small")
    assert (llama.context_length, phi.context_length) == (8192, 4096)
    assert (llama.gated, phi.gated) == (True, False)
    assert (llama.generation.max_tokens, phi.generation.max_tokens) == (1024, 1024)
    assert (llama.generation.temperature, llama.generation.top_p) == (0.6, 0.9)
    assert (phi.generation.temperature, phi.generation.top_p) == (0, None)
    shapes = {
        spec.alias: (spec.dim, spec.max_seq_length, spec.pooling, spec.dense, spec.forbidden_dtypes)
        for spec in packaged.models
        if spec.task == "embeddings"
    }
    assert shapes == {
        "default": (768, 384, "mean", False, ()),
        "large": (768, 256, "mean", True, ("float16",)),
        "small": (384, 256, "mean", False, ()),
    }


def test_the_only_packaged_remote_is_hugging_face(packaged):
    (remote,) = packaged.remotes
    assert (remote.name, remote.dialect) == ("huggingface", "hf-router")
    assert remote.base_url == "https://router.huggingface.co"


def test_the_file_in_the_package_comes_before_the_checkouts(tmp_path):
    package, checkout = tmp_path / "package", tmp_path / "checkout"
    package.mkdir()
    checkout.mkdir()
    with pytest.raises(ConfigError, match="reinstall"):
        packaged_file(package, checkout)
    beside = checkout / "models.yaml"
    beside.write_text("")
    with pytest.raises(ConfigError, match="reinstall"):  # some other models.yaml in site-packages
        packaged_file(package, checkout)
    (checkout / "pyproject.toml").write_text("")
    assert packaged_file(package, checkout) == beside
    inside = package / "models.yaml"
    inside.write_text("")
    assert packaged_file(package, checkout) == inside


def test_the_packaged_file_is_found_wherever_the_program_runs(packaged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_registry(environ={}) == packaged


def test_a_path_a_variable_and_a_mapping_mean_the_same(write):
    path = write("embeddings: {small: {prompt: 'q '}}\n")
    by_mapping = load_registry({"embeddings": {"small": {"prompt": "q "}}}, environ={})
    variable = {"HYBRID_INFER_MODELS": str(path)}
    assert load_registry(path, environ={}) == by_mapping
    assert load_registry(str(path), environ={}) == by_mapping
    assert load_registry(environ=variable) == by_mapping
    assert load_registry({}, environ=variable) != by_mapping  # an argument wins


def test_a_users_copy_of_the_packaged_file_changes_nothing(packaged):
    assert load_registry(Path(__file__).parents[3] / "models.yaml", environ={}) == packaged


@pytest.mark.parametrize("path", ["missing.yaml", "", ".", "a\0b", "/dev/zero", "x" * 5000])
def test_a_file_that_cannot_be_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^models: "):
        load_registry(path, environ={})
    if path:
        with pytest.raises(ConfigError, match=r"^HYBRID_INFER_MODELS: "):
            load_registry(environ={"HYBRID_INFER_MODELS": path})


def test_a_pipe_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a file"):
        load_registry(tmp_path / "pipe", environ={})


def test_permission_denied_is_told(write, monkeypatch):
    path = write("{}")

    def denied(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hybrid_infer.registry.loading.open", denied, raising=False)
    with pytest.raises(ConfigError, match=r"cannot read .*: Permission denied"):
        load_registry(path, environ={})


@pytest.mark.parametrize("models", [3, b"x.yaml", ["x"], object()])
def test_models_of_another_type(models):
    with pytest.raises(ConfigError, match=r"^models must be a path or a mapping, not "):
        load_registry(models, environ={})


def test_base_url_replaces_the_huggingface_remote():
    registry = load_registry(base_url="http://127.0.0.1:9/hf/", environ={})
    assert [remote.base_url for remote in registry.remotes] == ["http://127.0.0.1:9/hf"]
    box = {"name": "box", "dialect": "tei", "base_url": "http://box"}
    both = load_registry(
        {"remotes": [box, {"name": "huggingface"}]}, base_url="http://h", environ={}
    )
    assert [remote.base_url for remote in both.remotes] == ["http://box", "http://h"]
    first = load_registry({"remotes": [box]}, base_url="http://h", environ={})
    assert [(remote.name, remote.base_url) for remote in first.remotes] == [("box", "http://h")]
    none = load_registry({"remotes": []}, base_url="http://h", environ={})
    assert [remote.name for remote in none.remotes] == ["huggingface"]


@pytest.mark.parametrize("base_url", ["", "host", "https://u:secret@h", "https://h?k=secret", 3])
def test_a_malformed_base_url_is_refused_without_an_echo(base_url):
    with pytest.raises(ConfigError, match=r"^base_url must ") as caught:
        load_registry(base_url=base_url, environ={})
    assert "secret" not in str(caught.value)


def test_importing_loads_neither_yaml_nor_pydantic():
    code = (
        "import sys; from hybrid_infer.registry import load_registry;"
        "before = {'yaml', 'pydantic', 'numpy', 'torch', 'httpx2'} & set(sys.modules);"
        "load_registry(environ={});"
        "after = {'numpy', 'torch', 'httpx2', 'huggingface_hub'} & set(sys.modules);"
        "print(sorted(before), sorted(after))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[] []"


def test_a_package_away_from_its_sources_reads_its_own_copy(tmp_path):
    import hybrid_infer

    sources = Path(hybrid_infer.__file__).parent
    unwanted = shutil.ignore_patterns("__pycache__", "models.yaml")
    shutil.copytree(sources, tmp_path / "hybrid_infer", ignore=unwanted)
    yaml = (Path(__file__).parents[3] / "models.yaml").read_text()
    inside = tmp_path / "hybrid_infer" / "models.yaml"
    inside.write_text(yaml.replace("name: huggingface", "name: from-the-package"))
    code = (
        "from hybrid_infer.registry import load_registry, loading;"
        "print(loading.__file__, load_registry(environ={}).remotes[0].name)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert ran.stdout.startswith(str(tmp_path))
    assert ran.stdout.strip().endswith("from-the-package")


def test_a_registry_is_frozen(packaged):
    with pytest.raises(AttributeError):
        packaged.models = ()


KEYS = st.sampled_from(
    ["chat", "embeddings", "remotes", "settings", "small", "routing", "generation", "repo", "dim", "name",
     "models", "base_url", "dialect", "key_env", "max_tokens", "prompt", "preload", "[key]", "a/b"]
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | KEYS
    | st.sampled_from(["http://h", "tei", "A_KEY", b"x", object()])
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda trees: (
        st.lists(trees, max_size=3)
        | st.dictionaries(KEYS | st.text(max_size=4) | st.integers(), trees, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(
    st.dictionaries(KEYS | st.text(max_size=4), TREES, max_size=4), st.sampled_from([None, "tiny"])
)
def test_any_mapping_is_a_registry_or_a_config_error(models: dict[str, Any], profile: str | None):
    try:
        registry = load_registry(models, profile=profile, environ={})
    except ConfigError as error:
        assert str(error)  # noqa: PT017 - both ways of ending are right
    else:
        assert isinstance(registry, Registry)


@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="ignore"))
)
def test_any_file_is_a_registry_or_a_config_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        load_registry(path, environ={})
    except ConfigError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - both ways of ending are right
