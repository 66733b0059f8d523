"""From a plan to a split model: the lowering pipeline, readable as a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch.fx import GraphModule

from .meta import info
from .pass_manager import Pass, Pipeline
from .passes.halve_floats import HalveFloats
from .passes.quantize_inside import QuantizeInside
from .passes.quantize_payload import QuantizePayload
from .passes.quantize_weights import QuantizeWeights
from .passes.split_at_cut import split_at_cut
from .plan import Plan
from .quantized import weight_quantizers
from .quantizer import UniformQuantizer
from .rounding import NearestRounding, Rounding
from .scores import Scorer
from .split_model import SplitModel
from .tensor_table import write_quantized


def lower(
    graph: GraphModule,
    plan: Plan,
    ranges: Mapping[str, tuple[float, float]],
    inside: Mapping[str, str],
    rounding: Rounding,
    scorer: Scorer | None = None,
) -> SplitModel:
    """Cut ``graph`` as ``plan`` says, and quantize the head's weights and what crosses; the tail stays in float.

    ``ranges``: the calibrated range of each crossing value, and of those inside the head that are rounded if the plan
    says so: ``inside``, each by whose range its grid spans.
    """
    head, tail = split_at_cut(graph, plan.cut, plan.device_nodes)
    payload = {name: UniformQuantizer.from_range(*ranges[name], bits) for name, bits in plan.activation_bits.items()}
    passes: list[Pass] = [QuantizeWeights(plan.resolutions, rounding), QuantizePayload(payload)]
    if (bits := plan.activation_bits_inside) is not None:
        passes.insert(0, QuantizeInside({name: _with_zero(ranges[grid], bits) for name, grid in inside.items()}))
    if not isinstance(rounding, NearestRounding):  # the paper's head keeps biases and norms in float
        passes.insert(0, HalveFloats())
    head = Pipeline(passes).run(head)
    return SplitModel(head, tail, plan, reference=graph, scorer=scorer)


def _with_zero(ends: tuple[float, float], bits: int) -> UniformQuantizer:
    """The quantizer of a range and zero, which integer kernels want to be a code: they pad with it."""
    return UniformQuantizer.from_range(min(ends[0], 0.0), max(ends[1], 0.0), bits)


def with_bytes_of(plan: Plan, head: GraphModule) -> Plan:
    """``plan`` with the bytes that the weights of ``head`` take, which were rounded otherwise than planned. Prices stay
    those that it was chosen by, and so does what an update takes."""
    quantizers = weight_quantizers(head)
    weights = {node.name: [name for name in info(node).weights if name in quantizers] for node in head.graph.nodes}
    layers = []
    for layer in plan.layers:
        found = [
            write_quantized(head.get_parameter(name).detach().cpu(), quantizers[name])[1]
            for name in weights.get(layer.name, ())
        ]
        layers.append(replace(layer, coded_bits=8.0 * sum(map(len, found))) if found else layer)
    more = round(sum(new.weight_bytes - old.weight_bytes for new, old in zip(layers, plan.layers, strict=True)))
    downloaded = plan.download_bytes + (0 if plan.updates_held_head else more)
    return replace(
        plan, layers=tuple(layers), download_bytes=downloaded, device_memory_bytes=plan.device_memory_bytes + more
    )
