"""Quantizers: the paper's, uniform, asymmetric, one step a tensor (eqs. 9 and 10); and one with a step a channel.

The arithmetic is plain float32, operation by operation, so that codes, file and device agree to the last bit. It is not
``torch.fake_quantize_per_tensor_affine``, whose zero point must lie within the codes: a range far from zero is legal
here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import CalibrationError
from .stored_tensor import STEPS_PER_OCTAVE as STEPS_PER_OCTAVE
from .stored_tensor import steps_of

_FLOAT32_INTEGERS = 2.0**21
"""Codes before clipping stay below this, where a value made of a code still gives the code back: the product and the
quotient err by 2**-23 of it together, and must err by less than a half."""

_FLOAT32_MAX = torch.finfo(torch.float32).max


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
        if not -_FLOAT32_MAX <= low <= high <= _FLOAT32_MAX:  # false for NaN as well
            raise CalibrationError(
                f"cannot quantize the range [{low}, {high}]: both ends must be finite in float32, low <= high"
            )
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
        return _decode(codes, self.step, self.zero_point, dtype)

    def __call__(self, values: Tensor) -> Tensor:
        """``values`` rounded to the grid, dtype and shape kept (eq. 10)."""
        return self.decode(self.encode(values), values.dtype)


def _encode(values: Tensor, bits: int, step: Tensor | float, zero_point: Tensor | int) -> Tensor:
    return (values.to(torch.float32) / step).round_().add_(zero_point).clamp_(0, 2**bits - 1)


def _decode(codes: Tensor, step: Tensor | float, zero_point: Tensor | int, dtype: torch.dtype) -> Tensor:
    values = (codes.to(torch.float32) - zero_point).mul_(step)
    if not dtype.is_floating_point:
        return values.to(dtype)
    largest = min(torch.finfo(dtype).max, _FLOAT32_MAX)  # the grid reaches half a step beyond the range
    return values.clamp_(-largest, largest).to(dtype)


@dataclass(frozen=True, eq=False)
class ChannelQuantizer:
    """q = round(x / step_c), value = q * step_c, with a step for each channel c along the first dimension.

    ``bits``: the width that all codes fit in, signed. ``exponents``: of the steps 2**(exponent / 8), int16 of shape
    (channels,).
    """

    bits: int
    exponents: Tensor

    @staticmethod
    def steps_of(exponents: Tensor) -> Tensor:
        """The steps, float32 of the same shape, the same to the last bit on every machine."""
        return torch.from_numpy(steps_of(exponents.cpu().numpy())).to(exponents.device)

    def encode(self, values: Tensor) -> Tensor:
        """The codes of ``values``: integers from 1 - 2**(bits - 1) to 2**(bits - 1) - 1, as float32."""
        most = 2 ** (self.bits - 1) - 1
        return torch.round(values.to(torch.float32) / self._steps(values)).clamp(-most, most)

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values that ``codes`` stand for."""
        return (codes.to(torch.float32) * self._steps(codes)).to(dtype)

    def __call__(self, values: Tensor) -> Tensor:
        """``values`` rounded to the grid, dtype and shape kept."""
        return self.decode(self.encode(values), values.dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelQuantizer):
            return NotImplemented
        return self.bits == other.bits and torch.equal(self.exponents, other.exponents)

    def __hash__(self) -> int:
        return hash((self.bits, tuple(self.exponents.tolist())))

    def _steps(self, like: Tensor) -> Tensor:
        return self.steps_of(self.exponents).to(like.device).reshape(-1, *[1] * (like.dim() - 1))


WeightQuantizer = UniformQuantizer | ChannelQuantizer
"""Whatever encodes and decodes a weight."""


class FakeQuantize(nn.Module):
    """Rounds what passes through it to the grid of a :class:`UniformQuantizer`: the tensor that crosses the wire."""

    step_bits: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        self.bits = quantizer.bits
        # The step is kept as the bits of a float32: .half() and .to(dtype) convert floats, and would move the grid.
        step = torch.tensor(quantizer.step, dtype=torch.float32)
        self.register_buffer("step_bits", step.view(torch.int32))
        self.register_buffer("zero_point", torch.tensor(quantizer.zero_point, dtype=torch.int32))

    @classmethod
    def like(cls, bits: int) -> FakeQuantize:
        """One of ``bits`` bits whose step and zero point are yet to be loaded."""
        return cls(UniformQuantizer(bits, 1.0, 0)).eval()

    @property
    def step(self) -> Tensor:
        """The step, a float32 scalar."""
        return self.step_bits.view(torch.float32)

    @property
    def quantizer(self) -> UniformQuantizer:
        """The quantizer as plain numbers."""
        return UniformQuantizer(self.bits, float(self.step), int(self.zero_point))

    def forward(self, values: Tensor) -> Tensor:
        codes = _encode(values, self.bits, self.step, self.zero_point)
        return _decode(codes, self.step, self.zero_point, values.dtype)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, step={float(self.step):.6g}, zero_point={int(self.zero_point)}"
