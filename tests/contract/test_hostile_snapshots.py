"""Snapshots that would like to run code: none does, and those that could not be loaded without are refused."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from hybrid_infer import HybridClient, ModelIntegrityError
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

PINNED = "e" * 40
PLANTED = """
import os, pathlib
pathlib.Path(os.environ["PLANTED_MARK"]).write_text("it ran")
class Phi3Config: pass
class Phi3ForCausalLM: pass
class Planted: pass
"""
AUTO_MAP = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    "AutoModel": "modeling_phi3.Phi3ForCausalLM",
    "AutoTokenizer": ["modeling_phi3.Planted", "modeling_phi3.Planted"],
}


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PLANTED_MARK", str(tmp_path / "mark"))
    return tmp_path / "mark"


def tiny(task):
    return find_snapshot(load_registry(profile="tiny").resolve(task, "small"))


def snapshot(tmp_path, task):
    """A private copy of the tiny twin, put where the Hub's cache would have it."""
    folder = tmp_path / "hub" / "models--org--model" / "snapshots" / PINNED
    shutil.copytree(tiny(task), folder)
    return folder


def change(folder, name, **values):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_bytes()) | values))


def client(task):
    models = {task: {"mine": {"repo": "org/model", "revision": PINNED}}}
    return HybridClient(policy="local-only", models=models, dtype="float32")


def chat():
    with client("chat") as mine:
        said = mine.chat_completion("Hello", model="mine", max_tokens=4, temperature=0)
        return said.choices[0].message.content


def embed():
    with client("embeddings") as mine:
        return mine.embed("Hello", model="mine").vectors


def plant(folder):
    for name in ("modeling_phi3.py", "configuration_phi3.py", "planted.py", "__init__.py"):
        (folder / name).write_text(PLANTED)


@pytest.mark.parametrize("decoder", ["ours", "transformers"])
def test_a_phi3_with_an_auto_map_is_computed_and_its_code_is_not_run(
    tmp_path, mark, decoder, monkeypatch
):
    folder = snapshot(tmp_path, "chat")
    expected = chat()
    plant(folder)
    change(folder, "config.json", auto_map=AUTO_MAP, trust_remote_code=True)
    change(folder, "tokenizer_config.json", auto_map=AUTO_MAP, trust_remote_code=True)
    if decoder == "transformers":
        from hybrid_infer.local.generation.decoders import shape

        monkeypatch.setattr(shape, "supports", lambda _: False)
    assert chat() == expected
    assert not mark.exists()


def test_an_embedding_model_with_an_auto_map_is_computed_and_its_code_is_not_run(
    tmp_path, mark, monkeypatch
):
    folder = snapshot(tmp_path, "embeddings")
    expected = embed()
    plant(folder)
    change(folder, "config.json", auto_map=AUTO_MAP)
    monkeypatch.setattr(
        "hybrid_infer.local.embedding.encoders.families.find_family", lambda *_: None
    )
    assert embed() == pytest.approx(expected, abs=1e-5)
    assert not mark.exists()


@pytest.mark.parametrize("task", ["chat", "embeddings"])
def test_an_architecture_that_transformers_lacks_is_refused(tmp_path, mark, task):
    folder = snapshot(tmp_path, task)
    plant(folder)
    change(folder, "config.json", model_type="planted", auto_map=AUTO_MAP)
    with pytest.raises(ModelIntegrityError, match="'planted', which transformers does not have"):
        chat() if task == "chat" else embed()
    assert not mark.exists()


@pytest.mark.parametrize(
    "kind",
    [
        "planted.Planted",
        "sentence_transformersx.Planted",
        "sentence_transformers.util.torch",  # whose load() unpickles
        "sentence_transformers",
        "torch.nn.Linear",
        "sentence_transformers.models.Router",  # whose parts another file lists
        "sentence_transformers.models.Asym",
        "sentence_transformers.models.WordEmbeddings",  # which imports its tokenizer by name
        "sentence_transformers.SentenceTransformer",  # which loads a whole model, pickles included
        "",
    ],
)
def test_a_module_of_another_kind_is_refused(tmp_path, mark, kind):
    folder = snapshot(tmp_path, "embeddings")
    plant(folder)
    modules = json.loads((folder / "modules.json").read_bytes())
    modules[-1]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelIntegrityError, match="module type"):
        embed()
    assert not mark.exists()


