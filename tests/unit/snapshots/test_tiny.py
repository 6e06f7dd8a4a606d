"""The seeded models: real architectures, the same bytes everywhere, useful answers."""

import hashlib
import json
import os
import subprocess
import sys
import warnings

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny
from hybrid_infer.snapshots.facts import check_assertions, snapshot_facts
from hybrid_infer.snapshots.resolve import find_snapshot

REGISTRY = load_registry(profile="tiny")
SPECS = {spec.repo: spec for spec in REGISTRY.models}

# What the files were when they were first written. A change here changes every seeded answer.
DIGESTS = {
    "tiny/Meta-Llama-3-8B-Instruct": "0f1f72c1e5af92d627bfd6128becf601c4d916a61ef2c763210a9e8b4a28c18b",
    "tiny/Phi-3-mini-4k-instruct": "f8f4304fc2232589842f58dd5137155c810ec3416cd5f2e758fc819b7d4dfc8a",
    "tiny/all-MiniLM-L6-v2": "5768dd000e466f05173a871fbc6b4d9f6dbe263de980ebd1a977fef51a94d350",
    "tiny/all-mpnet-base-v2": "ba52d95947e5ddac9375b7ac4338bd4a8265799b44c4d329bfa40bc3d8ef1b35",
    "tiny/sentence-t5-large": "2082c43a58fc24046a5f7ef5d37786c777592286f75f6a70bb510f03c3598b72",
}


def digest(folder):
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(file.relative_to(folder).as_posix().encode())
        total.update(file.read_bytes())
    return total.hexdigest()


@pytest.mark.parametrize("repo", sorted(SPECS))
def test_files_are_byte_for_byte_the_same_everywhere(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path))
    assert digest(find_snapshot(SPECS[repo])) == DIGESTS[repo]


@pytest.mark.parametrize("repo", sorted(SPECS))
def test_size_and_facts(repo):
    folder = find_snapshot(SPECS[repo])
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size <= 25e6
    check_assertions(SPECS[repo], snapshot_facts(folder))


@pytest.mark.parametrize("alias", ["default", "small"])
def test_chat_tokenizers_keep_every_text(alias):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_snapshot(REGISTRY.resolve("chat", alias)))
    for text in ("plain words", "Ünïcödé 日本語 🎉", "a  b\tc\nd", "$& <x> {}", "\x00\x7f"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        (
            "default",
            (
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        ("small", "<|system|>\nbe brief<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\n"),
    ],
)
def test_chat_templates_are_the_families_own(alias, expected):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_snapshot(REGISTRY.resolve("chat", alias)))
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == expected


def test_a_name_without_a_twin_lists_those_there_are():
    from dataclasses import replace

    from hybrid_infer.errors import ModelNotDownloadedError

    spec = replace(SPECS["tiny/all-MiniLM-L6-v2"], repo="tiny/unknown")
    with pytest.raises(ModelNotDownloadedError, match="tiny/all-MiniLM-L6-v2"):
        find_snapshot(spec)


def test_one_warning_a_process_unless_asked_for(monkeypatch):
    monkeypatch.setattr(tiny, "_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.warn_once(asked_in_code=True)
        tiny.warn_once(asked_in_code=False)  # CI is set
    monkeypatch.delenv("CI")
    with pytest.warns(UserWarning, match="seeded"):
        tiny.warn_once(asked_in_code=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.warn_once(asked_in_code=False)


def test_the_warning_points_at_the_line_that_made_the_client(monkeypatch):
    monkeypatch.setattr(tiny, "_warned", False)
    monkeypatch.delenv("CI")
    monkeypatch.setenv("HYBRID_INFER_PROFILE", "tiny")
    with pytest.warns(UserWarning, match="seeded") as caught:
        HybridClient().close()
    assert caught[0].filename == __file__


def test_a_damaged_file_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path))
    spec = SPECS["tiny/all-MiniLM-L6-v2"]
    folder = find_snapshot(spec)
    (folder / "model.safetensors").write_bytes(b"")
    assert digest(find_snapshot(spec)) == DIGESTS[spec.repo]
    assert [path.name for path in folder.parent.iterdir()] == [spec.revision]


WRITER = """
import sys
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot
registry = load_registry(profile="tiny")
sys.stdin.read()
for spec in registry.models:
    find_snapshot(spec)
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
"""


def test_processes_that_start_together_write_one_model_each_without_torch(tmp_path):
    environ = {**os.environ, "HYBRID_INFER_CACHE_DIR": str(tmp_path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER], env=environ, stdin=subprocess.PIPE)
        for _ in range(4)
    ]
    for writer in writers:
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0] * 4
    for repo, spec in SPECS.items():
        (folder,) = (tmp_path / "tiny" / "models--{}".format(repo.replace("/", "--"))).glob("*/*")
        assert folder.name == spec.revision
        assert digest(folder) == DIGESTS[repo]


def test_everything_but_the_dim_is_narrow():
    for repo, spec in SPECS.items():
        config = json.loads((find_snapshot(spec) / "config.json").read_bytes())
        width = config.get("hidden_size", config.get("d_model"))
        assert width <= 128 or width == spec.dim, repo
        assert config.get("intermediate_size", config.get("d_ff")) <= 128
        assert config.get("num_hidden_layers", config.get("num_layers")) == 2


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        (
            "default",
            {"eos_token_id": ["<|end_of_text|>", "<|eot_id|>"], "temperature": 0.6, "top_p": 0.9},
        ),
        ("small", {"eos_token_id": ["<|endoftext|>", "<|assistant|>", "<|end|>"]}),
    ],
)
def test_generation_defaults_are_the_families_own(alias, expected):
    folder = find_snapshot(REGISTRY.resolve("chat", alias))
    generation = json.loads((folder / "generation_config.json").read_bytes())
    tokens = json.loads((folder / "tokenizer.json").read_bytes())["added_tokens"]
    names = {token["id"]: token["content"] for token in tokens}
    generation["eos_token_id"] = [names[number] for number in generation["eos_token_id"]]
    assert {key: generation.get(key) for key in expected} == expected
    assert generation.get("do_sample", False) == (alias == "default")
