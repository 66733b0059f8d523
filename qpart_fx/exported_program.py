"""A head or a tail by ``torch.export``, for any batch size, its quantized weights as integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from .exporting import quiet
from .failing_node import failure, require_no_opaque
from .graph_parts import with_parts
from .inputs import copied, require_tensors
from .quantized import weight_quantizers
from .quantizer import ChannelQuantizer, FakeQuantize, UniformQuantizer, WeightQuantizer


def exported_program(
    graph_module: GraphModule,
    args: Sequence[Any],
    target: str,
    *,
    integers: Callable[[Tensor], bool] = lambda _: True,
    most: int | None = None,
) -> ExportedProgram:
    """The program of a head or a tail. Its arithmetic is that of the graph, operation by operation.

    Args:
        args: example values of its placeholders, samples along the first dimensions.
        target: what it is for, for messages.
        integers: whether a quantized weight is held as integers; the others are floats on their grids.
        most: samples that it is called with at once; None for any number.

    Raises:
        ModelError: ``torch.export`` cannot hold what it calls; names the node.
        RequestError: an input is no tensor.
    """
    require_tensors(graph_module, args, target)
    require_no_opaque(graph_module, target)

    quantizers = weight_quantizers(graph_module)
    chosen = {name: each for name, each in quantizers.items() if integers(graph_module.get_parameter(name))}
    plain = _with_plain_rounding(graph_module)
    whole = _OfIntegers(plain, chosen) if chosen else plain
    try:
        return _export(whole, copied(tuple(args)), most)
    except Exception as error:  # torch.export raises what its parts do
        raise failure(plain, args, target, _export, error) from error


def _export(module: nn.Module, args: tuple[Any, ...], most: int | None = None) -> ExportedProgram:
    sizes = {value.shape[0] for value in args if value.dim()}
    batch = torch.export.Dim.AUTO(max=most) if most else torch.export.Dim.AUTO
    shapes: Any = tuple({0: batch} if value.dim() and len(sizes) == 1 else None for value in args)
    if isinstance(module, _OfIntegers):
        shapes = (shapes,)  # all in the one parameter *args
    with quiet(), torch.no_grad():
        return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)


def _with_plain_rounding(graph_module: GraphModule) -> GraphModule:
    """The same graph over the same parts, but for what rounds: by numbers, not tensors, as every runtime takes it."""
    modules = dict(graph_module.named_modules())
    made = {name: _Round(each.quantizer) for name, each in modules.items() if isinstance(each, FakeQuantize)}
    return with_parts(graph_module, made)


class _Round(nn.Module):
    """A :class:`FakeQuantize` in a program."""

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, values: Tensor) -> Tensor:
        return self.quantizer(values)


class _OfIntegers(nn.Module):
    """A graph whose quantized weights are buffers of integers."""

    def __init__(self, graph_module: GraphModule, quantizers: Mapping[str, WeightQuantizer]) -> None:
        super().__init__()
        floats = {name: graph_module.get_parameter(name) for name in quantizers}
        nothing = {id(weight): nn.Parameter(torch.empty(0), requires_grad=False) for weight in floats.values()}
        self.graph_module = deepcopy(
            graph_module, dict(nothing)
        )  # without the floats, which the program would hold too
        self.weights = {name: _Weight(floats[name], each) for name, each in quantizers.items()}
        for place, weight in enumerate(self.weights.values()):
            self.add_module(f"weight_{place}", weight)

    def forward(self, *args: Any) -> Any:
        weights = {name: weight() for name, weight in self.weights.items()}
        return torch.func.functional_call(self.graph_module, weights, args)


class _Weight(nn.Module):
    """A weight made of its codes, as its quantizer makes it."""

    codes: Tensor
    step: Tensor

    def __init__(self, weight: Tensor, quantizer: WeightQuantizer) -> None:
        super().__init__()
        codes = quantizer.encode(weight.detach())
        self.dtype = weight.dtype
        if isinstance(quantizer, ChannelQuantizer):
            self.zero = 0
            step = ChannelQuantizer.steps_of(quantizer.exponents).reshape(-1, *[1] * (weight.dim() - 1))
        else:
            # codes of bits without a sign, less their middle, fit integers with one
            self.zero, middle = quantizer.zero_point - 2 ** (quantizer.bits - 1), 2 ** (quantizer.bits - 1)
            codes, step = codes - middle, torch.tensor(quantizer.step, dtype=torch.float32)
        self.register_buffer("codes", codes.to(torch.int8 if quantizer.bits <= 8 else torch.int16))
        self.register_buffer("step", step)

    def forward(self) -> Tensor:
        values = self.codes.to(torch.float32)
        return ((values - self.zero if self.zero else values) * self.step).to(self.dtype)
