"""Whole models of other kinds: hooked, scripted, compiled, exported, split already, of other dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace
from torch.nn.utils import prune

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_cuts import find_cuts
from tests.traps.harness import (
    CAPTURED,
    Plain,
    assert_exact_at_every_cut,
    linear,
    net,
    numbers,
    rows,
    run,
    run_split,
    same,
    split_of,
    with_buffers,
)


def changed(change: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Plain().eval()
        change(model)
        return model

    return make


def hooked(path: str, hook: Any, *, before: bool = False, **options: Any) -> Callable[[], nn.Module]:
    def register(model: nn.Module) -> None:
        module = model.get_submodule(path)
        (module.register_forward_pre_hook if before else module.register_forward_hook)(hook, **options)

    return changed(register)


def tripled(module: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> tuple[tuple[Tensor], dict[str, Any]]:
    return (args[0] * 3,), kwargs


def hook_backward(module: nn.Module) -> None:
    module.register_full_backward_hook(lambda *_: None)


def train_a_step(model: Any) -> None:
    model.train()(numbers(8, 4)).sum().backward()


def replace_forward(model: Any) -> None:
    original = model.forward
    model.forward = lambda x: original(x) * 2


def bind_forward(model: Any) -> None:
    model.forward = MethodType(lambda self, x: Plain.forward(self, x) * 2, model)


class Called(Plain):
    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x) + 1


MODELS: dict[str, Callable[[], nn.Module]] = {
    "in train mode": lambda: Plain().train(),
    "having trained": changed(train_a_step),
    "in part in train mode": changed(lambda model: model.norm.train()),
    "frozen": changed(lambda model: model.requires_grad_(False)),
    "forward of an instance": changed(replace_forward),
    "forward bound to an instance": changed(bind_forward),
    "hook on a layer": hooked("first", lambda module, args, out: out * 2),
    "hook on a norm": hooked("norm", lambda module, args, out: out + args[0]),
    "hook that returns nothing": hooked("first", lambda module, args, out: None),
    "hook that writes in place": hooked("first", lambda module, args, out: out.add_(1)),
    "hook on the root that adds": hooked("", lambda module, args, out: out + 1),
    "hook on the root": hooked("", lambda module, args, out: {"scores": out, "given": args[0]}),
    "pre-hook on a layer": hooked("second", lambda module, args: (args[0] + 1,), before=True),
    "pre-hook that returns a tensor": hooked("norm", lambda module, args: args[0] / 2, before=True),
    "pre-hook on the root": hooked("", lambda module, args: (args[0].clamp(-1, 1),), before=True),
    "pre-hook with keywords": hooked("norm", tripled, before=True, with_kwargs=True),
    "backward hooks": changed(lambda model: [*map(hook_backward, model.modules())]),
    "data parallel": lambda: nn.DataParallel(Plain().eval()),
    "compiled": lambda: torch.compile(Plain().eval(), backend="eager"),  # type: ignore[dict-item, return-value]
    "scripted": lambda: torch.jit.script(Plain().eval()),
    "traced": lambda: torch.jit.trace(Plain().eval(), numbers(CAPTURED, 4)),
    "pruned": changed(lambda model: prune.l1_unstructured(model.first, "weight", 0.5)),
    "called by a class of its own": lambda: Called().eval(),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(Plain()).eval(),
    "traced by fx": lambda: symbolic_trace(Plain().eval()),
    "traced by fx in train mode": lambda: symbolic_trace(Plain().train()),
    "split already": lambda: qpart.split(Plain().eval(), numbers(CAPTURED, 4)),
    "sequential": lambda: nn.Sequential(Plain(), nn.Sequential(nn.ReLU(), nn.Identity()), linear()).eval(),
    "sequential of one layer three times": lambda: nn.Sequential(*[Plain()] * 3).eval(),
    "single layer": lambda: nn.Linear(4, 3).eval(),
    "empty sequential": lambda: nn.Sequential(),
    "identity": lambda: nn.Identity(),
    "two layers of one parameter": changed(lambda model: setattr(model.second, "weight", model.first.weight)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_other_kinds(kind: str) -> None:
    assert_exact_at_every_cut(MODELS[kind](), rows(4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes(dtype: torch.dtype) -> None:
    assert_exact_at_every_cut(Plain().eval().to(dtype), lambda size: ((numbers(size, 4).to(dtype),), {}))


def test_a_complex_model() -> None:
    layers = [nn.Linear(4, 4, dtype=torch.complex64) for _ in range(2)]
    assert_exact_at_every_cut(nn.Sequential(*layers), lambda size: ((numbers(size, 4) + 1j,), {}))


# Graph modules.


def exported(*, dynamic: bool, decomposed: bool) -> nn.Module:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(Plain().eval(), (numbers(CAPTURED, 4),), dynamic_shapes=shapes)
    return (program.run_decompositions() if decomposed else program).module()


@pytest.mark.parametrize("decomposed", [False, True])
def test_an_exported_module_of_any_batch_size(decomposed: bool) -> None:
    assert_exact_at_every_cut(exported(dynamic=True, decomposed=decomposed), rows(4))


@pytest.mark.parametrize("decomposed", [False, True])
def test_an_exported_module_of_one_batch_size(decomposed: bool) -> None:
    model, call = exported(dynamic=False, decomposed=decomposed), rows(4)(CAPTURED)
    split = qpart.split(model, *call)
    assert same(run_split(split, call), run(model, call))
    with pytest.raises((AssertionError, RuntimeError)):
        run(split, rows(4)(CAPTURED + 1))


def test_a_graph_module_that_writes_to_a_buffer() -> None:
    graph = Graph()
    x, calls = graph.placeholder("x"), graph.get_attr("calls")
    graph.call_method("add_", (calls, 1))
    y = graph.call_method("relu", (graph.call_module("fc", (x,)),))
    graph.output(graph.call_method("mul", (y, calls)))
    owner = with_buffers(net(lambda self: None, fc=linear()), calls=torch.zeros(4))
    call = rows(4)(CAPTURED)
    captured = capture(GraphModule(owner, graph).eval(), *call)
    analyse(captured, *call)
    for cut in find_cuts(captured):
        assert same(run_split(split_of(captured, cut), call), run(copy.deepcopy(captured), call)), cut.crossing
