"""Lowering: the head's weights rounded to their grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule

from qpart_fx.meta import info
from qpart_fx.pass_manager import Pass, PassResult
from qpart_fx.quantized import set_weight_quantizers
from qpart_fx.quantizer import WeightQuantizer
from qpart_fx.rounding import NEAREST, Rounding


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Rounds every weight of the nodes in ``resolutions`` to that many bits, in place; the graph stays as it is."""

    resolutions: Mapping[str, float]
    rounding: Rounding = NEAREST

    def run(self, graph_module: GraphModule) -> PassResult:
        quantizers: dict[str, WeightQuantizer] = {}
        with torch.no_grad():
            for node in graph_module.graph.nodes:
                for name in info(node).weights if node.name in self.resolutions else ():
                    weight = graph_module.get_parameter(name)
                    resolution = self.resolutions[node.name]
                    quantizers[name] = self.rounding.quantizer(name, weight, resolution)
                    weight.copy_(self.rounding.rounded(name, weight, resolution))
        set_weight_quantizers(graph_module, quantizers)
        return PassResult(graph_module, modified=False)
