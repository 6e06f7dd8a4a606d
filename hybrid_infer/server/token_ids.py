"""Token ids that a client has made itself, back to texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.registry import Registry
from hybrid_infer.snapshots.tokenizer import find_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenTexts:
    """The texts that a model's own tokenizer has made ids of.

    Args:
        registry: knows the models.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, given: list[int] | list[list[int]], model: str) -> list[str]:
        """The texts; blocks while a tokenizer is read.

        Args:
            given: the ids of one text or of several, with or without the model's special tokens.
            model: an alias or a Hub id.

        Raises:
            InvalidRequestError: they are not what the model's tokenizer makes of any text.
            ModelNotDownloadedError: its tokenizer is not on this machine.
        """
        spec = self._registry.resolve("embeddings", model)
        tokenizer = find_tokenizer(spec)
        numbers = [ids for ids in given if isinstance(ids, int)]
        several = [ids for ids in given if not isinstance(ids, int)]
        return [_text(tokenizer, ids, spec.name) for ids in ([numbers] if numbers else several)]


def _text(tokenizer: Tokenizer, ids: list[int], name: str) -> str:
    try:
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
    except OverflowError:  # negative, or far too large
        text = ""
    # Ids of another tokenizer are words here, too: what tells is whether they come back.
    if not any(
        tokenizer.encode(text, add_special_tokens=has_special).ids == ids
        for has_special in (True, False)
    ):
        raise InvalidRequestError(
            f"these are not token ids of {name}'s own tokenizer; send texts", argument="texts"
        )
    return text
