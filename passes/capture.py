"""The front end: any ``nn.Module`` in, an FX graph of its inference out, the caller's module untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from qpart_fx.errors import CaptureError, QPartError
from qpart_fx.exporting import export_graph
from qpart_fx.graph_parts import graph_module_of
from qpart_fx.inputs import copied, describe_inputs, device_of, in_order
from qpart_fx.meta import info, where
from qpart_fx.own_model import left_as_it_was, own_copy
from qpart_fx.recording import record, unwind_transforms
from qpart_fx.structure import PLAIN, take_apart
from qpart_fx.tracing import trace, trace_around, trace_call

_KEY = "qpart_capture"

_LONGEST = 300
"""Characters of another library's message that are passed on: torch.export's may have tens of thousands."""

_THIS_SIZE = "this batch size"
"""Ends the names of the ways that are taken when no other will do."""


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """How a graph was captured: ``way``, and for each way that was tried before, why it ``failed``."""

    way: str
    failed: Mapping[str, str]

    @property
    def frozen(self) -> bool:
        """Whether the graph takes no other batch size than the example's."""
        return self.way.endswith(_THIS_SIZE)


def capture(
    model: nn.Module,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    inputs_error: type[QPartError] = CaptureError,
) -> GraphModule:
    """The graph of ``model`` in eval mode, over a copy of it: nothing of the caller's module is changed or shared.

    With example inputs ``args`` and ``kwargs`` it does not give up easily: symbolic tracing; tracing beside a run of
    the call; ``torch.export`` with a batch of any size, and of this size; tracing beside a run, with what depends on
    the contents of tensors as opaque nodes. A graph counts only if it gives what the module gives on the example, bit
    for bit, and on its first sample alone where the module takes that (give an example of two samples or more). Its
    nodes are annotated as PropagateShapes does for this call. :func:`capture_report` says which way was taken, and why
    others failed.

    Raises:
        CaptureError: the module cannot be copied, or captured in any way; the message says at which line of its source.
            Or, as an ``inputs_error``, the module itself does not run on the example inputs.
        ModelError: a parameter or buffer is NaN or infinite.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    device = device_of(model)
    with torch.inference_mode(False), torch.random.fork_rng([device] if device.type == "cuda" else []):
        own = own_copy(model)
        if isinstance(own, GraphModule) and type(own.graph._codegen) is CodeGen:
            if args is not None:
                record(own, args, kwargs or {})
                if node := _random_node(own):
                    raise CaptureError(f"{where(node)} is random: {_RANDOM}")
            return _reported(own, "as it is", {})
        if args is None:
            return _first({"symbolic_trace": lambda: _traced(own)}, own, lambda graph, way: "")
        return _verified(own, args, in_order(own, kwargs or {}), inputs_error)


def _verified(
    own: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs_error: type[QPartError]
) -> GraphModule:
    """The first graph that gives what ``own`` does for this call, and for its first sample alone."""
    expected, leaves_state = _expected(own, args, kwargs, inputs_error)
    single = _single(own, args, kwargs)

    def differs(graph: GraphModule, way: str) -> str:
        if not _same(record(graph, args, kwargs), expected):
            return "its output is not the module's"
        if node := _random_node(graph):
            return f"{where(node)} is random"
        if single is None or way.endswith(_THIS_SIZE):
            return ""
        with left_as_it_was(graph):
            same = _same(_run(graph, *single[0], CaptureError), single[1])
        return "" if same else "its output is not the module's at another batch size"

    ways: dict[str, Callable[[], GraphModule]] = {
        "symbolic_trace": lambda: _traced(own),
        "tracing beside a run": lambda: trace_call(own, args, kwargs),
        "torch.export, any batch size": lambda: export_graph(own, args, kwargs, expected, dynamic=True),
        f"torch.export, {_THIS_SIZE}": lambda: export_graph(own, args, kwargs, expected, dynamic=False),
        "tracing beside a run, around opaque parts": lambda: trace_around(own, args, kwargs),
        f"tracing beside a run, around opaque parts, {_THIS_SIZE}": lambda: trace_around(own, args, kwargs),
    }
    try:
        return _first(ways, own, differs)
    except CaptureError:
        if not leaves_state:
            raise
    _run(own, args, kwargs, inputs_error)  # a first call may put in place what later ones can be traced with
    return _first(ways, own, differs)


def _expected(
    own: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs_error: type[QPartError]
) -> tuple[Any, bool]:
    """The output of ``own`` for the example, if a graph can give it: one that holds values, the same every time.

    Also whether the call leaves something behind in the model.
    """
    name, random = type(own).__name__, torch.get_rng_state()
    with left_as_it_was(own) as state:
        expected = _run(own, args, kwargs, inputs_error)
        drawn, changed = not torch.equal(random, torch.get_rng_state()), state.changed()
        again = _run(own, args, kwargs, inputs_error) if drawn or changed else expected
    if isinstance(expected, PLAIN):
        raise CaptureError(f"{name} returns {expected!r}, with no tensor in it: there is nothing to split")
    try:
        same = _same(expected, again)
    except TypeError as error:
        raise CaptureError(f"the output of {name} cannot be taken apart: {error}") from error
    if not same and drawn:
        raise CaptureError(f"the output of {name} is random, also in eval mode: {_RANDOM}")
    if not same:
        raise CaptureError(
            f"{name} keeps state from call to call that its output follows: no split could give the same; take the "
            "state as an input and return the new one"
        )
    return expected, changed


_RANDOM = "no split could give the same; take random numbers as an input"


def _random_node(graph: GraphModule) -> Node | None:
    """A node that draws random numbers that the output depends on."""
    needed: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op == "output" or info(node).writes or needed.intersection(node.users):
            needed.add(node)
    return next((node for node in graph.graph.nodes if node in needed and info(node).random), None)


def capture_report(graph_module: GraphModule) -> CaptureReport:
    """How ``graph_module`` was captured."""
    report = graph_module.meta.get(_KEY)
    return report if isinstance(report, CaptureReport) else CaptureReport("unknown", {})


def _first(
    ways: Mapping[str, Callable[[], GraphModule]], model: nn.Module, differs: Callable[[GraphModule, str], str]
) -> GraphModule:
    """What the first of ``ways`` makes whose graph does not differ from ``model``."""
    failed: dict[str, str] = {}
    causes: list[Exception] = []
    for way, make in ways.items():
        try:
            with left_as_it_was(model):
                graph = make()
            if reason := differs(graph, way):
                failed[way] = reason
            else:
                return _reported(graph, way, failed)
        except Exception as error:
            unwind_transforms()
            failed[way] = _place(error, model) + (str(error).strip().splitlines() or [repr(error)])[0][:_LONGEST]
            causes.append(error)
    reasons = "; ".join(f"{way}: {reason}" for way, reason in failed.items())
    remedy = "take the decision out of forward, as an argument that is no tensor, or compile a submodule instead"
    raise CaptureError(f"{type(model).__name__} cannot be captured. {reasons}. Remedy: {remedy}") from (
        causes[0] if causes else None
    )


def _reported(graph: GraphModule, way: str, failed: Mapping[str, str]) -> GraphModule:
    graph.meta[_KEY] = CaptureReport(way, dict(failed))
    return graph


def _traced(model: nn.Module) -> GraphModule:
    return graph_module_of(trace(model), model, type(model).__name__)


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], failure: type[Exception]) -> Any:
    """The output on copies of the inputs, which the model may write to."""
    own_args, own_kwargs = copied((args, dict(kwargs)))
    try:
        with torch.no_grad():
            return model(*own_args, **own_kwargs)
    except Exception as error:
        raise failure(
            f"{_place(error, model)}the model does not accept {describe_inputs(args, kwargs)}: {error}"
        ) from error


def _single(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[tuple[Any, ...], Mapping[str, Any]], Any] | None:
    """The first sample of a call and the output for it; None if there is but one, or the model does not take it."""
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    size = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)
    if size < 2:
        return None

    def first(leaf: Any) -> Any:
        return leaf[:1] if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size else leaf

    call = pytree.tree_map(first, args), pytree.tree_map(first, dict(kwargs))
    try:
        with left_as_it_was(model):
            return call, _run(model, call[0], call[1], CaptureError)
    except CaptureError:
        return None


def _same(left: Any, right: Any) -> bool:
    """Whether two outputs have one structure and the same bits."""
    left_tensors: list[Tensor] = []
    right_tensors: list[Tensor] = []
    structures = take_apart(left, left_tensors), take_apart(right, right_tensors)
    return structures[0] == structures[1] and all(map(_same_bits, left_tensors, right_tensors))


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left, right) or bool(((left == right) | (left.isnan() & right.isnan())).all())


def _place(error: BaseException, model: nn.Module) -> str:
    """Where in ``model`` the error arose: the innermost submodule, and the line of its forward."""
    names = {id(module): name for name, module in model.named_modules()}
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code, owner = trace.tb_frame.f_code, trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names and code.co_name == "forward":
            module = f"in '{names[id(owner)]}', " if names[id(owner)] else ""
            place = f"{module}at {code.co_filename}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return place
