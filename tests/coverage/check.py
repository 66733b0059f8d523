"""Everything that is checked of one network, in a process of its own: ``python -m tests.coverage.check NAME``."""

from __future__ import annotations

import copy
import json
import logging
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.own_model import own_copy
from qpart_fx.passes import capture as ways
from qpart_fx.passes.capture import capture, capture_report
from qpart_fx.passes.count_macs import uncounted
from qpart_fx.passes.find_cuts import find_cuts
from qpart_fx.structure import take_apart
from tests.coverage.networks import NETWORKS, SEQUENCE_FIRST

Call = tuple[tuple[Any, ...], dict[str, Any]]

CACHES = ("past_key_values", "cache_params", "state")


def same(left: Any, right: Any) -> bool:
    """One structure, and the same bits."""
    tensors: tuple[list[Tensor], list[Tensor]] = ([], [])
    if take_apart(left, tensors[0]) != take_apart(right, tensors[1]) or type(left) is not type(right):
        return False
    return all(map(_same_bits, *tensors))


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bool(((left == right) | (left.isnan() & right.isnan())).all())


def attempt(what: Callable[[], Any]) -> Any:
    """What ``what`` returns, or in words why it failed."""
    try:
        return what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:2000]


def called(model: nn.Module, call: Call) -> tuple[Any]:
    """The output, in a tuple, for a copy of ``call``, which the model may write to."""
    args, kwargs = copy.deepcopy(call)
    return (model(*args, **kwargs),)


def sent(split: qpart.SplitModel, call: Call) -> Any:
    """The output of head, wire and tail."""
    args, kwargs = copy.deepcopy(call)
    return split.tail(*split.unpack_activation(split.pack_activation(split.head(*args, **kwargs))))


