"""From a GGUF file, and the place that was found for it, to an engine."""

from __future__ import annotations

from pathlib import Path

import torch

from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.local.generation.engine import ChatEngine
from hybrid_infer.local.generation.gguf.decoder import BATCH_TOKENS, GgufDecoder
from hybrid_infer.local.generation.gguf.library import ALL_LAYERS, GgufModel
from hybrid_infer.local.generation.gguf.prompting import GgufPrompter
from hybrid_infer.local.generation.gguf.tokenizer import GgufTokenizer
from hybrid_infer.local.generation.scheduling import Limits, extent
from hybrid_infer.local.placement import Placement

_UNKNOWN_WINDOW = 4096
_ROWS = 8  # with more, attention over the shared buffer costs more than a larger batch gains


def load_gguf_engine(
    path: Path, placement: Placement, provenance: Provenance, context_length: int | None
) -> ChatEngine:
    """Load a GGUF file.

    Args:
        path: the file.
        placement: where it goes, and the tokens that its answers may hold together.
        provenance: what to say of the weights.
        context_length: its window in tokens; None if neither alias nor file says.

    Raises:
        ModelIntegrityError: llama.cpp cannot load it, or it has no chat template.
    """
    model = GgufModel(path, ALL_LAYERS if placement.device != "cpu" else 0)
    window = context_length or _UNKNOWN_WINDOW
    tokenizer = GgufTokenizer(model, window)
    return ChatEngine(
        GgufDecoder(model, torch.get_num_threads()),
        GgufPrompter(path, window, tokenizer),
        tokenizer.ends,
        provenance,
        limits=Limits(
            rows=_ROWS,
            cache_tokens=placement.cache_tokens or extent(window),
            prefill_tokens=BATCH_TOKENS,
        ),
    )
