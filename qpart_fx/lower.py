"""From a plan to a split model: the lowering pipeline, readable as a recipe."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import GraphModule

from .pass_manager import Pass, Pipeline
from .passes.halve_floats import HalveFloats
from .passes.quantize_payload import QuantizePayload
from .passes.quantize_weights import QuantizeWeights
from .passes.split_at_cut import split_at_cut
from .plan import Plan
from .quantizer import UniformQuantizer
from .rounding import NearestRounding, Rounding
from .scores import Scorer
from .split_model import SplitModel


def lower(
    graph: GraphModule,
    plan: Plan,
    ranges: Mapping[str, tuple[float, float]],
    rounding: Rounding,
    scorer: Scorer | None = None,
) -> SplitModel:
    """Cut ``graph`` as ``plan`` says, and quantize the head's weights and what crosses; the tail stays in float.

    ``ranges``: the calibrated range of each crossing value.
    """
    head, tail = split_at_cut(graph, plan.cut, plan.device_nodes)
    payload = {name: UniformQuantizer.from_range(*ranges[name], bits) for name, bits in plan.activation_bits.items()}
    passes: list[Pass] = [QuantizeWeights(plan.resolutions, rounding), QuantizePayload(payload)]
    if not isinstance(rounding, NearestRounding):  # the paper's head keeps biases and norms in float
        passes.insert(0, HalveFloats())
    head = Pipeline(passes).run(head)
    return SplitModel(head, tail, plan, reference=graph, scorer=scorer)
