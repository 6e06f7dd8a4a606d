"""Local vectors against sentence-transformers for snapshots whose modules are not the usual ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid_infer.local.embedding.encoders import load_encoder
from hybrid_infer.local.embedding.encoders.families import PackedEncoder
from hybrid_infer.local.embedding.tokenizing import TextTokenizer
from hybrid_infer.local.placement import Placement
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.architectures import DEFAULTS
from hybrid_infer.snapshots.facts import snapshot_facts
from hybrid_infer.snapshots.resolve import find_snapshot

TEXTS = ["the weather is lovely", "a", "one two three four five six seven eight nine ten"]
WIDTH = 384


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def change(file, **values):
    put(file, {**(json.loads(file.read_bytes()) if file.exists() else {}), **values})


def dense(folder, seed=0, **values):
    """A Dense module's files."""
    generator = torch.Generator().manual_seed(seed)
    activation = "torch.nn.modules.activation.Tanh"
    sizes = {"in_features": WIDTH, "out_features": WIDTH, "bias": True}
    put(folder / "config.json", {**sizes, "activation_function": activation, **values})
    tensors = {
        "linear.weight": torch.randn(WIDTH, WIDTH, generator=generator) / 20,
        "linear.bias": torch.randn(WIDTH, generator=generator) / 10,
    }
    save_file(tensors, folder / "model.safetensors")


def copy(alias, folder):
    """A copy of a seeded model, which a test may change."""
    path = find_snapshot(load_registry(profile="tiny").resolve("embeddings", alias))
    shutil.copytree(path, folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A copy of the seeded MiniLM."""
    return copy("small", tmp_path / "model")


def compose(folder, *kinds, **options):
    """List these modules behind the Transformer; `options` are of all Dense modules."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    ]
    for number, kind in enumerate(kinds, 1):
        path = "1_Pooling" if kind == "Pooling" else f"{number}_{kind}"
        kind_of = f"sentence_transformers.models.{kind}"
        modules.append({"idx": number, "name": str(number), "path": path, "type": kind_of})
        if kind == "Dense":
            dense(folder / path, number, **options)
        elif kind == "LayerNorm":
            put(folder / path / "config.json", {"dimension": WIDTH})
            norm = {"norm.weight": torch.linspace(0.5, 2, WIDTH), "norm.bias": torch.zeros(WIDTH)}
            save_file(norm, folder / path / "model.safetensors")
    put(folder / "modules.json", modules)


def expected(folder, texts=TEXTS, **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).float()
    return model.encode(list(texts), show_progress_bar=False, **options)


def encoder_of(folder, dtype="float32"):
    return load_encoder(Path(folder), snapshot_facts(folder), Placement("cpu", dtype))


def vectors_of(folder, texts=TEXTS, *, dtype="float32", normalize=True):
    facts = snapshot_facts(folder)
    tokenizer = TextTokenizer(folder, facts.max_seq_length, facts.prompt)
    with torch.inference_mode():
        return encoder_of(folder, dtype).encode(tokenizer(texts).ids, normalize=normalize)


def cosines(ours, theirs):
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(1) / lengths


USUAL = ("Pooling", "Dense", "Normalize")
UNUSUAL = {
    "a Dense behind the Normalize": (("Pooling", "Normalize", "Dense"), {}),
    "a Normalize between two Dense": (("Pooling", "Dense", "Normalize", "Dense"), {}),
    "a residual": (USUAL, {"use_residual": True}),
    "an output that is none of the text's": (USUAL, {"module_output_name": "other"}),
    "a Dense over tokens": (
        ("Dense", "Pooling", "Normalize"),
        {"module_input_name": "token_embeddings"},
    ),
    "an activation that is not torch's": (USUAL, {"activation_function": "own.functions.ReLU"}),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_modules_do_what_they_do_in_their_own_library(folder, case):
    kinds, options = UNUSUAL[case]
    compose(folder, *kinds, **options)
    assert cosines(vectors_of(folder), expected(folder)).min() > 0.99999


@pytest.mark.parametrize(
    "kinds", [("Pooling",), ("Pooling", "Dense"), USUAL, ("Pooling", "Dense", "Dense")]
)
def test_the_usual_modules_are_packed(folder, kinds):
    compose(folder, *kinds)
    assert isinstance(encoder_of(folder), PackedEncoder)
    assert cosines(vectors_of(folder), expected(folder)).min() > 0.99999


def test_a_normalize_that_is_not_the_last_module_is_no_choice(folder):
    compose(folder, "Pooling", "Normalize", "Dense")
    np.testing.assert_allclose(vectors_of(folder, normalize=False), expected(folder), atol=1e-5)


def test_a_dense_that_gives_no_vector_of_the_text_sets_no_dim(folder):
    compose(folder, *USUAL, module_output_name="other", out_features=7)
    assert snapshot_facts(folder).dim == WIDTH


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("Pooling",),
        ("Pooling", "Dense"),
        ("Pooling", "LayerNorm"),
        ("Pooling", "LayerNorm", "Normalize"),
    ],
)
def test_vectors_are_one_long_with_and_without_a_normalize(folder, kinds, dtype):
    compose(folder, *kinds)
    ours = vectors_of(folder, dtype=dtype)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert cosines(ours, expected(folder)).min() > 0.999
    raw = vectors_of(folder, dtype=dtype, normalize=False)
    assert abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    assert cosines(raw, ours).min() > 0.9999
    if (direct := encoder_of(folder, dtype).direct) is not None:
        tokens = TextTokenizer(folder, 256)(TEXTS).ids
        np.testing.assert_allclose(
            np.linalg.norm(direct(tokens, normalize=True), axis=1), 1, atol=1e-5
        )


