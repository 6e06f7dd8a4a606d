"""What a snapshot says about itself, under damage and under every spelling in use."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.facts import check_assertions, complete_spec, snapshot_facts
from hybrid_infer.snapshots.tokenizer import find_tokenizer

JSON_FILES = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    "model.safetensors.index.json",
)
KEYS = st.sampled_from(
    ["max_seq_length", "max_position_embeddings", "hidden_size", "prompts", "default_prompt_name",
     "pooling_mode", "word_embedding_dimension", "weight_map", "type", "path", "model_max_length",
     "tokenizer_args", "processor_kwargs"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)


@pytest.fixture
def folder(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(JSON_FILES), value=VALUES)
def test_json_of_any_shape_gives_facts_or_our_error(folder, name, value):
    file = folder / name
    before = file.read_bytes() if file.exists() else None
    file.write_text(json.dumps(value))
    try:
        snapshot_facts(folder)
    except ModelIntegrityError as error:
        assert str(folder) in str(error)  # noqa: PT017 - both endings are right
    finally:
        file.unlink() if before is None else file.write_bytes(before)


def change(folder, name, **values):
    file = folder / name
    content = json.loads(file.read_bytes()) if file.exists() else {}
    file.write_text(json.dumps({**content, **values}))


def test_facts_of_a_whole_model(folder):
    facts = snapshot_facts(folder)
    assert (facts.model_type, facts.pooling, facts.dense) == ("bert", "mean", False)
    assert (facts.dim, facts.max_seq_length, facts.has_normalize) == (384, 256, True)
    assert (facts.prompt, facts.context_length, facts.weight_dtype) == ("", None, "F32")
    assert 0 < facts.weight_bytes < (folder / "model.safetensors").stat().st_size


def test_a_dense_tail_sets_the_dim(dense_folder):
    facts = snapshot_facts(dense_folder)
    assert (facts.model_type, facts.dense, facts.dim) == ("t5", True, 768)


def test_a_limit_that_is_not_stated_is_the_lesser_of_positions_and_tokenizer(folder):
    (folder / "sentence_bert_config.json").unlink()
    change(folder, "config.json", max_position_embeddings=514)
    change(folder, "tokenizer_config.json", model_max_length=512)
    assert snapshot_facts(folder).max_seq_length == 512
    change(folder, "tokenizer_config.json", model_max_length=int(1e30))
    assert snapshot_facts(folder).max_seq_length == 514
    (folder / "sentence_roberta_config.json").write_text('{"max_seq_length": 128}')
    assert snapshot_facts(folder).max_seq_length == 128


@pytest.mark.parametrize("name", ["tokenizer_args", "processor_kwargs"])
def test_a_limit_among_the_tokenizers_arguments_comes_before_all_others(folder, name):
    change(folder, "sentence_bert_config.json", **{name: {"model_max_length": 50}})
    assert snapshot_facts(folder).max_seq_length == 50
    change(folder, "sentence_bert_config.json", **{name: {"model_max_length": None}})
    assert snapshot_facts(folder).max_seq_length == 256


def test_poolings_in_both_spellings_and_joined(folder):
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"embedding_dimension": 384, "pooling_mode": "cls"}')
    assert (snapshot_facts(folder).pooling, snapshot_facts(folder).dim) == ("cls", 384)
    pooling.write_text('{"embedding_dimension": 384, "pooling_mode": ["mean", "max"]}')
    assert (snapshot_facts(folder).pooling, snapshot_facts(folder).dim) == ("mean+max", 768)


def test_the_default_prompt_is_part_of_the_space(folder, unpinned):
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert snapshot_facts(folder).prompt == "query: "
    assert complete_spec(unpinned, snapshot_facts(folder)).prompt == "query: "


def test_a_pooling_that_is_asserted_must_be_there(folder, pinned):
    modules = json.loads((folder / "modules.json").read_bytes())
    (folder / "modules.json").write_text(json.dumps([modules[0], modules[2]]))
    with pytest.raises(ModelIntegrityError, match="pooling 'mean'"):
        check_assertions(pinned, snapshot_facts(folder))


def test_a_damaged_tokenizer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--mine" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{")
    spec = ModelSpec("chat", None, "org/mine", "a" * 40)
    monkeypatch.setattr("hybrid_infer.snapshots.tokenizer.find_snapshot", lambda _: folder)
    with pytest.raises(ModelIntegrityError, match=r"tokenizer\.json is damaged"):
        find_tokenizer(spec)
