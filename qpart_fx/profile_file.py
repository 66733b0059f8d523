"""A profile as one file: its tables as JSON, its graph, its weights. The calibration data are not in it."""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from . import container
from .backends.packed import read_graph, write_graph
from .container import read_checked
from .cut import Cut
from .cut_graph import CutGraph
from .drop_curve import DropCurve
from .held_out import curve_held_out
from .input_shapes import input_shapes, set_input_shapes
from .meta import info, set_info
from .model_profile import CutProfile, LayerProfile, Profile, ValueProfile
from .node_work import NodeWork
from .rounding_file import read_rounding, write_rounding
from .scores import ClassScores

_LAYERS = TypeAdapter(tuple[LayerProfile, ...])
_NUMBERS = TypeAdapter(list[float])
_RANGES = TypeAdapter(dict[str, tuple[float, float]])
_SIZES = TypeAdapter(dict[str, int])
_NAMES = TypeAdapter(dict[str, str])
_WORK = TypeAdapter(dict[str, tuple[str, int, int, int]])
_CUTS = TypeAdapter(tuple[CutProfile, ...])
_CUT_GRAPH = TypeAdapter(CutGraph | None)
_CLOSED_CUTS = TypeAdapter(tuple[Cut, ...])
_VALUES = TypeAdapter(tuple[ValueProfile, ...])


def save_profile(profile: Profile, path: Path) -> None:
    """Write ``profile`` to ``path``, whole or not at all."""
    record, data = write_graph(profile.graph)
    rounding, codes = write_rounding(profile.rounding)
    manifest = {
        "graph": record,
        "inputs": input_shapes(profile.graph),
        "rounding": rounding,
        "profile": _to_record(profile),
    }
    container.write_file(path, container.encode("profile", manifest, data + codes))


def unpack_profile(manifest: dict[str, Any], data: memoryview) -> Profile:
    """The profile in a file's manifest and data; it has no samples to measure plans on.

    Raises:
        ArtifactError: the manifest is malformed.
    """

    def read() -> Profile:
        graph, used = read_graph(manifest["graph"], data)
        record = manifest["profile"]
        for node in graph.graph.nodes:
            set_info(node, weights=_SIZES.validate_python(record["weights"].get(node.name, {})))
            set_info(node, constant=node.name in record["constants"])
        set_input_shapes(graph, manifest.get("inputs", {}))
        order = tuple(record["order"])
        cuts = [{**place, "cut": {**place["cut"], "order": order}} for place in record["cuts"]]
        closed = [{**cut, "order": order} for cut in record["closed_cuts"]]
        return Profile(
            model=str(record["model"]),
            weights_hash=str(record["weights_hash"]),
            layers=_LAYERS.validate_python(record["layers"]),
            cuts=_CUTS.validate_python(cuts),
            levels=tuple(_NUMBERS.validate_python(record["levels"])),
            adversarial_noise=float(record["adversarial_noise"]),
            values=_VALUES.validate_python(record["values"]),
            closed_cuts=_CLOSED_CUTS.validate_python(closed),
            cut_graph=_CUT_GRAPH.validate_python(record["cut_graph"]),
            curve=_curve(record["curve"]),
            noise_curve=_curve(record["noise_curve"]),
            reference_drop=float(record["reference_drop"]),
            ranges=_RANGES.validate_python(record["ranges"]),
            inside=_NAMES.validate_python(record.get("inside", {})),
            work={name: NodeWork(*row) for name, row in _WORK.validate_python(record.get("work", {})).items()},
            uncounted=_NAMES.validate_python(record["uncounted"]),
            samples=int(record["samples"]),
            head_bits=tuple(_NUMBERS.validate_python(record["head_bits"])),
            graph=graph,
            rounding=read_rounding(manifest["rounding"], data[used:]),
            fit=(),
            check=(),
            scorer=ClassScores() if record["class_scores"] is True else None,
        )

    return read_checked(read)


def _to_record(profile: Profile) -> dict[str, Any]:
    nodes = list(profile.graph.graph.nodes)
    return {
        "model": profile.model,
        "weights_hash": profile.weights_hash,
        "weights": {node.name: dict(info(node).weights) for node in nodes if info(node).weights},
        "constants": [node.name for node in nodes if info(node).constant],
        "layers": [asdict(layer) for layer in profile.layers],
        "order": profile.cuts[0].cut.order,
        "cuts": [
            {
                "cut": _without_order(place.cut),
                "layers": place.layers,
                "noise_by_width": place.noise_by_width,
                "robustness": place.robustness,
            }
            for place in profile.cuts
        ],
        "levels": profile.levels,
        "adversarial_noise": profile.adversarial_noise,
        "values": [asdict(value) for value in profile.values],
        "closed_cuts": [_without_order(cut) for cut in profile.closed_cuts],
        "head_bits": profile.head_bits,
        "cut_graph": None if profile.cut_graph is None else asdict(profile.cut_graph),
        "curve": _points(profile.curve),
        "noise_curve": _points(curve_held_out(profile)),
        "reference_drop": profile.reference_drop,
        "ranges": dict(profile.ranges),
        "inside": dict(profile.inside),
        "work": {name: astuple(work) for name, work in profile.work.items()},
        "uncounted": dict(profile.uncounted),
        "samples": profile.samples,
        "class_scores": isinstance(profile.scorer, ClassScores),
    }


def _points(curve: DropCurve) -> dict[str, list[float]]:
    return {item.name: getattr(curve, item.name).tolist() for item in fields(curve)}


def _curve(record: Any) -> DropCurve:
    def points(name: str) -> NDArray[np.float64]:
        return np.array(_NUMBERS.validate_python(record.get(name, ())))

    return DropCurve(*(points(item.name) for item in fields(DropCurve)))  # what an old file lacks is as the drop


def _without_order(cut: Cut) -> dict[str, Any]:
    return {item.name: getattr(cut, item.name) for item in fields(cut) if item.name != "order"}
