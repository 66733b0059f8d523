"""ATen operations, as torch.export leaves them: the functions of torch under the names of their implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from qpart_fx.macs.table import Call, handler_of, register_macs
from qpart_fx.macs.zero import nothing
from qpart_fx.meta import tensors_in
from qpart_fx.structure import Build, TakeApart

_ZERO = """
sym_size sym_stride sym_numel sym_storage_offset alias lift_fresh_copy _to_copy _unsafe_view slice select copy
embedding native_layer_norm native_group_norm native_batch_norm native_dropout upsample_nearest1d upsample_nearest2d
upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d reflection_pad1d
reflection_pad2d replication_pad2d constant_pad_nd zeros ones full empty arange scalar_tensor new_zeros new_ones
new_full new_empty full_like zeros_like ones_like fill item _local_scalar_dense masked_fill index index_put triu
tril cumsum _adaptive_avg_pool2d _softmax _log_softmax hardtanh hardswish hardsigmoid silu gelu mish elu leaky_relu
__and__ __or__ __xor__ bitwise_not fused_rms_norm _fused_rms_norm pad unflatten unsafe_chunk unsafe_split chunk
"""

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def function_of(operation: Any) -> Callable[..., Any] | None:
    """The function of torch that the ATen ``operation`` implements, with the same arguments; None if there is none.

    >>> function_of(torch.ops.aten.conv2d.default) is torch.conv2d
    True
    """
    if not isinstance(operation, torch._ops.OpOverload) or operation.namespace != "aten":
        return None
    name = operation._schema.name.removeprefix("aten::")
    for namespace in (torch, F, torch.Tensor, torch.special, torch.linalg):
        short = name.removeprefix("special_").removeprefix("linalg_")
        for each in (name, short):
            if (found := getattr(namespace, each, None)) is not None and handler_of(found) is not None:
                return found  # type: ignore[no-any-return]
    return None


def _overloads(name: str) -> list[Any]:
    packets = [getattr(torch.ops.aten, each, None) for each in (name, f"{name}_")]
    return [getattr(packet, overload) for packet in packets if packet is not None for overload in packet.overloads()]


@register_macs(*(getattr(torch, name) for name in _RECURRENT))
@register_macs(*(overload for name in _RECURRENT for overload in _overloads(name)))
def recurrent(call: Call) -> int | None:
    """Every weight matrix multiplies once for each step of each sequence."""
    sequence, parameters = call.tensor(0, "input"), call.argument(2, "params")
    if sequence is None or not isinstance(parameters, list | tuple):
        return None
    matrices = [each for each in tensors_in(parameters) if len(each.shape) == 2]
    return sequence.elements // sequence.shape[-1] * sum(each.elements for each in matrices)


register_macs(*(overload for name in _ZERO.split() for overload in _overloads(name)))(nothing)
register_macs(Build, TakeApart)(nothing)