def resized(call: Call, dimension: int, change: Callable[[Any], Any]) -> Call:
    """``call`` with ``change`` made to every tensor of its batch, or to the list of images that is the batch."""
    args, kwargs = call
    if args and isinstance(args[0], list):
        return (change(args[0]), *args[1:]), kwargs
    size = next(leaf.shape[dimension] for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor))

    def of(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.dim() > dimension and leaf.shape[dimension] == size
        return change(leaf) if batched else leaf

    resized_args, resized_kwargs = pytree.tree_map(of, (args, kwargs))
    return resized_args, resized_kwargs


def other_batch(model: nn.Module, split: qpart.SplitModel, call: Call, dimension: int) -> bool | str:
    """Whether head and tail are the model for the first sample alone, and for the batch twice."""
    changes: tuple[Callable[[Any], Any], ...] = (
        lambda batch: batch[:1] if isinstance(batch, list) else batch.narrow(dimension, 0, 1),
        lambda batch: batch * 2 if isinstance(batch, list) else torch.cat((batch, batch), dimension),
    )
    found: list[bool | str] = []
    for change in changes:
        other = resized(call, dimension, change)
        expected = attempt(partial(called, model, other))
        if isinstance(expected, tuple):
            got = attempt(partial(lambda call: (sent(split, call),), other))
            found.append(same(got, expected) if isinstance(got, tuple) else f"frozen: {got}")
    if not found:
        return "the model takes no other"
    return all(found) if all(isinstance(each, bool) for each in found) else max(map(str, found), key=len)


@contextmanager
def timed_exports() -> Iterator[list[float]]:
    """The seconds of every call of torch.export: of the processor, which other work does not disturb."""
    export, seconds = torch.export.export, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return export(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - start)

    torch.export.export = timed
    try:
        yield seconds
    finally:
        torch.export.export = export


def compiled(model: nn.Module, call: Call, name: str) -> tuple[GraphModule, qpart.SplitModel, list[float | None], int]:
    """Graph, split at a random cut, the seconds of the way alone, of capture and of split, and the count of cuts."""
    with timed_exports() as exports:
        start = time.process_time()
        graph = capture(model, *call)
        captured = time.process_time()
    analyse(graph, *call)
    cuts = find_cuts(graph)
    cut = random.Random(name).choice(cuts)
    began = time.process_time()
    split = qpart.split(model, *call, cut=cut.crossing)
    done = time.process_time()
    way = capture_report(graph).way
    alone = exports[-1] if way.startswith("torch.export") else None
    if way == "symbolic_trace":
        own = copy.deepcopy(model)
        tracing = time.process_time()
        ways._traced(own)
        alone = time.process_time() - tracing
    return graph, split, [alone, captured - start, done - began], len(cuts)


def reference_macs(graph: GraphModule, call: Call) -> int:
    """torch's own count, with every fused kernel that it does not look into taken apart."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
        ):
            called(graph, call)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops() // 2)


def weights(graph: GraphModule, model: nn.Module, call: Call, expected: Any) -> dict[str, Any]:
    """Elements of weights, counted three ways: by node, of what the graph uses, and of the model.

    What the model has and the graph does not is ``unused``; that it truly is, NaN in its place must not be noticed.
    """
    targets = {str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module") and node.users}
    own = own_copy(model)
    used = {
        id(parameter): parameter
        for name, parameter in graph.named_parameters(remove_duplicate=False)
        if any(name == target or name.startswith(f"{target}.") for target in targets)
    }
    names: dict[int, list[str]] = {}
    for name, parameter in own.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    known = {name for name, parameter in graph.named_parameters(remove_duplicate=False) if id(parameter) in used}
    # An opaque node holds the part of the model that it calls, under names that end as the model's do.
    within = tuple(f".{name.split('.owner.', 1)[1]}" for name in known if ".owner." in name)
    known |= {name for same in names.values() for name in same if within and f".{name}".endswith(within)}
    every = {id(parameter): parameter for parameter in own.parameters()}
    unused = {names[key][0]: parameter for key, parameter in every.items() if not known.intersection(names[key])}
    for parameter in unused.values():
        parameter.fill_(torch.nan)
    output = attempt(partial(called, own, call))
    return {
        "parameters": sum(info(node).parameters for node in graph.graph.nodes),
        "of the graph": _elements({str(key): parameter for key, parameter in used.items()}),
        "of the model": _elements({str(key): parameter for key, parameter in every.items()}),
        "unused": {name: parameter.numel() for name, parameter in unused.items() if _is_weight(parameter)},
        "unused indeed": same(output, (expected,)),
    }


def _elements(parameters: Mapping[str, Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters.values() if _is_weight(parameter))


def _is_weight(parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and parameter.is_floating_point()


def require_cache(output: Any, wanted: bool) -> None:
    """A network that is asked for its cache returns it, and one that is asked for none does not."""
    held = [name for name in CACHES if getattr(output, name, None) is not None]
    if bool(held) != wanted:
        raise AssertionError(f"the output of the network itself holds {held or 'no cache'}")


def check(name: str) -> dict[str, Any]:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    args, kwargs = call = inputs()
    found: dict[str, Any] = {"name": name}
    with torch.no_grad():
        itself = copy.deepcopy(model)  # a run may leave results in it
        (expected,) = called(itself, call)
        if not same(called(itself, call), (expected,)):
            raise AssertionError("the network itself gives another output each time")
        if f"{name} without cache" in NETWORKS or name.endswith(" without cache"):
            require_cache(expected, not name.endswith(" without cache"))
        state = {key: value.clone() for key, value in model.state_dict().items()}

        split = qpart.split(model, args, kwargs)
        found["middle"] = attempt(lambda: same(sent(split, call), expected))
        found["untouched"] = all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        found["other batch"] = other_batch(itself, split, call, 1 if name in SEQUENCE_FIRST else 0)

        runs = [compiled(model, call, name) for _ in range(3)]
        graph, drawn, _, found["cuts"] = runs[0]
        times = zip(*(seconds for _, _, seconds, _ in runs), strict=True)
        found["seconds"] = [None if None in each else min(each) for each in times]
        found["random"] = attempt(lambda: same(sent(drawn, call), expected))
        found["way"], found["failed"] = capture_report(graph).way, dict(capture_report(graph).failed)

        found["uncounted"] = sorted(set(uncounted(graph).values()))
        found["macs"] = sum(info(node).macs or 0 for node in graph.graph.nodes)
        found["flops / 2"] = attempt(lambda: reference_macs(graph, call))
        found["weights"] = attempt(lambda: weights(graph, model, call, expected))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    outcome = attempt(lambda: check(sys.argv[1]))
    print(json.dumps(outcome if isinstance(outcome, dict) else {"name": sys.argv[1], "error": outcome}))
