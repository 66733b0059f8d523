"""What :func:`qpart_fx.profile` learns of a captured graph: ranges, margins, noise, and what noise costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.fx import GraphModule

from .answers import Answers
from .answers_seen import AnswersSeen
from .calibration import HOW, Batch, spread
from .count_work import work_of
from .crossing import quantized_elements
from .drop_curve import DropCurve, curve_of_margins, curve_of_points
from .errors import CalibrationError
from .exact_planner import ExactPlanner
from .graph_parts import operation
from .head_size import coded_bits, head_bits
from .inputs import describe_inputs
from .inside import BITS, values_inside
from .meta import info
from .model_profile import CutProfile, LayerProfile, Profile, ValueProfile
from .noise import WIDTHS, Floats
from .noise_tables import may_cross, noise_tables
from .passes.count_macs import uncounted
from .passes.find_cuts import chain_cuts
from .passes.find_least_cuts import find_least_cuts
from .passes.measure_curvature import measure_curvature
from .passes.measure_drop import measure_drop
from .passes.measure_input_drop import measure_input_drop
from .passes.measure_ranges import Range, widen_ranges
from .replay import Replay
from .rounding import NEAREST, CompensatedRounding, Rounding
from .samples_at_once import samples_at_once
from .scores import ClassScores, Scorer

REFERENCE_DROP = 0.1
"""Delta_acc of eq. 22: the drop at which layers are compared. Large enough to be measured on a hundred samples."""

_CURVED = 1024
"""Samples that the curvature of weights is taken from, at most."""

Progress = Callable[[Sequence[Batch], str], Iterable[Batch]]


def profile_graph(
    graph: GraphModule,
    fit: Sequence[Batch],
    check: Sequence[Batch],
    scorer: Scorer,
    *,
    model: str,
    weights_hash: str,
    levels: tuple[float, ...],
    compensated: bool,
    search: bool,
    largest_width: int,
    seed: int,
    progress: Progress,
) -> Profile:
    """Profile an analysed ``graph`` on the samples ``fit``; ``check`` is only kept, to measure plans on later.

    Args:
        model: its name. weights_hash: of its weights.
        compensated: whether weights are rounded so that their errors make up for each other, or as the paper does.
        search: whether compensated ones are searched for. largest_width: of their codes.
        progress: shows how far a pass over batches has come, with what it is called.
    """
    layers = {node.name: tuple(info(node).weights) for node in graph.graph.nodes if info(node).parameters}
    chain = chain_cuts(graph, [node for node in graph.graph.nodes if node.name in layers])
    at_once = samples_at_once(graph, scorer)
    fit = [chunk for batch in fit for chunk in batch.chunks(at_once)]
    seen = _look(graph, fit, scorer, progress)
    rounding: Rounding = NEAREST
    unseen = fit
    if compensated:
        curved, unseen = _apart(fit, at_once)
        curvatures = measure_curvature(
            graph, spread(curved, _CURVED, 1), scorer,
            weights=[name for names in layers.values() for name in names], seed=seed,
            progress=lambda items: progress(items, "curvature"),
        )  # fmt: skip
        weights = {name: graph.get_parameter(name) for name in curvatures}
        rounding = CompensatedRounding.of(weights, curvatures, largest_width, search=search)
    weight_bits = _weight_bits(graph, layers, rounding)
    tables = noise_tables(
        graph, unseen, scorer,
        layers=layers, first=chain[0][1], ranges=seen.ranges, white=seen.white, rounding=rounding,
        at_once=at_once, runs_over=sum(batch.size for batch in fit), seed=seed, progress=progress,
    )  # fmt: skip
    white = seen.white or curve_of_points(tables.of_layers.noise.ravel(), tables.of_layers.drop.ravel())
    adversarial = white.noise_at(REFERENCE_DROP) if seen.adversarial is None else seen.adversarial
    noise_curve = measure_drop(
        graph, unseen, scorer,
        layers=layers, weight_bits=weight_bits, noise=tables.layers, white=white, rounding=rounding,
        answers=seen.answers,
        progress=lambda items: progress(items, "accuracy over noise"),
    )  # fmt: skip
    inputs = [name for name in chain[0][1].crossing if name in tables.values]
    values = tables.values | measure_input_drop(
        graph, fit, scorer,
        ranges={name: tables.ranges[name] for name in inputs}, noise={name: tables.values[name] for name in inputs},
        curve=noise_curve, answers=seen.answers,
        progress=lambda items: progress(items, "accuracy over input bits"),
    )  # fmt: skip
    # rho of eq. 22
    robustness = tables.of_layers.at_drop(REFERENCE_DROP, white) / adversarial
    input_robustness = float(tables.of_input.at_drop(REFERENCE_DROP, white)[0]) / adversarial
    nodes = {node.name: node for node in graph.graph.nodes}
    inside = _noise_inside(graph, tables.predicted)
    found = Profile(
        model=model,
        weights_hash=weights_hash,
        layers=tuple(
            LayerProfile(
                name=name,
                operation=operation(graph, nodes[name]),
                macs=info(nodes[name]).macs or 0,
                parameters=info(nodes[name]).parameters,
                activation_elements=info(nodes[name]).elements,
                noise_by_resolution=dict(zip(rounding.resolutions, tables.layers[row].tolist(), strict=True)),
                bits_by_resolution=dict(zip(rounding.resolutions, weight_bits[row].tolist(), strict=True)),
                channel_sensitivity={
                    weight: tuple(tables.channels[weight].tolist()) for weight in weights if weight in tables.channels
                },
                robustness=float(robustness[row]),
                noise_inside=inside.get(name, 0.0),
            )
            for row, (name, weights) in enumerate(layers.items())
        ),
        cuts=tuple(
            CutProfile(
                cut=cut,
                layers=p,
                noise_by_width=tuple(tables.of_cut(cut).tolist()),
                robustness=float(robustness[p - 1]) if p else input_robustness,
            )
            for p, cut in chain
        ),
        values=tuple(
            ValueProfile(name, quantized_elements(nodes[name]), tuple(row.tolist()))
            for name, row in sorted(values.items())
        ),
        closed_cuts=tables.closed.cuts,
        head_bits=(0.0,) * len(tables.closed.cuts),
        cut_graph=None if tables.closed.complete else tables.closed.graph,
        levels=levels,
        adversarial_noise=adversarial,
        curve=white,
        noise_curve=noise_curve,
        reference_drop=REFERENCE_DROP,
        ranges=tables.ranges,
        inside={name: each.grid for name, each in values_inside(graph).items() if each.grid in tables.ranges},
        work=work_of(graph),
        uncounted=uncounted(graph),
        samples=sum(batch.size for batch in fit),
        graph=graph,
        rounding=rounding,
        fit=fit,
        check=check,
        scorer=scorer,
    )
    if (whole := ExactPlanner(found).whole_graph) is not None:
        budgets = [noise_curve.noise_at(drop) for drop in (levels[0], levels[-1])]
        found = replace(found, closed_cuts=find_least_cuts(graph, found.closed_cuts, whole, budgets))
    return replace(
        found, head_bits=head_bits(graph, found.closed_cuts) if compensated else (0.0,) * len(found.closed_cuts)
    )


def _apart(samples: Sequence[Batch], at_once: int) -> tuple[list[Batch], list[Batch]]:
    """Those that rounding learns from, one by one, and those that its noise is measured on, a third of all.

    On the samples that it was fitted to, rounding makes up for errors better than on others: up to eight times less
    noise of a last layer whose features outnumber the samples. Fewer than three samples serve for both.
    """
    total = sum(batch.size for batch in samples)
    single = spread(samples, total, 1)
    if total < 3:
        return single, list(samples)
    step = -(-total // (total // 3))
    return [sample for place, sample in enumerate(single) if place % step], spread(samples, total // 3, at_once)


def _noise_inside(graph: GraphModule, noise: Mapping[str, Floats]) -> dict[str, float | None]:
    """What rounding values inside heads adds to the noise of each layer; None where it is not known.

    Args:
        noise: of values at each of ``WIDTHS``.
    """
    found: dict[str, float | None] = {}
    for name, value in values_inside(graph).items():
        before = found.get(value.layer, 0.0)
        of_value = float(noise[name][WIDTHS.index(BITS)]) if name in noise else None
        if value.grid == name:  # or else it lies on its grid already
            found[value.layer] = None if before is None or of_value is None else before + of_value
    return found


def _weight_bits(graph: GraphModule, layers: Mapping[str, Sequence[str]], rounding: Rounding) -> Floats:
    """Bits of each layer in a head's file at each resolution, shape (layers, resolutions)."""

    found = np.zeros((len(layers), len(rounding.resolutions)))
    for row, names in enumerate(layers.values()):
        for name in names:
            found[row] += coded_bits(rounding, name, graph.get_parameter(name))
    return found


