"""How large a head's file will be, before it is written: what its weights take at every width, and the rest at a cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from .backends.packed import pack_head
from .cut import Cut
from .meta import info
from .passes.halve_floats import HalveFloats
from .passes.split_at_cut import split_at_cut
from .quantizer import UniformQuantizer
from .rounding import Rounding
from .tensor_table import write_quantized

_LOOKED_AT = 12
"""Heads that are made and packed to see what their graphs take; for the others it lies between."""


def coded_bits(rounding: Rounding, name: str, weight: Tensor, bits: int) -> float:
    """Bits of a weight's data in the file, at a width: eq. 14 for the paper's rounding, the coded ones else."""
    quantizer = rounding.quantizer(name, weight, bits)
    if isinstance(quantizer, UniformQuantizer):
        return float(bits * weight.numel())
    _, data = write_quantized(rounding.rounded(name, weight.detach(), bits).cpu(), quantizer)
    return 8.0 * len(data)


def head_bits(graph: GraphModule, cuts: Sequence[Cut]) -> tuple[float, ...]:
    """Bits of a head's file without its weights' data, for each of ``cuts``: graph, biases, norms, framing.

    A head with nothing to run is not downloaded: 0.
    """
    sizes = np.array([len(cut.device_nodes) for cut in cuts])
    order = np.argsort(sizes, kind="stable")
    looked_at = order[np.unique(np.linspace(0, len(order) - 1, _LOOKED_AT).round().astype(int))]
    known = [_rest(graph, cuts[place]) for place in looked_at.tolist()]
    found = np.interp(sizes, sizes[looked_at], known)
    return tuple(8.0 * size if cut.device_macs else 0.0 for size, cut in zip(found.tolist(), cuts, strict=True))


def _rest(graph: GraphModule, cut: Cut) -> int:
    head, _ = split_at_cut(graph, cut.crossing, cut.device_nodes)
    HalveFloats().run(head)
    weights = {name for node in head.graph.nodes for name in info(node).weights}
    floats = sum(head.get_parameter(name).numel() * head.get_parameter(name).itemsize for name in weights)
    return len(pack_head(head)) - floats
