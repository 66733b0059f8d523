"""MAC handlers of layers made of several products: attention, recurrent layers, transformers."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional as F

from qpart_fx.macs.table import Call, Operation, count, register_macs
from qpart_fx.meta import TensorInfo


@register_macs(F.scaled_dot_product_attention)
def dot_product_attention(call: Call) -> int | None:
    """Queries with keys, then the weights with the values; a causal mask saves nothing."""
    query, key, value = (call.tensor(position, name) for position, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        return None
    batches = [tensor.shape[:-2] for tensor in (query, key, value)]
    if call.argument(7, "enable_gqa", False):  # the keys and values are repeated for every head of the queries
        batches[1:] = [(*batch[:-1], batches[0][-1]) for batch in batches[1:]]
    pairs = query.shape[-2] * key.shape[-2]
    scores = prod(np.broadcast_shapes(*batches[:2])) * pairs * query.shape[-1]
    return scores + prod(np.broadcast_shapes(*batches)) * pairs * value.shape[-1]


@register_macs(nn.MultiheadAttention)
def multihead_attention(call: Call) -> int | None:
    attention: Any = call.module
    query, key, value = (call.tensor(position, name) for position, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        return None
    keys = key.shape[1] if attention.batch_first and len(key.shape) == 3 else key.shape[0]
    extra = (attention.bias_k is not None) + bool(attention.add_zero_attn)
    return _projected_attention(query, key, value, keys + extra)


@register_macs(F.multi_head_attention_forward)
def multihead_attention_function(call: Call) -> int | None:
    query, key, value = (call.tensor(position, name) for position, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        return None
    static = call.tensor(20, "static_k")  # (batch * heads, keys, channels of a head)
    keys = key.shape[0] if static is None else static.shape[1]
    extra = (call.argument(7, "bias_k") is not None) + bool(call.argument(9, "add_zero_attn"))
    return _projected_attention(query, key, value, keys + extra)


def _projected_attention(query: TensorInfo, key: TensorInfo, value: TensorInfo, keys: int) -> int:
    """Eq. 1 for the three projections in and the one out; between them, each query meets ``keys`` keys and values."""
    width = query.shape[-1]
    projections = width * (query.elements + key.elements + value.elements + query.elements)
    return projections + 2 * query.elements * keys


@register_macs(nn.RNN, nn.LSTM, nn.GRU)
def recurrent(call: Call) -> int | None:
    """Eq. 1 for every weight matrix (of layers, directions, gates and projection), once a time step and sample."""
    layers: Any = call.module
    tensor = call.tensor(0, "input")  # a PackedSequence is no tensor: its lengths are not in its shape
    if tensor is None:
        return None
    weights: int = sum(weight.numel() for layer in layers.all_weights for weight in layer if weight.dim() == 2)
    return prod(tensor.shape[:-1]) * weights


@register_macs(nn.RNNCell, nn.LSTMCell, nn.GRUCell)
def recurrent_cell(call: Call) -> int | None:
    cell: Any = call.module
    tensor = call.tensor(0, "input")
    if tensor is None:
        return None
    weights: int = cell.weight_ih.numel() + cell.weight_hh.numel()
    return prod(tensor.shape[:-1]) * weights


@register_macs(nn.TransformerEncoderLayer)
def transformer_encoder_layer(call: Call) -> int | None:
    layer: Any = call.module
    tensor = call.tensor(0, "src")
    if tensor is None:
        return None
    return _total([_attend(layer.self_attn, tensor, tensor), _feed_forward(layer, tensor)])


@register_macs(nn.TransformerDecoderLayer)
def transformer_decoder_layer(call: Call) -> int | None:
    layer: Any = call.module
    tensor, memory = call.tensor(0, "tgt"), call.tensor(1, "memory")
    if tensor is None or memory is None:
        return None
    attention = [_attend(layer.self_attn, tensor, tensor), _attend(layer.multihead_attn, tensor, memory)]
    return _total([*attention, _feed_forward(layer, tensor)])


@register_macs(nn.TransformerEncoder)
def transformer_encoder(call: Call) -> int | None:
    stack: Any = call.module
    return _stacked(stack, call.argument(0, "src"))


@register_macs(nn.TransformerDecoder)
def transformer_decoder(call: Call) -> int | None:
    stack: Any = call.module
    return _stacked(stack, call.argument(0, "tgt"), call.argument(1, "memory"))


@register_macs(nn.Transformer)
def transformer(call: Call) -> int | None:
    model: Any = call.module
    source, target = call.argument(0, "src"), call.argument(1, "tgt")
    return _total([_part(model.encoder, source, output=source), _part(model.decoder, target, source, output=target)])


def _stacked(stack: Any, tensor: Any, *memory: Any) -> int | None:
    """Layers one after the other, each as counted by its own handler, and the norm at the end."""
    parts = [*stack.layers, *([] if stack.norm is None else [stack.norm])]
    return _total(_part(part, tensor, *memory, output=tensor) for part in parts)


def _attend(attention: nn.Module, query: TensorInfo, memory: TensorInfo) -> int | None:
    return _part(attention, query, memory, memory, output=(query, None))


def _feed_forward(layer: Any, tensor: TensorInfo) -> int | None:
    hidden = TensorInfo((*tensor.shape[:-1], layer.linear1.out_features), tensor.dtype)
    return _total(
        [
            _part(layer.linear1, tensor, output=hidden),
            _part(layer.activation, hidden, output=hidden),
            _part(layer.linear2, hidden, output=tensor),
        ]
    )


def _part(operation: Operation, *args: Any, output: Any) -> int | None:
    return count(operation, Call(args, {}, output, operation if isinstance(operation, nn.Module) else None))


def _total(parts: Iterable[int | None]) -> int | None:
    """The sum, or None if any part is unknown."""
    total = 0
    for macs in parts:
        if macs is None:
            return None
        total += macs
    return total