@dataclass(frozen=True)
class _Seen:
    """What a run over the samples shows: the ``ranges`` of values; of class scores, what ``white`` noise would cost and
    the mean ``adversarial`` noise (sigma* of eq. 22), and the ``answers``."""

    ranges: dict[str, Range]
    white: DropCurve | None = None
    adversarial: float | None = None
    answers: Answers | None = None


def _look(graph: GraphModule, batches: Sequence[Batch], scorer: Scorer, progress: Progress) -> _Seen:
    ranges: dict[str, Range] = {}
    answers_seen = AnswersSeen()
    names = sorted(node.name for node in graph.graph.nodes if may_cross(node))
    for batch in progress(batches, "ranges and margins"):
        replay = Replay(graph, batch)
        widen_ranges(ranges, replay, names)
        _require_sound_scores(scorer, replay, batch)
        same = scorer.compare(replay.output, replay.output, batch)  # finds labels that do not fit here, not at the end
        if same.reference != same.accuracy:
            raise CalibrationError(
                f"the metric gave {same.reference / batch.size:.6g} and then {same.accuracy / batch.size:.6g} for the "
                "same outputs: it must depend on its arguments alone"
            )
        if isinstance(scorer, ClassScores):
            answers_seen.add(scorer.scores(replay.output), batch.targets)
    if not isinstance(scorer, ClassScores):
        return _Seen(ranges)
    answers = answers_seen.answers()
    distances = answers.margins[:, 0]
    classes = int(scorer.scores(replay.output).shape[1])
    return _Seen(ranges, curve_of_margins(distances, classes), float(np.mean(distances**2) / 2), answers)


def _require_sound_scores(scorer: Scorer, replay: Replay, batch: Batch) -> None:
    scores = scorer.scores(replay.output)
    if len(scores) != batch.size:
        raise CalibrationError(
            f"a batch of {batch.size} samples gave {len(scores)} outputs: samples must lie along the first dimension "
            "of inputs and outputs"
        )
    if not bool(torch.isfinite(scores).all()):
        given = describe_inputs(batch.args, batch.kwargs)
        raise CalibrationError(f"the model's output is NaN or infinite on calibration inputs {given}: {HOW}")
