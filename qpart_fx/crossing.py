"""What a node's value costs to hold and to send, for the example inputs, and whether it can be sent at all."""

from __future__ import annotations

from torch.fx import Node

from .meta import TensorInfo, info

_NUMBERS = (bool, int, float, type(None))
"""Values that are no tensors but may cross: they travel beside the tensors, exactly."""


def sendable(node: Node) -> bool:
    """Whether the value is a tensor or a plain number; a tuple, a size or a type is not."""
    output = info(node).output
    return isinstance(output, TensorInfo) or type(output) in _NUMBERS


def quantized_elements(node: Node) -> int:
    """Elements of a floating-point tensor; they cross at a width that the plan chooses."""
    output = info(node).output
    return output.elements if isinstance(output, TensorInfo) and output.quantizable else 0


def exact_bits(node: Node) -> int:
    """Bits of a value that crosses as it is: of a tensor of integers or flags, or of a number."""
    output = info(node).output
    if isinstance(output, TensorInfo):
        return 0 if output.quantizable else 8 * output.bytes
    return 64 if type(output) in _NUMBERS and output is not None else 0


def held_bytes(node: Node) -> int:
    """Bytes of the value while it is alive on the device; a view counts as a tensor of its own."""
    output = info(node).output
    return output.bytes if isinstance(output, TensorInfo) else 0
