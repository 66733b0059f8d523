"""The paper's quantizer: uniform, asymmetric, one step a tensor, nearest rounding (eqs. 9 and 10).

Its arithmetic is plain float32, operation by operation, so that codes, file and device agree to the last bit. It is not
``torch.fake_quantize_per_tensor_affine``, whose zero point must lie within the codes: a range far from zero is legal
here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import CalibrationError

_FLOAT32_INTEGERS = 2.0**23
"""Codes before clipping stay below this, where float32 still tells every integer and half-integer apart."""


@dataclass(frozen=True, slots=True)
class UniformQuantizer:
    """q = clip(round(x / step) + zero_point, 0, 2**bits - 1), value = (q - zero_point) * step."""

    bits: int
    step: float
    zero_point: int

    @classmethod
    def from_range(cls, low: float, high: float, bits: int) -> UniformQuantizer:
        """The quantizer whose codes span [``low``, ``high``] (eq. 9). The error within the range is half a step at
        most.

        A range of one single value is kept exactly.

        >>> UniformQuantizer.from_range(-1.0, 2.0, bits=2)
        UniformQuantizer(bits=2, step=1.0, zero_point=1)
        """
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise CalibrationError(f"cannot quantize the range [{low}, {high}]: both ends must be finite, low <= high")
        largest = max(abs(low), abs(high))
        step = (high - low) / (2**bits - 1) if high > low else largest or 1.0
        if largest / step > _FLOAT32_INTEGERS:  # a sliver far from zero: float32 cannot tell its values apart either
            step = largest / _FLOAT32_INTEGERS
        step = max(float(torch.tensor(step, dtype=torch.float32)), torch.finfo(torch.float32).tiny)
        return cls(bits, step, round(-low / step))

    @classmethod
    def of_tensor(cls, values: Tensor, bits: int) -> UniformQuantizer:
        """The quantizer for the range of ``values``; for an empty tensor, that of [0, 0]."""
        if values.numel() == 0:
            return cls.from_range(0.0, 0.0, bits)
        low, high = torch.aminmax(values.detach())
        return cls.from_range(float(low), float(high), bits)

    def encode(self, values: Tensor) -> Tensor:
        """The codes of ``values``: integers from 0 to 2**bits - 1, as float32."""
        return _encode(values, self.bits, self.step, self.zero_point)

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values that ``codes`` stand for."""
        return _decode(codes, self.step, self.zero_point).to(dtype)

    def __call__(self, values: Tensor) -> Tensor:
        """``values`` rounded to the grid, dtype and shape kept (eq. 10)."""
        return self.decode(self.encode(values), values.dtype)


def _encode(values: Tensor, bits: int, step: Tensor | float, zero_point: Tensor | int) -> Tensor:
    return (torch.round(values.to(torch.float32) / step) + zero_point).clamp(0, 2**bits - 1)


def _decode(codes: Tensor, step: Tensor | float, zero_point: Tensor | int) -> Tensor:
    return (codes.to(torch.float32) - zero_point) * step


class FakeQuantize(nn.Module):
    """Rounds what passes through it to the grid of a :class:`UniformQuantizer`: the tensor that crosses the wire."""

    step: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        self.bits = quantizer.bits
        self.register_buffer("step", torch.tensor(quantizer.step, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(quantizer.zero_point, dtype=torch.int32))

    @classmethod
    def like(cls, bits: int) -> FakeQuantize:
        """One of ``bits`` bits whose step and zero point are yet to be loaded."""
        return cls(UniformQuantizer(bits, 1.0, 0)).eval()

    @property
    def quantizer(self) -> UniformQuantizer:
        return UniformQuantizer(self.bits, float(self.step), int(self.zero_point))

    def forward(self, values: Tensor) -> Tensor:
        codes = _encode(values, self.bits, self.step, self.zero_point)
        return _decode(codes, self.step, self.zero_point).to(values.dtype)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, step={float(self.step):.6g}, zero_point={int(self.zero_point)}"
