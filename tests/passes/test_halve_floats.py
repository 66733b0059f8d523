"""Biases and norms in half precision, where it has them, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture
from qpart_fx.passes.halve_floats import HalveFloats


def graph_of(model: nn.Module, x: Tensor) -> GraphModule:
    graph = capture(model.eval(), (x,))
    analyse(graph, (x[:1],), {})
    return graph


def with_bias(bias: list[float]) -> GraphModule:
    torch.manual_seed(0)
    layer = nn.Linear(3, len(bias))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(bias))
    return graph_of(nn.Sequential(layer), torch.randn(4, 3))


@pytest.mark.parametrize(
    "bias",
    [[0.1, -0.3, 1 / 3], [65504.0, 1.0, -7.1], [0.0, 0.0, 0.0], [-65000.123, 6.2e-5, 0.1], [1e-12, 0.1, -1e-30]],
)
def test_a_bias_becomes_the_nearest_in_half_precision(bias: list[float]) -> None:
    graph = with_bias(bias)
    result = HalveFloats().run(graph)
    assert not result.modified
    found = result.graph_module.get_parameter("0.bias")
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(bias).half().float())


@pytest.mark.parametrize("bias", [[1e5, 0.1], [-7e4, 1.0], [65520.0, 0.3], [3e38, 0.0]])
def test_a_bias_beyond_half_precision_stays(bias: list[float]) -> None:
    graph = with_bias(bias)
    HalveFloats().run(graph)
    assert torch.equal(graph.get_parameter("0.bias"), torch.tensor(bias))


def test_every_error_is_half_a_unit_of_eleven_bits_at_most() -> None:
    values = torch.logspace(-13, 15, 2000, base=2).tolist()
    graph = with_bias(values)
    HalveFloats().run(graph)
    before = torch.tensor(values)
    assert bool(((graph.get_parameter("0.bias") - before).abs() <= before * 2.0**-11).all())


def test_weights_stay_and_norms_do_not() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.uniform_(norm.weight)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), norm, nn.Conv2d(4, 4, 3))
    x = torch.randn(2, 3, 8, 8)
    graph = graph_of(model, x)
    weights = {name for node in graph.graph.nodes for name in info(node).weights}
    assert weights == {"0.weight", "3.weight"}
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    HalveFloats().run(graph)
    for name, value in graph.state_dict().items():
        if name in weights or value.dtype != torch.float32:
            assert torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name].half().float())
    assert not torch.equal(graph.get_buffer("2.running_var"), before["2.running_var"])


def test_other_dtypes_stay() -> None:
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(nn.Linear(3, 4)).double(), torch.randn(4, 3, dtype=torch.float64))
    before = graph.get_parameter("0.bias").clone()
    HalveFloats().run(graph)
    assert torch.equal(graph.get_parameter("0.bias"), before)


def test_doing_it_twice_is_doing_it_once() -> None:
    graph = with_bias([0.1, 0.2, 0.3])
    HalveFloats().run(graph)
    once = graph.get_parameter("0.bias").clone()
    HalveFloats().run(graph)
    assert torch.equal(graph.get_parameter("0.bias"), once)
