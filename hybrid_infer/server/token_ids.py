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
        template = _Template(tokenizer)
        texts = []
        for index, ids in enumerate([numbers] if numbers else several):
            text = template.text_of(ids)
            if text is None:
                which, argument = ("", "texts") if numbers else (f" at {index}", f"texts[{index}]")
                raise InvalidRequestError(
                    f"the token ids{which} are not of {spec.name}'s own tokenizer; send texts",
                    argument=argument,
                )
            texts.append(text)
        return texts


class _Template:
    """A tokenizer, and the special tokens that it puts around a text.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        bare, whole = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
        num_added = len(whole) - len(bare)
        starts = (at for at in range(num_added + 1) if whole[at : at + len(bare)] == bare)
        self._before = next(starts, 0)
        self._behind = num_added - self._before
        self._around = {*whole[: self._before], *whole[len(whole) - self._behind :]}

    def text_of(self, ids: list[int]) -> str | None:
        """The text of which the tokenizer makes `ids`, with special tokens around it or without; or None.

        Those within are part of the text, that of an unknown word for instance.
        """
        text = self._decoded(ids[self._before : len(ids) - self._behind], ids, is_whole=True)
        if text is None and ids and self._around.isdisjoint((ids[0], ids[-1])):
            text = self._decoded(ids, ids, is_whole=False)
        return text

    def _decoded(self, inner: list[int], ids: list[int], *, is_whole: bool) -> str | None:
        try:
            text: str = self._tokenizer.decode(inner, skip_special_tokens=False)
        except OverflowError:  # negative, or far too large
            return None
        # Ids of another tokenizer are words here, too: what tells is whether they come back.
        return (
            text if self._tokenizer.encode(text, add_special_tokens=is_whole).ids == ids else None
        )
