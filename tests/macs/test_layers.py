"""Attention, recurrent layers and transformers as single calls: our count against torch's of what they run."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from qpart_fx.macs.table import Call, count
from tests.macs.oracle import by_torch, macs, one_call, ours

r = torch.randn
Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("query", "key", "value", "mask", "options"),
    [
        ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), None, {}),
        ((2, 3, 4, 8), (2, 3, 4, 8), (2, 3, 4, 6), None, {"is_causal": True}),
        ((2, 6, 3, 8), (2, 2, 5, 8), (2, 2, 5, 7), None, {"enable_gqa": True}),
        ((1, 3, 4, 8), (2, 3, 5, 8), (2, 1, 5, 6), None, {}),
        ((1, 4, 8), (1, 5, 8), (2, 5, 6), None, {"scale": 0.5}),
        ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), (2, 1, 4, 5), {}),
        ((4, 8), (5, 8), (5, 6), None, {}),
    ],
)
def test_scaled_dot_product_attention(
    query: Shape, key: Shape, value: Shape, mask: Shape | None, options: dict[str, Any]
) -> None:
    tensors = [r(query), r(key), r(value)]
    masked = {} if mask is None else {"attn_mask": r(mask)}
    expected = by_torch(F.scaled_dot_product_attention, *tensors, **masked, **options)
    assert ours(F.scaled_dot_product_attention, *tensors, **masked, **options) == expected > 0


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, [(3, 2, 12)] * 3),
        ({"batch_first": True}, [(2, 3, 12)] * 3),
        ({"batch_first": True, "bias": False}, [(2, 3, 12), (2, 5, 12), (2, 5, 12)]),
        ({"kdim": 7, "vdim": 9}, [(3, 2, 12), (5, 2, 7), (5, 2, 9)]),
        ({"kdim": 7, "vdim": 9, "batch_first": True}, [(3, 12), (5, 7), (5, 9)]),
        ({"add_bias_kv": True, "batch_first": True}, [(2, 3, 12), (2, 5, 12), (2, 5, 12)]),
        ({"add_zero_attn": True, "add_bias_kv": True}, [(3, 2, 12), (5, 2, 12), (5, 2, 12)]),
    ],
)
def test_multihead_attention(options: dict[str, Any], shapes: list[Shape], need_weights: bool) -> None:
    tensors = [r(shape) for shape in shapes]
    module = nn.MultiheadAttention(12, 3, **options).eval()
    expected = by_torch(module, *tensors, need_weights=need_weights)
    assert ours(module, *tensors, need_weights=need_weights) == expected > 0


def test_multihead_attention_of_itself() -> None:
    x = r(2, 5, 12)
    module = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    expected = 2 * (4 * 5 * 12 * 12 + 2 * 5 * 5 * 12)
    assert ours(module, x, x, x) == by_torch(module, x, x, x) == expected


@pytest.mark.parametrize(
    ("zero", "bias", "options"),
    [
        (False, None, {}),
        (True, None, {}),
        (False, r(1, 1, 12), {}),
        (False, None, {"static_k": r(6, 8, 4), "static_v": r(6, 8, 4)}),
        (
            False,
            None,
            {
                "use_separate_proj_weight": True,
                "q_proj_weight": r(12, 12),
                "k_proj_weight": r(12, 7),
                "v_proj_weight": r(12, 9),
            },
        ),
    ],
)
def test_multi_head_attention_function(zero: bool, bias: Tensor | None, options: dict[str, Any]) -> None:
    separate = "q_proj_weight" in options
    key, value = (r(5, 2, 7), r(5, 2, 9)) if separate else (r(5, 2, 12), r(5, 2, 12))
    projection = (None if separate else r(36, 12), r(36), bias, bias, zero, 0.0, r(12, 12), r(12))
    arguments = (r(3, 2, 12), key, value, 12, 3, *projection)
    expected = by_torch(F.multi_head_attention_forward, *arguments, training=False, **options)
    assert ours(F.multi_head_attention_forward, *arguments, training=False, **options) == expected > 0


# Recurrent layers: unrolled into explicit linears, which torch's counter sees


def one_step(kind: str, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    w_ih, w_hh, b_ih, b_hh, *projection = weights
    from_input, from_hidden = F.linear(x, w_ih, b_ih), F.linear(state[0], w_hh, b_hh)
    if kind == "RNN":
        return [torch.tanh(from_input + from_hidden)]
    if kind == "GRU":
        (ri, zi, ni), (rh, zh, nh) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
        update = torch.sigmoid(zi + zh)
        return [(1 - update) * torch.tanh(ni + torch.sigmoid(ri + rh) * nh) + update * state[0]]
    i, f, g, o = (from_input + from_hidden).chunk(4, -1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return [F.linear(hidden, projection[0]) if projection else hidden, cell]


def unrolled(layers: Any, x: Tensor) -> Tensor:
    """What an nn.RNN, nn.LSTM or nn.GRU returns for a sequence (time, batch, features), step by step."""
    weights = list(layers.all_weights)
    for _ in range(layers.num_layers):
        outputs = []
        for reverse in range(2 if layers.bidirectional else 1):
            mine = weights.pop(0)
            state = [torch.zeros(x.shape[1], mine[1].shape[1]), torch.zeros(x.shape[1], layers.hidden_size)]
            steps = []
            for step in reversed(x) if reverse else x:
                state = one_step(type(layers).__name__, step, state, mine)
                steps.append(state[0])
            outputs.append(torch.stack(steps[::-1] if reverse else steps))
        x = torch.cat(outputs, -1)
    return x


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "projection"), [("RNN", 0), ("GRU", 0), ("LSTM", 0), ("LSTM", 2)])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_recurrent_layers(kind: str, projection: int, bidirectional: bool, layers: int) -> None:
    options = {"proj_size": projection} if projection else {}
    module = getattr(nn, kind)(4, 5, layers, bidirectional=bidirectional, **options)
    x = r(4, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(unrolled(module, x), module(x)[0])
    expected = by_torch(unrolled, module, x)
    assert ours(module, x) == expected > 0
    module.batch_first = True
    assert ours(module, x.transpose(0, 1)) == expected
    assert ours(module, x[:, 0]) * 3 == expected  # one sequence without a batch


def test_lstm_by_formula() -> None:
    module = nn.LSTM(4, 5, 2, bias=False, bidirectional=True, proj_size=2)
    first, second = 4 * 5 * (4 + 2) + 5 * 2, 4 * 5 * (2 * 2 + 2) + 5 * 2
    with warnings.catch_warnings(action="ignore"):
        assert ours(module, r(7, 3, 4)) == 7 * 3 * 2 * (first + second)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_cells(kind: str) -> None:
    module = getattr(nn, f"{kind}Cell")(4, 5)
    weights = [module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh]
    expected = by_torch(one_step, kind, r(3, 4), [r(3, 5), r(3, 5)], weights)
    assert ours(module, r(3, 4)) == expected > 0
    assert ours(module, r(4)) * 3 == expected


def test_a_packed_sequence_is_unknown() -> None:
    packed = PackedSequence(r(5, 4), torch.tensor([3, 2]))
    module = nn.LSTM(4, 5)
    assert count(module, Call((packed,), {}, None, module)) is None


# Transformers


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_transformers(batch_first: bool, norm_first: bool) -> None:
    options: dict[str, Any] = {"dim_feedforward": 21, "batch_first": batch_first, "norm_first": norm_first}
    source, target = ((2, 7, 12), (2, 5, 12)) if batch_first else ((7, 2, 12), (5, 2, 12))
    encoder_layer = nn.TransformerEncoderLayer(12, 3, activation="gelu", **options)
    decoder_layer = nn.TransformerDecoderLayer(12, 3, activation=nn.SiLU(), **options)
    cases: list[tuple[nn.Module, tuple[Shape, ...]]] = [
        (encoder_layer, (source,)),
        (encoder_layer, ((7, 12),)),
        (decoder_layer, (target, source)),
        (nn.TransformerEncoder(encoder_layer, 3, enable_nested_tensor=False), (source,)),
        (nn.TransformerDecoder(decoder_layer, 2, nn.LayerNorm(12)), (target, source)),
        (nn.Transformer(12, 3, 2, 3, **options), (source, target)),
    ]
    for module, shapes in cases:
        inputs = [r(shape) for shape in shapes]
        assert ours(module, *inputs) == by_torch(module.eval(), *inputs) > 0


class Whitening(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.mT @ x


def test_a_transformer_with_unknown_parts_is_unknown() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 21, activation=lambda x: x @ x.mT @ x)
    assert macs(one_call(layer, r(4, 2, 12)))["call"] is None
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3), 2, enable_nested_tensor=False)
    assert macs(one_call(stack, r(4, 2, 12)))["call"] is not None
    stack.layers[1] = layer
    assert macs(one_call(stack, r(4, 2, 12)))["call"] is None
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3), 2, Whitening(), enable_nested_tensor=False)
    assert macs(one_call(stack, r(4, 2, 12)))["call"] is None
