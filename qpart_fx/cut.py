"""A cut through a graph, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cut:
    """A set of device nodes closed under predecessors, named by the values that cross it.

    ``crossing``: names of the nodes whose values are sent, each once: those on the device that a node on the server, or
    the model's output, uses. ``elements``: quantized elements that cross. ``exact_bits``: bits of what crosses as it is
    (integers, masks). ``peak_bytes``: most bytes of activations that are alive at once on the device, in the graph's
    order. All of them for one call with the example inputs. The device's nodes are the first ``size`` of ``order``.
    """

    crossing: tuple[str, ...]
    elements: int
    exact_bits: int
    device_macs: int
    server_macs: int
    peak_bytes: int
    size: int
    order: tuple[str, ...] = field(repr=False)

    @property
    def device_nodes(self) -> tuple[str, ...]:
        """Every node on the device, predecessors first."""
        return self.order[: self.size]
