"""What a node of a graph costs a device, in numbers that a calibrated device has cycles for. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from .frozen import FrozenMapping

KINDS = {
    "convolution": "a convolution over several positions and channels",
    "image_convolution": "one of so few channels as a picture has",
    "pointwise_convolution": "a convolution of one position",
    "depthwise_convolution": "a convolution of each channel alone",
    "linear": "a linear layer",
    "matrix_product": "a product of matrices, neither of them weights",
    "recurrence": "a recurrent layer",
    "elementwise": "anything else that makes values: sums, pools, norms",
    "packing": "rounding and packing what crosses; its bytes are those of floats",
    "call": "the call of a head as a whole",
}
"""The kinds of operators that devices are measured with."""


PICTURE_CHANNELS = 3
"""As many channels as a picture has, at most: so few that convolutions of them take other kernels, and gain nothing
from integers, since to gather what each output is made of takes longer than the products."""

NEAR_BYTES = 1 << 20
"""About as much as lies in a processor's nearer caches: what a layer moves beyond it comes from farther away."""


@dataclass(frozen=True, slots=True)
class NodeWork:
    """One call of one sample: the kind of operator, its ``macs``, the bytes of values that it reads and writes, in
    floats (``moved_bytes``), and those of its weights."""

    kind: str
    macs: int
    moved_bytes: int
    weight_bytes: int

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """What :class:`OperatorCycles` has rates for, in its order."""
        return self.macs, self.moved_bytes, max(0, self.moved_bytes - NEAR_BYTES), self.weight_bytes, 1


@dataclass(frozen=True, slots=True)
class OperatorCycles:
    """Cycles of a device for one kind of operator: for each MAC, each byte of values that is moved, each such byte
    beyond the first :data:`NEAR_BYTES`, each byte of weights in floats, and each call."""

    per_mac: float = 0.0
    per_moved_byte: float = 0.0
    per_far_byte: float = 0.0
    per_weight_byte: float = 0.0
    per_call: float = 0.0

    def of(self, work: NodeWork) -> float:
        """The cycles of one node.

        >>> OperatorCycles(per_mac=0.5, per_call=100.0).of(NodeWork("convolution", 1000, 0, 0))
        600.0
        """
        return float(sum(rate * count for rate, count in zip(astuple(self), work.counts, strict=True)))


class Operators(FrozenMapping[str, OperatorCycles]):
    """The cycles of each kind of operator, in the order of :data:`KINDS`."""

    def __init__(self, cycles: Mapping[str, OperatorCycles]) -> None:
        super().__init__({kind: cycles[kind] for kind in KINDS if kind in cycles})

    def of(self, work: NodeWork) -> float:
        """The cycles of a node; 0 for a kind that was not measured."""
        return self[work.kind].of(work) if work.kind in self else 0.0
