"""Any other architecture: the snapshot's own sentence-transformers modules, on padded batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hybrid_infer.local.embedding.encoders import Direct
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quiet import quiet_loading
from hybrid_infer.local.shipped import check_shipped


class GenericEncoder:
    """Runs the modules that ``SentenceTransformer`` builds from a snapshot.

    Args:
        path: the snapshot's folder.
        placement: device and dtype.
        prompt: with which every sequence begins.
    """

    direct: Direct | None = None

    def __init__(self, path: Path, placement: Placement, prompt: str = "") -> None:
        check_shipped(path)
        with quiet_loading():
            from sentence_transformers import SentenceTransformer

            self.model: Any = SentenceTransformer(
                str(path),
                device=placement.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": placement.dtype, "use_safetensors": True},
            ).eval()
        self._modules = list(self.model)
        # It would normalise in the model's dtype. By name, for the class moves between versions.
        if type(self._modules[-1]).__name__ == "Normalize":
            del self._modules[-1]
        self._device = torch.device(placement.device)
        self._prompt_length = self._measure(prompt) if prompt else None

    def encode(self, sequences: Tokens, *, normalize: bool) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        tokenizer = self.model.tokenizer
        padded = tokenizer.pad(
            {"input_ids": [ids.tolist() for ids in sequences]}, return_tensors="pt"
        )
        features: dict[str, Any] = {key: value.to(self._device) for key, value in padded.items()}
        if self._prompt_length is not None:
            features["prompt_length"] = self._prompt_length
        with torch.inference_mode():
            for module in self._modules:
                features = module(features)
            pooled = features["sentence_embedding"].float()
            if normalize:
                pooled = functional.normalize(pooled, dim=1)
        vectors: NDArray[np.float32] = pooled.cpu().numpy()
        return vectors

    def _measure(self, prompt: str) -> int:
        """The tokens that a pooling without the prompt leaves out, as sentence-transformers counts them.

        What the tokenizer puts at the beginning is among them, what it puts at the end is not.
        """
        tokenizer = self.model.tokenizer
        ids = tokenizer(prompt, truncation=True)["input_ids"]
        return len(ids) - (ids[-1] in tokenizer.all_special_ids)

    def num_places(self, *, tokens: int, count: int, longest: int) -> int:  # noqa: ARG002 - it pads
        """See `Encoder.num_places`: all are as long as the longest."""
        return count * longest
