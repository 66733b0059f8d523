"""Everything that is checked of one network, in a process of its own: ``python -m tests.coverage.check NAME``."""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture, capture_report
from qpart_fx.passes.count_macs import uncounted
from qpart_fx.passes.find_cuts import find_cuts
from qpart_fx.passes.split_at_cut import split_at_cut
from qpart_fx.structure import take_apart
from tests.coverage.networks import NETWORKS


def same(left: Any, right: Any) -> bool:
    """One structure, and the same bits."""
    tensors: tuple[list[Tensor], list[Tensor]] = ([], [])
    if take_apart(left, tensors[0]) != take_apart(right, tensors[1]) or type(left) is not type(right):
        return False
    return all(
        torch.equal(*pair) or torch.equal(pair[0].isnan(), pair[1].isnan()) for pair in zip(*tensors, strict=True)
    )


def as_sent(payload: tuple[Any, ...]) -> tuple[Any, ...]:
    """The payload as it arrives: other memory, the same bits."""
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in payload)


def check(name: str) -> dict[str, Any]:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    args, kwargs = inputs()
    found: dict[str, Any] = {"name": name}
    with torch.no_grad():
        expected = model(*args, **kwargs)
        state = {key: value.clone() for key, value in model.state_dict().items()}

        split = qpart.split(model, args, kwargs)
        found["middle"] = same(split.tail(*as_sent(split.head(*args, **kwargs))), expected)
        found["untouched"] = all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

        start = time.perf_counter()
        graph = capture(model, args, kwargs)
        captured = time.perf_counter()
        analyse(graph, args, kwargs)
        cuts = find_cuts(graph)
        cut = random.Random(name).choice(cuts)
        head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
        found["seconds"] = [captured - start, time.perf_counter() - captured]
        found["random"] = same(tail(*as_sent(head(*args, **kwargs))), expected)
        found["way"], found["cuts"] = capture_report(graph).way, len(cuts)

        found["uncounted"] = sorted(set(uncounted(graph).values()))
        found["macs"] = sum(info(node).macs or 0 for node in graph.graph.nodes)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            graph(*args, **kwargs)
        found["flops / 2"] = counter.get_total_flops() // 2
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(json.dumps(check(sys.argv[1])))
