"""Whether vectors are those of the same model: cosine and norm, text by text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.parity import ProbeParity
from hybrid_infer.snapshots.probes import Probe

FLOAT32_BOUND = 0.99999
HALF_BOUND = 0.999  # bfloat16 and float16 are the same weights, rounded
NORM_TOLERANCE = 0.01  # half precision rounds a unit vector's length by less


def bound_for(*dtypes: str | None) -> float:
    """The least cosine of equal weights: that of the least precise side.

    Args:
        dtypes: of both sides; None where a side does not say, as remotes do not. It may then be
            half precision, which serves the same weights.
    """
    return FLOAT32_BOUND if all(dtype == "float32" for dtype in dtypes) else HALF_BOUND


def compare(
    target: str,
    probes: Sequence[Probe],
    judged: NDArray[np.float32],
    reference: NDArray[np.float32],
    bound: float,
) -> tuple[ProbeParity, ...]:
    """Judge one side's vectors by the other's.

    Args:
        target: the name of the judged side.
        probes: the n texts.
        judged: float32 ``(n, dim)``, normalised by whoever made them.
        reference: the same of the side that is believed.
        bound: the least cosine that counts as agreement.
    """
    if judged.shape != reference.shape or len(judged) != len(probes):
        why = f"vectors of shape {judged.shape}, and {reference.shape} were expected"
        return (ProbeParity(target, "all", why=why),)
    wide, believed = judged.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector's cosine is NaN: no match
        cosines = (wide * believed).sum(1) / (norms * np.linalg.norm(believed, axis=1))
    differences = np.abs(wide - believed).max(axis=1, initial=0.0)
    return tuple(
        ProbeParity(target, probe.label, cosine, difference, norm, _why(cosine, norm, bound))
        for probe, cosine, difference, norm in zip(
            probes, cosines.tolist(), differences.tolist(), norms.tolist(), strict=True
        )
    )


def _why(cosine: float, norm: float, bound: float) -> str:
    # Written so that a NaN fails.
    if not cosine >= bound:
        return f"cosine {cosine:.6f} is below {bound}"
    if not abs(norm - 1.0) <= NORM_TOLERANCE:
        return f"norm {norm:.4f} is not 1"
    return ""


def failures_of(rows: Iterable[ProbeParity]) -> tuple[str, ...]:
    """What is wrong, a line each."""
    return tuple(f"{row.target}: {row.probe}: {row.why}" for row in rows if row.why)
