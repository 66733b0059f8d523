"""Weights: shared, raw, computed, in buffers and in layers that hold several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture
from tests.traps.harness import (
    CAPTURED,
    Traps,
    assert_exact_at_every_cut,
    linear,
    numbers,
    rows,
    tokens,
    weight,
    with_buffers,
)

trap = Traps()


# One module, or one weight, in several places.


@trap(fc=linear(), act=nn.ReLU(inplace=True))
def one_module_on_both_sides(self: Any, x: Tensor) -> Any:
    y = self.act(self.fc(x))
    z = self.act(self.fc(y) - 0.5)
    return self.act(self.fc(z) + y) + z


@trap(block=nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)))
def one_block_three_times(self: Any, x: Tensor) -> Any:
    for _ in range(3):
        x = self.block(x) + x
    return x


_SHARED = linear()


@trap(first=_SHARED, second=nn.Sequential(nn.ReLU(), _SHARED), third=nn.ModuleList([_SHARED]))
def one_module_under_three_names(self: Any, x: Tensor) -> Any:
    return self.third[0](self.second(self.first(x)))


@trap(tokens(), embed=nn.Embedding(11, 6), act=nn.GELU())
def a_decoder_tied_to_the_embedding(self: Any, x: Tensor) -> Any:
    y = self.act(self.embed(x))
    return F.linear(y, self.embed.weight), y @ self.embed.weight.t()


# Raw parameters.


@trap(w=weight(6, 4), b=weight(6), g=weight(6), v=weight(6, 3))
def functionals_with_raw_parameters(self: Any, x: Tensor) -> Any:
    y = F.layer_norm(F.linear(x, self.w, self.b), (6,), self.g, self.b, 1e-6)
    return torch.matmul(y, self.v) + torch.einsum("bi,io->bo", y, self.v) + y @ self.v


@trap(rows(3, 8, 8), k=weight(5, 3, 3, 3), b=weight(5), t=weight(5, 2, 2, 2))
def convolutions_with_raw_parameters(self: Any, x: Tensor) -> Any:
    return F.conv_transpose2d(F.conv2d(x, self.k, self.b, padding=1).relu_(), self.t, stride=2)


@trap(ws=nn.ParameterList([weight(4, 4), weight(4, 4)]), named=nn.ParameterDict({"last": weight(4, 3), "b": weight(3)}))
def lists_and_dictionaries_of_parameters(self: Any, x: Tensor) -> Any:
    for w in self.ws:
        x = torch.tanh(x @ w)
    return torch.addmm(self.named["b"], x, self.named["last"])


@trap(ws=nn.ParameterList([weight(4, 4), weight(4, 4)]))
def parameters_that_are_stacked(self: Any, x: Tensor) -> Any:
    stacked = torch.stack([*self.ws])
    y = torch.bmm(x.expand(2, -1, -1), stacked.mul(0.5))
    return y.sum(0).relu() @ stacked[1].t()


@trap(scale=weight(1), direction=weight(4, 4))
def a_weight_that_is_computed(self: Any, x: Tensor) -> Any:
    w = self.direction / self.direction.norm(dim=1, keepdim=True) * self.scale.exp()
    return F.linear(F.linear(x, w).relu(), w)


@trap(cls=weight(1, 1, 4), pos=weight(1, 9, 4), fc=linear())
def a_class_token_and_positions(self: Any, x: Tensor) -> Any:
    y = self.fc(x[:, None].expand(-1, 3, -1))
    y = torch.cat([self.cls.expand(x.shape[0], -1, -1), y], dim=1)
    return (y + self.pos[:, : y.shape[1]]).relu()[:, 0]


@trap(fc=linear(), unregistered=[numbers(4, 4), {"bias": numbers(4)}], plain=numbers(4))
def tensors_that_are_not_registered(self: Any, x: Tensor) -> Any:
    return self.fc(x @ self.unregistered[0]).relu() + self.unregistered[1]["bias"] * self.plain


# Buffers.


@trap(
    a=linear(),
    kept=with_buffers(nn.Module(), table=numbers(4)),
    gone=with_buffers(nn.Module(), persistent=False, table=numbers(4)),
)
def buffers_on_both_sides(self: Any, x: Tensor) -> Any:
    y = self.a(x * self.kept.table + self.gone.table)
    return y.relu() * self.kept.table + self.gone.table


@trap(
    rows(3, 6, 6),
    conv=nn.Conv2d(3, 4, 3),
    norm=nn.BatchNorm2d(4),
    moments=nn.BatchNorm2d(4, track_running_stats=False),
    instance=nn.InstanceNorm2d(4),
)
def norms_with_and_without_statistics(self: Any, x: Tensor) -> Any:
    return self.instance(self.moments(self.norm(self.conv(x)).relu()))


@trap(rows(5, 4), fc=linear(), kept=with_buffers(nn.Module(), mask=torch.ones(8, 8).tril().bool()))
def a_causal_mask(self: Any, x: Tensor) -> Any:
    length = x.shape[1]
    y = self.fc(x)
    scores = (y @ x.transpose(1, 2)).masked_fill(~self.kept.mask[:length, :length], float("-inf"))
    return scores.softmax(-1) @ y


# Modules that hold weights of their own.


class Conv1D(nn.Module):
    """As that of transformers: its weight is [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf, self.weight, self.bias = outputs, weight(inputs, outputs), weight(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


@trap(rows(5, 4), lstm=nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), fc=linear(12, 3))
def lstm(self: Any, x: Tensor) -> Any:
    sequence, (hidden, cell) = self.lstm(x)
    return self.fc(sequence[:, -1]), hidden.mean(0) + cell.mean(0)


@trap(rows(5, 4), a=nn.GRU(4, 6, batch_first=True), b=nn.RNN(6, 3, batch_first=True))
def gru_and_rnn(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x)[0].relu())[0][:, -1]


