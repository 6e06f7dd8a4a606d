"""Weights from safetensors, and linear layers in the fastest form that the device has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_infer.errors import ModelIntegrityError
from hybrid_infer.snapshots.facts import weight_files

_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_PROBE_TOLERANCES = {torch.bfloat16: 0.05, torch.float32: 1e-4}


class Weights:
    """The tensors of a snapshot, handed out in one dtype on one device.

    Args:
        files: safetensors files.
        device: where tensors go.
        dtype: what floating tensors become.
        quantize: makes the weight of a layer smaller; None: they stay as they are.

    Raises:
        ModelIntegrityError: a file is damaged.
    """

    def __init__(
        self,
        files: Sequence[Path],
        device: str,
        dtype: torch.dtype,
        quantize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.device, self.dtype = torch.device(device), dtype
        self._tensors: dict[str, Tensor] = {}
        for file in files:
            try:
                loaded = load_file(file, device="cpu")
            except SafetensorError as error:
                raise ModelIntegrityError(f"{file} is damaged: {error}") from None
            self._tensors.update((_name_now(name), tensor) for name, tensor in loaded.items())
        self._prefix = ""
        self._quantize = quantize

    @classmethod
    def of_snapshot(
        cls,
        path: Path,
        device: str,
        dtype: torch.dtype,
        quantize: Callable[[Tensor], Tensor] | None = None,
    ) -> Weights:
        """The weights of a snapshot's main model."""
        return cls(weight_files(path), device, dtype, quantize)

    def strip(self, prefix: str) -> None:
        """Forget a prefix that all names may share: the name of the model inside a larger one."""
        if any(name.startswith(prefix) for name in self._tensors):
            self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return self._prefix + name in self._tensors

    def __call__(self, name: str, *shape: int) -> Tensor:
        """One tensor.

        Args:
            name: its name.
            shape: what it must have; empty: any, because torch's operators look for themselves.

        Raises:
            ModelIntegrityError: there is none of that name, or none of that shape.
        """
        return self._stored(name, shape).to(self.device, self.dtype)

    def wide(self, name: str, *shape: int) -> Tensor:
        """One tensor in float32, whatever the others become; else as above.

        Raises:
            ModelIntegrityError: there is none of that name, or none of that shape.
        """
        return self._stored(name, shape).to(self.device, torch.float32)

    def _stored(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            raise ModelIntegrityError(f"the weights lack {self._prefix + name}")
        if shape and tensor.shape != shape:
            raise ModelIntegrityError(
                f"{self._prefix + name} has the shape {tuple(tensor.shape)}, and by config.json {shape}"
            )
        return tensor

    def linear(self, *names: str, bias: bool = True, gelu: bool = False) -> Linear:
        """A linear layer; several names are fused into one, their outputs side by side."""
        weight = torch.cat([self(f"{name}.weight") for name in names])
        offset = torch.cat([self(f"{name}.bias") for name in names]) if bias else None
        return Linear(weight, offset, gelu=gelu)

    def layer_linear(self, *names: str) -> Linear:
        """A linear layer without bias, of those that a quantised copy makes smaller."""
        weight = torch.cat([self(f"{name}.weight") for name in names])
        return Linear(weight if self._quantize is None else self._quantize(weight), None)


def _name_now(name: str) -> str:
    """A tensor's name; checkpoints that were made from TensorFlow's call a norm's parts as that did."""
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


class Linear:
    """``y = x Wᵀ + b``, optionally followed by GELU.

    On a CPU the weight is kept in oneDNN's own blocked layout through torch's mkldnn operators,
    which also fuse what follows the product. They are not public: a probe at first use compares
    them with `torch.nn.functional.linear`, which serves wherever they are missing or wrong.

    Args:
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
        gelu: whether the exact GELU is fused behind it.
    """

    __slots__ = ("_bias", "_gelu", "_packed", "_weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        self._weight: Tensor | None = weight
        self._bias = bias
        self._gelu = gelu
        self._packed: Any = None
        # A quantised weight is a tensor of torchao's own class.
        if is_plain(weight) and weight.device.type == "cpu" and can_prepack(weight.dtype):
            self._packed = _prepacked(weight)
            self._weight = None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to ``(tokens, in)``; gives ``(tokens, out)``."""
        if self._packed is not None:
            return _pointwise(x, self._packed, self._bias, gelu=self._gelu)
        y = functional.linear(x, self._weight, self._bias)  # type: ignore[arg-type]  # kept unless packed
        return functional.gelu(y) if self._gelu else y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Apply to ``(tokens, in)`` and add a ``(tokens, out)``."""
        if self._packed is not None:
            return _pointwise_add(x, residual, self._packed, self._bias)
        weight: Tensor = self._weight  # type: ignore[assignment]  # as above
        if self._bias is None and weight.is_cuda and is_plain(weight):
            return torch.addmm(residual, x, weight.t())  # the product's kernel adds by itself
        return functional.linear(x, weight, self._bias).add_(residual)


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is an ordinary tensor, and no quantised one."""
    return type(weight) in (Tensor, torch.nn.Parameter)


def _prepacked(weight: Tensor) -> Any:
    operator = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001 - probed by can_prepack
    return operator(weight.contiguous(), None)


def _pointwise(x: Tensor, packed: Any, bias: Tensor | None, *, gelu: bool) -> Tensor:
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    operator = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - probed by can_prepack
    result: Tensor = operator(x, packed, bias, activation, [], algorithm)
    return result


def _pointwise_add(x: Tensor, residual: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
    operator = torch.ops.mkldnn._linear_pointwise.binary  # noqa: SLF001 - probed by can_prepack
    result: Tensor = operator(x, residual, packed, bias, "add")
    return result


def _has_mkldnn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's


@cache
def can_prepack(dtype: torch.dtype) -> bool:
    """Whether the private operators are here and compute what `functional.linear` does."""
    if dtype not in _PROBE_TOLERANCES or not _has_mkldnn():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, residual = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((5, 48), (32, 48), (32,), (5, 32))
    )
    try:
        packed = _prepacked(weight)
        got = _pointwise(x, packed, bias, gelu=True)
        summed = _pointwise_add(x, residual, packed, bias)
    except (AttributeError, RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    plain = functional.linear(x, weight, bias)
    tolerance = _PROBE_TOLERANCES[dtype]
    return all(
        torch.allclose(ours.float(), expected.float(), rtol=tolerance, atol=tolerance)
        for ours, expected in ((got, functional.gelu(plain)), (summed, plain + residual))
    )