@pytest.mark.parametrize("kinds", [("Pooling", "Dense"), ("Pooling", "Normalize", "Dense")])
def test_a_vector_of_nothing_stays_finite(folder, kinds):
    compose(folder, *kinds)
    nothing = {"linear.weight": torch.zeros(WIDTH, WIDTH), "linear.bias": torch.zeros(WIDTH)}
    save_file(nothing, folder / f"{len(kinds)}_Dense" / "model.safetensors")
    assert not vectors_of(folder).any()


@pytest.mark.parametrize("kinds", [("Pooling", "Normalize"), ("Pooling", "LayerNorm", "Normalize")])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_a_pooling_may_leave_out_the_prompt(folder, kinds, pooling):
    compose(folder, *kinds)
    prompts = {"prompts": {"query": "the query is : "}, "default_prompt_name": "query"}
    change(folder / "config_sentence_transformers.json", **prompts)
    stated = {"embedding_dimension": WIDTH, "pooling_mode": pooling}
    put(folder / "1_Pooling" / "config.json", stated)
    whole = vectors_of(folder)
    np.testing.assert_allclose(whole, expected(folder), atol=1e-5)
    put(folder / "1_Pooling" / "config.json", {**stated, "include_prompt": False})
    np.testing.assert_allclose(vectors_of(folder), expected(folder), atol=1e-5)
    assert pooling == "lasttoken" or cosines(vectors_of(folder), whole).min() < 0.99


def test_without_a_prompt_there_is_none_to_leave_out(folder):
    compose(folder, "Pooling", "Normalize")
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    assert isinstance(encoder_of(folder), PackedEncoder)
    np.testing.assert_allclose(vectors_of(folder), expected(folder), atol=1e-5)


def test_a_limit_among_the_tokenizers_arguments(folder):
    compose(folder, "Pooling", "Normalize")
    put(folder / "sentence_bert_config.json", {"tokenizer_args": {"model_max_length": 9}})
    texts = ["one two three " * 20]
    np.testing.assert_allclose(vectors_of(folder, texts), expected(folder, texts), atol=1e-5)


def leave_out(folder, *keys):
    config = json.loads((folder / "config.json").read_bytes())
    put(folder / "config.json", {key: config[key] for key in config if key not in keys})


def rename(folder, *names):
    """Tensors whose names end in the one are called by the other."""
    tensors = load_file(folder / "model.safetensors")
    for old, new in names:
        for name in [name for name in tensors if name.endswith(old)]:
            tensors[name.removesuffix(old) + new] = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alias", ["small", "default"])
def test_keys_that_a_configuration_leaves_out_are_the_architectures(tmp_path, alias, dtype):
    folder = copy(alias, tmp_path / "model")
    leave_out(folder, "layer_norm_eps", "num_attention_heads", "hidden_act")
    if alias == "small":  # the other has 514
        leave_out(folder, "max_position_embeddings")
    assert isinstance(encoder_of(folder), PackedEncoder)
    assert cosines(vectors_of(folder, dtype=dtype), expected(folder)).min() > 0.999


def test_an_inner_size_is_the_architectures_where_it_is_left_out(folder):
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if "intermediate" in name or (
            name.endswith("output.dense.weight") and "attention" not in name
        ):
            shape = [3072 if size == 128 else size for size in tensor.shape]
            tensors[name] = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 50
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    leave_out(folder, "intermediate_size")
    for dtype in ("float32", "bfloat16"):
        assert cosines(vectors_of(folder, dtype=dtype), expected(folder)).min() > 0.999


def test_a_limit_that_nothing_states_is_the_architectures(folder):
    (folder / "sentence_bert_config.json").unlink()
    leave_out(folder, "max_position_embeddings")
    assert snapshot_facts(folder).max_seq_length == 512
    texts = ["one two three " * 400]
    np.testing.assert_allclose(vectors_of(folder, texts), expected(folder, texts), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_norms_under_their_old_names(folder, dtype):
    whole = vectors_of(folder, dtype=dtype)
    rename(folder, ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    np.testing.assert_array_equal(vectors_of(folder, dtype=dtype), whole)
    assert cosines(whole, expected(folder)).min() > 0.999


def test_an_encoder_may_have_its_words_to_itself(tmp_path):
    folder = copy("large", tmp_path / "model")
    whole = vectors_of(folder)
    rename(folder, ("shared.weight", "encoder.embed_tokens.weight"))
    np.testing.assert_array_equal(vectors_of(folder), whole)
    assert cosines(whole, expected(folder)).min() > 0.9999


def test_the_defaults_are_those_of_transformers():
    from transformers import AutoConfig

    for name, defaults in DEFAULTS.items():
        config = AutoConfig.for_model(name)
        assert {key: getattr(config, key) for key in defaults} == defaults
