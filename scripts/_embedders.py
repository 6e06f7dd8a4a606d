"""The contenders of the benchmarks of embedding: ours, its parts, and what a user would run instead.

Each is loaded in a process of its own and imports what it needs there; see `_peer.Peer`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("torch", "sentence-transformers", "transformers", "tokenizers", "numpy")
FOLDERS = {"small": "all-MiniLM-L6-v2", "default": "all-mpnet-base-v2"}
QUERY = "How do I reset my password?"


class Ours:
    """The engine, loaded as the library loads it: on a thread that then ends."""

    def __init__(self, folder: Path, dtype: str, device: str = "cpu") -> None:
        from concurrent.futures import ThreadPoolExecutor

        from hybrid_infer.datatypes.deadline import Deadline
        from hybrid_infer.datatypes.models import ModelSpec
        from hybrid_infer.datatypes.replies import Provenance
        from hybrid_infer.datatypes.requests import EmbedRequest
        from hybrid_infer.local.embedding.engine import EmbeddingEngine
        from hybrid_infer.local.embedding.lanes import lane_threads
        from hybrid_infer.local.embedding.tokenizing import TextTokenizer
        from hybrid_infer.snapshots.facts import snapshot_facts

        self._request, self._deadline = EmbedRequest, Deadline
        facts = snapshot_facts(folder)
        self.tokenizer = TextTokenizer(folder, facts.max_seq_length, facts.prompt)
        with ThreadPoolExecutor(1) as loader:
            self.encoder = loader.submit(self.load, folder, facts, dtype, device).result()
        self.spec = ModelSpec("embeddings", folder.name, folder.name, None)
        token_budget = self.token_budget(facts, dtype, device)
        self.engine = EmbeddingEngine(
            self.encoder,
            self.tokenizer,
            Provenance(folder.name, None, verified=False, dtype=dtype),
            token_budget,
            lane_threads=lane_threads(device, token_budget),
        )

    def load(self, folder: Path, facts: Any, dtype: str, device: str) -> Any:
        """The encoder."""
        from hybrid_infer.local.embedding.encoders import load_encoder
        from hybrid_infer.local.placement import Placement

        return load_encoder(folder, facts, Placement(device, dtype))

    def token_budget(self, facts: Any, dtype: str, device: str) -> int:
        """Tokens that are computed together, as the library finds them."""
        from hybrid_infer.local.embedding.sizing import auto_token_budget
        from hybrid_infer.local.hardware import hardware
        from hybrid_infer.local.placement import VALUE_BYTES

        free = hardware(device).available_bytes
        return auto_token_budget(device, free, facts.dim or 1, VALUE_BYTES[dtype])

    def embed(self, texts: list[str]) -> Any:
        """Vectors of `texts`."""
        request = self._request(self.spec, tuple(texts))
        return self.engine.embed(request, self._deadline(3600)).vectors


class Bare(Ours):
    """The encoder's forward pass alone, in a loop on the main thread."""

    def __init__(self, folder: Path, dtype: str) -> None:
        super().__init__(folder, dtype)
        self._ids = self.tokenizer([QUERY]).ids

    def embed(self, texts: list[str]) -> Any:  # noqa: ARG002 - as every peer
        """The vector of the query, whatever is asked."""
        return self.encoder.encode(self._ids, normalize=True)


class SentenceTransformers:
    """sentence-transformers with its defaults, but for the dtype."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._model = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        )

    def embed(self, texts: list[str]) -> Any:
        """Vectors of `texts`."""
        return np.asarray(self._model.encode(texts, show_progress_bar=False))


class Bound:
    """The matrix products of the model's layers, and nothing else, in the fastest form at hand."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch

        from hybrid_infer.local.embedding.sizing import CPU_TOKENS
        from hybrid_infer.local.weights import Linear

        config = json.loads((folder / "config.json").read_bytes())
        wide = config.get("intermediate_size", config.get("d_ff"))
        width = config.get("hidden_size", config.get("d_model"))
        self._num_layers = config.get("num_hidden_layers", config.get("num_layers"))
        self.rows = CPU_TOKENS
        kind = getattr(torch, dtype)
        shapes = ((3 * width, width), (width, width), (wide, width), (width, wide))
        with torch.inference_mode():
            self._layers = [
                (
                    Linear(torch.randn(shape).to(kind), None),
                    torch.randn(self.rows, shape[1]).to(kind),
                )
                for shape in shapes
            ]

    def embed(self, texts: list[str]) -> Any:  # noqa: ARG002 - as every peer
        """Multiply one batch through all layers."""
        for _ in range(self._num_layers):
            for linear, x in self._layers:
                linear(x)


class OnnxPeer:
    """An exported model in batches of 32 texts of similar lengths, as sentence-transformers makes."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(256)
        self._tokenizer.enable_padding()
        self._run = self.compiled(str(folder / "model.onnx"), dtype)

    def compiled(self, file: str, dtype: str) -> Callable[[dict[str, Any]], Any]:
        """The model, ready to run."""
        raise NotImplementedError

    def embed(self, texts: list[str]) -> Any:
        """Vectors of `texts`."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            encodings = self._tokenizer.encode_batch([texts[index] for index in part])
            mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
            ids = np.array([encoding.ids for encoding in encodings], np.int64)
            hidden = self._run({"input_ids": ids, "attention_mask": mask})
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
            vectors[part] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors


class OpenVino(OnnxPeer):
    """OpenVINO on the CPU, tuned for throughput within a batch."""

    def compiled(self, file: str, dtype: str) -> Callable[[dict[str, Any]], Any]:
        """See `OnnxPeer.compiled`."""
        import openvino

        hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return lambda inputs: model(inputs)[0]


class OnnxRuntime(OnnxPeer):
    """onnxruntime on the CPU; it has no bfloat16 there."""

    def compiled(self, file: str, dtype: str) -> Callable[[dict[str, Any]], Any]:  # noqa: ARG002 - as every peer
        """See `OnnxPeer.compiled`."""
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)[0]


class Infinity:
    """infinity's engine with its defaults, but for the dtype, in an event loop of its own."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        options = EngineArgs(model_name_or_path=str(folder), device="cpu", dtype=dtype)
        self._engine = AsyncEmbeddingEngine.from_args(options)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._wait_for(self._engine.astart())

    def embed(self, texts: list[str]) -> Any:
        """Vectors of `texts`."""
        vectors, _ = self._wait_for(self._engine.embed(sentences=texts))
        return np.array(vectors)

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


EMBEDDERS = {
    "ours": Ours,
    "bare": Bare,
    "st": SentenceTransformers,
    "bound": Bound,
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "infinity": Infinity,
}


def export(folder: Path, target: Path) -> None:
    """Write `target`/model.onnx and the tokenizer beside it."""
    import shutil
    import warnings

    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    ids = torch.randint(5, 1000, (2, 12))
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Hidden(),
            (ids, torch.ones_like(ids)),
            str(target / "model.onnx"),
            input_names=names,
            output_names=["hidden"],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*names, "hidden"]},
            opset_version=17,
            dynamo=False,
        )
    shutil.copy(folder / "tokenizer.json", target)
