"""What ``verify`` found: whether two copies of one model agree, probe by probe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeParity:
    """One probe of one comparison.

    Attributes:
        target: the side that is judged: a remote's name, or ``"local"``.
        probe: the word for the text.
        cosine: of the two sides' vectors; None where there is none to take.
        max_abs: the largest difference of two numbers; None likewise.
        norm: length of the judged vector; None likewise.
        why: what is wrong; empty if nothing is.
    """

    target: str
    probe: str
    cosine: float | None = None
    max_abs: float | None = None
    norm: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The result of ``verify``. True in a condition if and only if everything agreed.

    Attributes:
        name: what was verified, for instance ``embeddings/small``.
        repo: the Hub repository id.
        revision: the pinned commit; None if the model has none.
        compared: which sides: ``"remote:local"``, ``"local:goldens"`` or ``"remote:goldens"``; for
            chat ``"remote:name"``, where only the model's name can be checked.
        ok: whether everything that was tried agreed. An error is a disagreement.
        cos_min: the least cosine; None if no two vectors were compared.
        max_abs: the largest difference of two numbers; None likewise.
        dim: length of a vector; None likewise.
        norm_min: the least length of a judged vector; None likewise.
        norm_max: the greatest; None likewise.
        dtype: in which the local copy was computed; None if it took no part.
        bound: the least cosine that counts as agreement.
        probes: every probe of every judged side.
        failures: everything that is wrong, one line each; empty if and only if `ok`.
        left_out: sides that could not take part, and why; they say nothing about `ok`.
    """

    name: str
    repo: str
    revision: str | None
    compared: str
    ok: bool
    cos_min: float | None = None
    max_abs: float | None = None
    dim: int | None = None
    norm_min: float | None = None
    norm_max: float | None = None
    dtype: str | None = None
    bound: float | None = None
    probes: tuple[ProbeParity, ...] = ()
    failures: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok
