"""Loads the local copy while the user types, so that the first word comes fast."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from hybrid_infer import HybridClient


class Warming:
    """Loads in the background.

    Args:
        client: whose models.
    """

    def __init__(self, client: HybridClient) -> None:
        self._client = client
        self._loads: dict[str, threading.Thread] = {}

    def begin(self, model: str) -> None:
        """Load the local copy of a chat model; a second time it does nothing."""
        if model not in self._loads:
            thread = threading.Thread(target=self._load, args=(model,), daemon=True)
            self._loads[model] = thread
            thread.start()

    def is_loading(self, model: str) -> bool:
        """Whether its load has begun and not ended."""
        return model in self._loads and self._loads[model].is_alive()

    def _load(self, model: str) -> None:
        with contextlib.suppress(HybridInferError):  # whoever asks a question will be told
            self._client.warm(model if "/" in model else f"chat/{model}")
