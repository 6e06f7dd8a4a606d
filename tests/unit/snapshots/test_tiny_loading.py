"""The seeded models in the libraries that load real ones: offline, the right classes, useful answers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.resolve import find_snapshot

REGISTRY = load_registry(profile="tiny")

# A process of its own: an audit hook stays until the end, and sees what no patch would.
LOADER = """
import json, sys
reached = []
sys.addaudithook(lambda event, values: reached.append(event) if event.startswith(
    ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.send", "socket.bind")
) else None)
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

folders, texts, prompts = json.load(sys.stdin)
loaded = {}
for name, folder in folders.items():
    if name.startswith("embeddings"):
        model = SentenceTransformer(folder, device="cpu", local_files_only=True)
        loaded[name] = {
            "class": type(model[0].auto_model).__name__,
            "limit": model.max_seq_length,
            "modules": [type(module).__name__ for module in model],
            "vectors": model.encode(texts).tolist(),
            "long": len(model.tokenize(["word " * 2000])["input_ids"][0]),
        }
        continue
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    answers = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True,
            return_tensors="pt", return_dict=True,
        )
        with torch.inference_mode():
            row = model.generate(
                **ids, max_new_tokens=64, do_sample=False, temperature=None, top_p=None
            )[0, ids["input_ids"].shape[1]:].tolist()
        stopped = row[-1] in model.generation_config.eos_token_id
        answers.append([row, stopped, tokenizer.decode(row, skip_special_tokens=True)])
    loaded[name] = {
        "class": type(model).__name__,
        "context": model.config.max_position_embeddings,
        "answers": answers,
    }
json.dump({"reached": reached, "loaded": loaded}, sys.stdout)
"""
TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "memory error in the cache server",
    "",
    "日本語",
    "The weather is lovely today.",
]
PROMPTS = [
    "Hello",
    "Explain low latency.",
    "Write a poem about the sea.",
    "日本語",
    "hi",
    "why",
    "list three animals",
    "What is the capital of France?",
]


@pytest.fixture(scope="module")
def outcome():
    folders = {spec.name: str(find_snapshot(spec)) for spec in REGISTRY.models}
    ended = subprocess.run(
        [sys.executable, "-c", LOADER],
        input=json.dumps([folders, TEXTS, PROMPTS]),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def loaded(outcome):
    return outcome["loaded"]


def test_loading_and_computing_reach_no_network(outcome):
    assert outcome["reached"] == []


@pytest.mark.parametrize(
    ("name", "architecture", "tail"),
    [
        ("embeddings/default", "MPNetModel", ["Pooling", "Normalize"]),
        ("embeddings/large", "T5EncoderModel", ["Pooling", "Dense", "Normalize"]),
        ("embeddings/small", "BertModel", ["Pooling", "Normalize"]),
    ],
)
def test_encoders_are_the_real_architectures(loaded, name, architecture, tail):
    spec = REGISTRY.resolve_named(name)
    assert loaded[name]["class"] == architecture
    assert loaded[name]["modules"] == ["Transformer", *tail]
    assert loaded[name]["limit"] == loaded[name]["long"] == spec.max_seq_length
    vectors = np.array(loaded[name]["vectors"])
    assert vectors.shape == (len(TEXTS), spec.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["embeddings/default", "embeddings/large", "embeddings/small"])
def test_vectors_tell_texts_apart(loaded, name):
    vectors = np.array(loaded[name]["vectors"])
    assert vectors[0] @ vectors[-1] == pytest.approx(1, abs=1e-6)
    cosines = (vectors[:-1] @ vectors[:-1].T)[np.triu_indices(len(TEXTS) - 1, k=1)]
    assert cosines.max() < 0.95
    assert cosines.min() < 0.6


@pytest.mark.parametrize(
    ("name", "architecture", "context"),
    [
        ("chat/default", "LlamaForCausalLM", 8192),
        ("chat/small", "Phi3ForCausalLM", 4096),
    ],
)
def test_chat_models_are_the_real_architectures(loaded, name, architecture, context):
    assert (loaded[name]["class"], loaded[name]["context"]) == (architecture, context)


@pytest.mark.parametrize("name", ["chat/default", "chat/small"])
def test_greedy_answers_are_words_that_depend_on_the_prompt(loaded, name):
    answers = loaded[name]["answers"]
    texts = [text for _, _, text in answers]
    assert len(set(texts)) == len(PROMPTS)
    assert all(text.isascii() and text.replace(" ", "").isalpha() for text in texts)
    for row, _, _ in answers:
        if len(row) > 16:
            assert max(map(row.count, row)) / len(row) < 0.25, "a loop"


@pytest.mark.parametrize("name", ["chat/default", "chat/small"])
def test_some_answers_stop_and_some_run_out_of_tokens(loaded, name):
    assert {stopped for _, stopped, _ in loaded[name]["answers"]} == {True, False}
