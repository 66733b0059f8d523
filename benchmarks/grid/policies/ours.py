"""Our plans."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..cells import Cells
from ..networks import Network
from ..options import Decision, Options
from ..quantized import split_of
from .policy import Policy


class Ours(Policy):
    """``profile.plan_many``: proven best over all cuts of the graph and all bits, at the noise the budget allows."""

    def decide(self, network: Network, cells: Cells) -> Decision:
        plans = network.profile.plan_many(cells.requests)
        places: dict[tuple[object, ...], int] = {}
        rows: list[list[float]] = []
        made, chosen = [], np.full(len(plans), -1, dtype=np.int64)
        for cell in np.flatnonzero(plans.feasible).tolist():
            plan = plans[cell]
            key = plan.cut, *plan.resolutions.items(), *plan.activation_bits.items(), plan.max_accuracy_drop
            if key not in places:
                places[key] = len(rows)
                cut = network.profile.closed_cuts[plans.cut[cell]]
                link = cells.requests[cell].link
                # not yet rounded up to bytes, as those of all policies
                download = plan.prices["download_time_s"] * link.downlink_bps * plan.inferences_per_download
                upload = plan.prices["upload_time_s"] * link.uplink_bps
                memory, budget = plan.device_memory_bytes, plan.max_accuracy_drop
                rows.append([cut.device_macs, cut.server_macs, download, upload, memory, budget])
                made.append(partial(split_of, network, plan))
            chosen[cell] = places[key]
        return Decision(Options.of_rows(rows, made), chosen, plans.objective)
