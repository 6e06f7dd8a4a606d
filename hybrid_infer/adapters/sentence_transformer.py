"""A stand-in for ``sentence_transformers.SentenceTransformer`` (v6 argument names).

Change one import, and `encode` is served by a remote or the local copy, as the client's policy says:

    from hybrid_infer.adapters.sentence_transformer import SentenceTransformer

    model = SentenceTransformer("small")
    model.similarity(model.encode_query("a question"), model.encode_document(["a text"]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.client.sync import HybridClient
from hybrid_infer.datatypes.route import Route
from hybrid_infer.errors import InvalidRequestError

if TYPE_CHECKING:
    import torch

NO_PROMPTS = ("query", "document")  # sentence-transformers defines both, as empty texts


class SentenceTransformer:
    """The methods that most programs use of the real one.

    Args:
        model: an alias or a Hub id.
        client: None: a `HybridClient()`.
        truncate_dim: how many numbers of a vector are kept; None: all.

    Attributes:
        route: who served the last call; None before the first.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        client: HybridClient | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        self.model = model
        self.truncate_dim = truncate_dim
        self.route: Route | None = None
        self._client = HybridClient() if client is None else client
        self._dim: int | None = None

    def encode(
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,  # noqa: ARG002 - the engine makes its own batches
        show_progress_bar: bool | None = None,  # noqa: ARG002 - there is none
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        sentences: str | Sequence[str] | None = None,
        **unknown: Any,
    ) -> Any:
        """Embed texts.

        Args:
            inputs: one text or several.
            prompt_name: ``"query"`` or ``"document"``; both are empty for these models.
            prompt: a text put before each input; not for a model that has a prompt of its own.
            batch_size: accepted; batches are made by size in tokens.
            show_progress_bar: accepted.
            output_value: ``"sentence_embedding"`` only.
            precision: ``float32``, or what sentence-transformers quantises vectors to.
            convert_to_numpy: an array; otherwise a list of tensors.
            convert_to_tensor: one tensor.
            device: None; devices are the client's business.
            normalize_embeddings: unit length, also of shortened vectors.
            truncate_dim: how many numbers of a vector are kept; None: the constructor's.
            sentences: the former name of `inputs`.
            **unknown: refused.

        Returns:
            float32 ``(dim,)`` for one text, ``(n, dim)`` for several, ``(0, dim)`` for none.

        Raises:
            InvalidRequestError: an argument is wrong, or asks for what is not served here.
            HybridInferError: no target could serve the call.
        """
        texts = sentences if inputs is None else inputs
        _refuse(output_value=(output_value, "sentence_embedding"), device=(device, None))
        _refuse(**{name: (value, None) for name, value in unknown.items()})
        vectors = self._embed(texts, _checked_prompt(prompt, prompt_name))
        kept = self.truncate_dim if truncate_dim is None else truncate_dim
        vectors = vectors if kept is None else np.ascontiguousarray(vectors[:, :kept])
        if normalize_embeddings:
            vectors = _of_unit_length(vectors)
        if precision != "float32" and len(vectors):
            vectors = _quantised(vectors, precision)
        return _converted(
            vectors,
            is_one=isinstance(texts, str),
            to_tensor=convert_to_tensor,
            to_numpy=convert_to_numpy,
        )

    def encode_query(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the prompt ``query``, unless the options name another."""
        return self.encode(inputs, **_with_prompt(options, "query"))

    def encode_document(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the prompt ``document``, unless the options name another."""
        return self.encode(inputs, **_with_prompt(options, "document"))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """The cosine of each of the first with each of the second, float32 ``(n, m)``."""
        import torch

        cosines: torch.Tensor = torch.from_numpy(_units(embeddings1) @ _units(embeddings2).T)
        return cosines

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """The cosine of each of the first with the one at its place in the second, float32 ``(n,)``."""
        import torch

        cosines = np.sum(_units(embeddings1) * _units(embeddings2), axis=1)
        found: torch.Tensor = torch.from_numpy(cosines)
        return found

    def get_embedding_dimension(self) -> int:
        """The length of a vector; embeds a text if nothing else tells."""
        if self._dim is None:
            self.encode("")
        dim = self._dim or 0
        return dim if self.truncate_dim is None else min(dim, self.truncate_dim)

    def _embed(self, texts: Any, prompt: str) -> NDArray[np.float32]:
        if prompt and isinstance(texts, str):
            texts = prompt + texts
        elif prompt:
            texts = [prompt + text for text in texts]
        result = self._client.embed(texts, self.model)
        if prompt and result.space.prompt:
            raise InvalidRequestError(f"{self.model} has a prompt of its own", argument="prompt")
        self.route, self._dim = result.route, result.space.dim
        return result.vectors


def _refuse(**given: tuple[Any, Any]) -> None:
    for name, (value, only) in given.items():
        if value != only:
            raise InvalidRequestError(
                f"{name}={value!r} is not served here; leave it {only!r}", argument=name
            )


def _checked_prompt(prompt: str | None, name: str | None) -> str:
    if prompt is not None:
        return prompt
    if name is not None and name not in NO_PROMPTS:
        known = ", ".join(NO_PROMPTS)
        raise InvalidRequestError(
            f"prompt_name={name!r} is not known; write one of {known}, or prompt=",
            argument="prompt_name",
        )
    return ""


def _with_prompt(options: dict[str, Any], name: str) -> dict[str, Any]:
    has_one = options.get("prompt") is not None or options.get("prompt_name") is not None
    return options if has_one else {**options, "prompt_name": name}


def _quantised(vectors: NDArray[np.float32], precision: str) -> NDArray[Any]:
    from sentence_transformers.util import quantize_embeddings

    try:
        return np.asarray(quantize_embeddings(vectors, precision=precision))  # type: ignore[arg-type]  # checked there
    except ValueError as error:
        raise InvalidRequestError(str(error), argument="precision") from error


def _converted(vectors: NDArray[Any], *, is_one: bool, to_tensor: bool, to_numpy: bool) -> Any:
    if to_tensor or not to_numpy:
        import torch

        tensor = torch.from_numpy(vectors)
        if is_one:
            return tensor[0]
        return tensor if to_tensor else list(tensor)
    return vectors[0] if is_one else vectors


def _units(vectors: Any) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    return _of_unit_length(rows)


def _of_unit_length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.divide(rows, np.maximum(lengths, 1e-12), dtype=np.float32)
    return units
