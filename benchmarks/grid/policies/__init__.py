"""Every system of the paper's Table I, and some more, over the same networks, prices, limits and samples."""

from __future__ import annotations

from .brute_force import BruteForce
from .fleets import ApproRR, Cob, DinaP
from .floats import Dads, Neurosurgeon, NoOptimisation, OneSide
from .learned import DeepCod, Pruning
from .ours import Ours
from .policy import Policy
from .variants import InFaas, LyExp4, Masito
from .widths import AutoSplit, FannOnMcu, HybridNet, ThePaper, Uniform

OURS = "ours"

POLICIES: tuple[Policy, ...] = (
    Ours(OURS, "latency energy accuracy scaling offloading"),
    ThePaper("QPART, as in the paper", "latency energy accuracy scaling offloading"),
    ApproRR("ApproRR", "latency energy offloading"),
    DeepCod("DeepCOD", "latency accuracy offloading"),
    DinaP("DINA-P", "latency offloading"),
    Cob("COB", "latency offloading"),
    LyExp4("Ly-EXP4", "latency accuracy offloading"),
    Masito("MASITO", "latency energy accuracy offloading"),
    InFaas("INFaaS", "accuracy scaling"),
    FannOnMcu("FANN-on-MCU", "energy accuracy scaling"),
    HybridNet("PCA Hybrid-Net", "energy scaling"),
    NoOptimisation("no optimisation"),
    Pruning("pruning"),
    Neurosurgeon("Neurosurgeon, latency"),
    Neurosurgeon("Neurosurgeon, energy", aim="energy"),
    Dads("DADS"),
    AutoSplit("Auto-Split"),
    Uniform("uniform 8 bits"),
    Uniform("uniform 6 bits", bits=6),
    Uniform("uniform 4 bits", bits=4),
    Uniform("uniform 8 bits, our coder", coded=True),
    BruteForce("brute force, 2 4 6 8 bits"),
    OneSide("all on the device, float", place="device"),
    Uniform("all on the device, 8 bits", cuts=("output",)),
    OneSide("all on the server, float"),
    Uniform("all on the server, 8 bits", cuts=("input",)),
)
"""In the order of reports."""