class Bomb:
    def __reduce__(self):
        return (Path.write_text, (Path(__import__("os").environ["PLANTED_MARK"]), "it ran"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_under_a_safe_name_is_refused(tmp_path, mark, protocol):
    folder = snapshot(tmp_path, "embeddings")
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(ModelIntegrityError, match="it is a pickle, which is never loaded"):
        embed()
    assert not mark.exists()


def test_a_pickle_beside_the_weights_is_not_read(tmp_path, mark):
    folder = snapshot(tmp_path, "embeddings")
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt", "optimizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    embed()
    assert not mark.exists()


def test_a_module_that_has_only_a_pickle_is_refused(tmp_path, mark):
    folder = snapshot(tmp_path, "embeddings")
    modules = json.loads((folder / "modules.json").read_bytes())
    kind = "sentence_transformers.models.LSTM"
    modules.append({"idx": 9, "name": "9", "path": "9_LSTM", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "9_LSTM").mkdir()
    (folder / "9_LSTM" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelIntegrityError, match=r"pytorch_model\.bin is a pickle"):
        embed()
    assert not mark.exists()


def by_transformers(monkeypatch):
    """Have the libraries load what this one has classes of its own for."""
    from hybrid_infer.local.generation.decoders import shape

    monkeypatch.setattr(shape, "supports", lambda _: False)
    monkeypatch.setattr(
        "hybrid_infer.local.embedding.encoders.families.find_family", lambda *_: None
    )


@pytest.mark.parametrize("place", ["", "0_Transformer"])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config.json", "transformers_weights"),
        ("sentence_bert_config.json", "model_args"),
        ("sentence_xlnet_config.json", "config_kwargs"),
    ],
)
def test_weights_of_another_name_are_refused(tmp_path, mark, monkeypatch, file, key, place):
    folder = snapshot(tmp_path, "embeddings")
    by_transformers(monkeypatch)
    if place:
        modules = json.loads((folder / "modules.json").read_bytes())
        modules[0]["path"] = place
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / place).mkdir()
    name = "adapter_model.bin"
    (folder / place / file).touch()
    (folder / place / file).write_text((folder / place / file).read_text() or "{}")
    value = name if key == "transformers_weights" else {"transformers_weights": name}
    change(folder / place, file, **{key: value})
    with pytest.raises(ModelIntegrityError, match=r"names 'adapter_model\.bin' as transformers_w"):
        embed()


@pytest.mark.parametrize("shard", ["adapter_model.bin", "consolidated.safetensors", "x.json"])
def test_a_shard_that_is_never_compared_is_refused(tmp_path, mark, shard):
    folder = snapshot(tmp_path, "chat")
    (folder / "model.safetensors").rename(folder / shard)
    index = {"weight_map": {"a": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelIntegrityError, match="which is never loaded"):
        chat()


@pytest.mark.parametrize("task", ["chat", "embeddings"])
@pytest.mark.parametrize("name", ["training_args.bin", "deep/x/model.PT", "2_Dense/x.ckpt"])
def test_where_a_library_loads_no_pickle_may_lie(tmp_path, mark, monkeypatch, task, name):
    folder = snapshot(tmp_path, task)
    by_transformers(monkeypatch)
    run = chat if task == "chat" else embed
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))  # passed over
    run()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelIntegrityError, match="is a pickle, which is never loaded; remove it"):
        run()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json"])
def test_an_oversize_configuration_is_refused(tmp_path, mark, name):
    folder = snapshot(tmp_path, "embeddings")
    whole = (folder / name).read_text()
    with (folder / name).open("w") as file:
        file.write(whole)
        file.truncate(65 * 1024 * 1024)  # a hole: it costs no disk
    with pytest.raises(ModelIntegrityError, match="too large to be a configuration"):
        embed()


@pytest.mark.parametrize("path", ["/etc", "../../../x", "a/../../x"])
def test_a_module_outside_the_snapshot_is_refused(tmp_path, mark, path):
    folder = snapshot(tmp_path, "embeddings")
    modules = json.loads((folder / "modules.json").read_bytes())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelIntegrityError, match="outside the snapshot"):
        embed()


def test_kernels_of_a_repository_are_refused(tmp_path, mark):
    folder = snapshot(tmp_path, "chat")
    change(folder, "config.json", _attn_implementation_internal="evil/kernels")
    with pytest.raises(ModelIntegrityError, match="'evil/kernels' as _attn"):
        chat()


@pytest.mark.parametrize(
    "part",
    [{"text_config": {"_attn_implementation": "evil/kernels"}}, {"parts": [{"attn_implementation": {"a": "evil/k"}}]}],
)  # fmt: skip
def test_kernels_that_a_part_names_are_refused(tmp_path, mark, part):
    folder = snapshot(tmp_path, "chat")
    change(folder, "config.json", **part)
    with pytest.raises(ModelIntegrityError, match=r"attn_implementation: code that is not here"):
        chat()


def test_another_models_adapter_is_refused(tmp_path, mark):
    folder = snapshot(tmp_path, "chat")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    with pytest.raises(ModelIntegrityError, match=r"adapter_config\.json would change the model"):
        chat()