@trap(a=nn.LSTMCell(4, 5), b=nn.GRUCell(5, 3))
def cells(self: Any, x: Tensor) -> Any:
    hidden, cell = self.a(x)
    return self.b(hidden.relu()) + self.b(cell)


@trap(rows(5, 8), norm=nn.LayerNorm(8), attention=nn.MultiheadAttention(8, 2, batch_first=True), fc=linear(8, 3))
def attention(self: Any, x: Tensor) -> Any:
    y = self.norm(x)
    z, weights = self.attention(y, y, y)
    return self.fc(z + x), weights


@trap(tokens(), embed=nn.Embedding(11, 6, padding_idx=0), bag=nn.EmbeddingBag(11, 6, mode="mean"), fc=linear(6, 3))
def embeddings(self: Any, x: Tensor) -> Any:
    return self.fc(self.embed(x).mean(1) + self.bag(x))


@trap(tokens(), embed=nn.Embedding(11, 6, max_norm=1.0), fc=linear(6, 3))
def an_embedding_that_writes_to_its_weight(self: Any, x: Tensor) -> Any:
    return self.fc(self.embed(x).mean(1)) + self.embed(x[:, 0]).sum(1, keepdim=True)


@trap(rows(5, 4), a=Conv1D(4, 6), b=Conv1D(6, 3))
def transposed_linear_layers(self: Any, x: Tensor) -> Any:
    return self.b(F.gelu(self.a(x)))


@trap(a=nn.utils.parametrizations.weight_norm(linear()), b=nn.utils.parametrizations.spectral_norm(linear()))
def parametrizations(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x).relu())


@trap(a=nn.utils.parametrizations.orthogonal(linear()), b=linear())
def an_orthogonal_weight(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x).relu() @ self.a.weight)


@trap(rows(4, 9), a=nn.utils.weight_norm(nn.Conv1d(4, 5, 3)), b=nn.utils.spectral_norm(nn.Conv1d(5, 3, 3)))
def norms_of_weights_by_hooks(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x).relu())


