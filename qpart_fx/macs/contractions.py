"""MAC handlers of products: linear, convolution, matrix products, tensordot and einsum.

Most of them do the same number of multiply-adds for every element of their output: the length of the contraction.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpart_fx.macs.table import Call, Handler, register_macs
from qpart_fx.meta import TensorInfo, describe


def _per_output(call: Call, operand: TensorInfo | None, length: Callable[[Sequence[int]], int]) -> int | None:
    """The elements of the output, times the ``length`` of the contraction as the shape of ``operand`` tells it."""
    if operand is None or not isinstance(call.output, TensorInfo):
        return None
    return call.output.elements * length(operand.shape)


def _weight(call: Call, position: int = 1) -> TensorInfo | None:
    """The weight of the module, or the one given to the function."""
    if call.module is None:
        return call.tensor(position, "weight")
    weight: TensorInfo = describe(call.module.weight)
    return weight


@register_macs(nn.Linear, F.linear)
def linear(call: Call) -> int | None:
    """Eq. 1, D_in * D_out for every row."""
    return _per_output(call, _weight(call), lambda shape: shape[-1])


@register_macs(nn.Bilinear, F.bilinear)
def bilinear(call: Call) -> int | None:
    """The weight with the first input, then that with the second: what torch does, in its order."""
    return _per_output(call, _weight(call, 2), lambda shape: (shape[1] + 1) * shape[2])


@register_macs(nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d)
def convolution(call: Call) -> int | None:
    """Eq. 2, C_in/groups * F_w * F_h for each of the C_out * U * V values of the output."""
    return _per_output(call, _weight(call), lambda shape: prod(shape[1:]))


@register_macs(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
@register_macs(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def transposed_convolution(call: Call) -> int | None:
    """C_out/groups * F_w * F_h for each value of the *input*: each is spread over a window of the output."""
    tensor, weight = call.tensor(0, "input"), _weight(call)
    return None if tensor is None or weight is None else tensor.elements * prod(weight.shape[1:])


@register_macs(torch.convolution)
def any_convolution(call: Call) -> int | None:
    return transposed_convolution(call) if call.argument(6, "transposed") else convolution(call)


def _contracts_last(position: int, name: str) -> Handler:
    """Handler of an operation that contracts the last dimension of the argument there."""

    def matrix_product(call: Call) -> int | None:
        return _per_output(call, call.tensor(position, name), lambda shape: shape[-1])

    return matrix_product


for _name in ("matmul", "mm", "bmm", "mv", "dot", "vdot"):
    register_macs(getattr(torch, _name), getattr(Tensor, _name))(_contracts_last(0, "input"))
for _name, _operand in (("addmm", "mat1"), ("addmv", "mat"), ("baddbmm", "batch1")):
    for _operation in (getattr(torch, _name), getattr(Tensor, _name), getattr(Tensor, f"{_name}_")):
        register_macs(_operation)(_contracts_last(1, _operand))
register_macs(operator.matmul, operator.imatmul, Tensor.__matmul__, torch.linalg.matmul)(_contracts_last(0, "input"))
register_macs(Tensor.__rmatmul__)(_contracts_last(1, "other"))


@register_macs(torch.addbmm, Tensor.addbmm, Tensor.addbmm_)
def addbmm(call: Call) -> int | None:
    return _per_output(call, call.tensor(1, "batch1"), lambda shape: shape[0] * shape[2])


@register_macs(torch.linalg.vecdot)
def vecdot(call: Call) -> int | None:
    left, right = call.tensor(0, "x"), call.tensor(1, "y")
    if left is None or right is None:
        return None
    dim = call.argument(2, "dim", -1)
    longer = right if left.shape[dim] == 1 else left  # the other broadcasts
    return _per_output(call, longer, lambda shape: shape[dim])


@register_macs(torch.inner, Tensor.inner)
def inner(call: Call) -> int | None:
    left, right = call.tensor(0, "input"), call.tensor(1, "other")
    if left is None or right is None:
        return None
    return contract(left.shape, right.shape, [-1], [-1]) if left.shape and right.shape else 0  # by a scalar: no sum


@register_macs(torch.tensordot)
def tensordot(call: Call) -> int | None:
    left, right, dims = call.tensor(0, "a"), call.tensor(1, "b"), call.argument(2, "dims", 2)
    if left is None or right is None or isinstance(dims, TensorInfo):
        return None
    if isinstance(dims, int):
        return contract(left.shape, right.shape, range(-dims, 0), range(dims))
    return contract(left.shape, right.shape, *dims)


def contract(left: Sequence[int], right: Sequence[int], left_dims: Sequence[int], right_dims: Sequence[int]) -> int:
    """Multiply-adds of the contraction of the named dimensions; where one is of size 1, torch sums the other first.

    >>> contract((3, 4, 5), (5, 4, 2), [2, 1], [0, 1])
    120
    """
    contracted = prod(min(left[one], right[other]) for one, other in zip(left_dims, right_dims, strict=True))
    return _kept(left, left_dims) * contracted * _kept(right, right_dims)


def _kept(shape: Sequence[int], contracted: Sequence[int]) -> int:
    gone = {dim % len(shape) for dim in contracted}
    return prod(size for dim, size in enumerate(shape) if dim not in gone)