@trap(a=linear(), b=torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())))
def a_scripted_part(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x)).exp()


@trap(table=weight(6, 4), norm=nn.LayerNorm(4), fc=linear())
def a_raw_parameter_goes_through_a_module(self: Any, x: Tensor) -> Any:
    return self.fc(x) @ self.norm(self.table).mT


@pytest.mark.parametrize("name", trap)
def test_exact_at_every_cut(name: str) -> None:
    assert_exact_at_every_cut(*trap[name])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("one_block_three_times", {"block_0": ["block.0.weight"], "block_2": ["block.2.weight"]}),
        ("one_module_under_three_names", {"first": ["first.weight"]}),
        ("a_decoder_tied_to_the_embedding", {"embed": ["embed.weight"]}),
        ("functionals_with_raw_parameters", {"linear": ["w"], "matmul": ["v"]}),
        ("convolutions_with_raw_parameters", {"conv2d": ["k"], "conv_transpose2d": ["t"]}),
        ("lists_and_dictionaries_of_parameters", {"matmul": ["ws.0"], "matmul_1": ["ws.1"], "addmm": ["named.last"]}),
        ("parameters_that_are_stacked", {"bmm": ["ws.0", "ws.1"]}),
        ("a_weight_that_is_computed", {"linear": ["direction"]}),
        ("cells", {"a": ["a.weight_hh", "a.weight_ih"], "b": ["b.weight_hh", "b.weight_ih"]}),
        ("attention", {"attention": ["attention.in_proj_weight", "attention.out_proj.weight"], "fc": ["fc.weight"]}),
        ("embeddings", {"embed": ["embed.weight"], "bag": ["bag.weight"], "fc": ["fc.weight"]}),
        ("transposed_linear_layers", {"addmm": ["a.weight"], "addmm_1": ["b.weight"]}),
        ("a_raw_parameter_goes_through_a_module", {"fc": ["fc.weight"], "norm": ["table"]}),
        ("parametrizations", {"a": ["a.weight"], "b": ["b.weight"]}),
        ("gru_and_rnn", {"a": ["a.weight_hh_l0", "a.weight_ih_l0"], "b": ["b.weight_hh_l0", "b.weight_ih_l0"]}),
    ],
)
def test_a_weight_is_found_once_where_it_is_first_used(name: str, weights: dict[str, list[str]]) -> None:
    model, inputs, *_ = trap[name]
    graph = capture(model, *inputs(CAPTURED))
    analyse(graph, *inputs(CAPTURED))
    found = {node.name: info(node).weights for node in graph.graph.nodes if info(node).weights}
    assert {node: sorted(of_node) for node, of_node in found.items()} == weights
    assert all(size == graph.get_parameter(each).numel() for sizes in found.values() for each, size in sizes.items())


def test_the_weights_of_a_scripted_part_are_counted() -> None:
    model, inputs, *_ = trap["a_scripted_part"]
    graph = capture(model, *inputs(CAPTURED))
    analyse(graph, *inputs(CAPTURED))
    assert sum(info(node).parameters for node in graph.graph.nodes) == 32


def test_a_weight_that_two_layers_share_counts_once_and_stays_shared() -> None:
    model = nn.Sequential(linear(), nn.ReLU(), linear(), linear())
    model[2].weight = model[0].weight
    model[3].weight = model[0].weight
    split = qpart.split(model, numbers(CAPTURED, 4), cut="_1")
    graph = capture(model, (numbers(CAPTURED, 4),))
    analyse(graph, (numbers(CAPTURED, 4),), {})
    assert sum(info(node).parameters for node in graph.graph.nodes) == 16
    assert [name for name, _ in split.tail.named_parameters()] == ["2.weight", "2.bias", "3.bias"]
    assert "0.weight" in split.head.state_dict()
