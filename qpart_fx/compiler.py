"""The compiler's front door: :func:`profile`, :func:`compile` and :func:`split`, each readable as a recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Node

from .calibration import HOW, Batch, alternate, read_batches
from .crossing import quantized_elements
from .cut import Cut
from .drop_curve import curve_of_margins, curve_of_points
from .errors import CalibrationError, CaptureError, ModelError, RequestError
from .exact_planner import ExactPlanner
from .inputs import describe_inputs, device_of
from .meta import info
from .model_profile import CutProfile, LayerProfile, Profile, ValueProfile
from .noise import LOW, MEASURED, WIDTHS, Floats, corrected, noise_by_width
from .pass_manager import Pipeline, debug_level
from .passes.capture import capture, capture_report
from .passes.count_macs import CountMacs, uncounted
from .passes.count_parameters import CountParameters
from .passes.find_closed_cuts import find_closed_cuts
from .passes.find_cuts import chain_cuts, find_cuts, resolve_cut
from .passes.find_least_cuts import find_least_cuts
from .passes.measure_drop import measure_drop
from .passes.measure_noise import measure_noise
from .passes.measure_ranges import Range, widen_ranges
from .passes.measure_sensitivity import measure_sensitivity
from .passes.propagate_shapes import PropagateShapes
from .passes.split_at_cut import split_at_cut
from .passes.verify_accuracy import CHUNK
from .replay import Replay
from .request import Request
from .scores import ClassScores, Metric, Scorer, scorer_of
from .split_model import SplitModel

LEVELS = (0.001, 0.005, 0.01, 0.02, 0.05)
"""The accuracy drops that Algorithm 1 stores patterns for."""

REFERENCE_DROP = 0.1
"""Delta_acc of eq. 22: the drop at which layers are compared. Large enough to be measured on a hundred samples."""

_LAYER_SAMPLES, _VALUE_SAMPLES = 16, 8
"""Samples that noise is measured on at least: its mean over samples settles quickly."""

_MOST_RUNS = 8
"""Times the calibration data, samples that measuring the layers' noise may run, if the least samples take no more; a
run from a layer on is half of one on average."""


def compile(
    model: nn.Module | Profile,
    request: Request,
    *,
    calibration: Iterable[Any] | None = None,
    example_inputs: Any = None,
) -> SplitModel:
    """Compile ``model`` for the device, server, link and accuracy budget of ``request``.

    Args:
        model: any module that can be traced, or its :class:`Profile`. A module is never modified.
        calibration: an iterable of batches, each ``inputs`` or ``(inputs, targets)``, on the model's scale; a
            DataLoader works. It may stand in ``request.calibration`` instead. Half of the samples serve to plan, the
            other half to measure what the plan loses. With a profile they are not needed; if given, they measure.
        example_inputs: the inputs of one inference (tensor, tuple or dict), by default the first calibration sample.

    Returns:
        The head, the tail and the plan, with the drop measured.

    Raises:
        RequestError: the arguments make no sense. InfeasibleError: nothing meets the request. CaptureError, ModelError:
            the model cannot be compiled. CalibrationError: the data are missing, broken, or do not fit the model.
    """
    if not isinstance(request, Request):
        raise RequestError(f"request: expected a qpart_fx.Request, got {type(request).__name__}")
    if isinstance(model, Profile):  # a request's own data may be those that the profile was made with
        result = model.compile(request, calibration=calibration)
    else:
        data = request.calibration if calibration is None else calibration
        result = profile(model, data, example_inputs=example_inputs).compile(request)
    if debug_level() >= 2:
        print(result.plan, file=sys.stderr)
    return result


@torch.inference_mode(False)
def profile(
    model: nn.Module,
    calibration: Iterable[Any] | None,
    *,
    metric: Metric | None = None,
    levels: Sequence[float] = LEVELS,
    progress: bool = True,
    example_inputs: Any = None,
    max_samples: int = 1024,
    seed: int = 0,
) -> Profile:
    """Learn once all that plans for ``model`` depend on, whatever the request (Algorithm 1, offline).

    Args:
        calibration: as for :func:`compile`; of more than ``max_samples`` samples, the first are used.
        metric: ``metric(outputs, targets)``, 1 for a perfect batch and less for a worse one, for models whose output is
            not class scores of shape (samples, classes).
        levels: the accuracy drops that patterns are stored for.
        progress: show a progress bar where there is a terminal.
        seed: of the random signs that sensitivities are probed with.

    Raises:
        CaptureError, ModelError, CalibrationError, RequestError: as :func:`compile`.
    """
    drops = _checked_levels(levels)
    _require_seed(seed)
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    device = device_of(model)
    batches = [batch.to(device) for batch in read_batches(calibration, max_samples=max_samples)]
    fit, check = alternate(batches)
    # Captured on two samples: torch.export takes a first dimension of one for a constant.
    graph = capture(model, *_example(example_inputs, fit, samples=2), inputs_error=CalibrationError)
    if capture_report(graph).frozen:
        raise CaptureError(
            f"{type(model).__name__} froze its batch size while it was captured, and cannot be planned for single "
            "samples: in its forward, take sizes from x.shape and do not turn them into numbers with int() or len()"
        )
    args, kwargs = _example(example_inputs, fit, samples=1)
    analyse(graph, args, kwargs)
    layers = [node for node in graph.graph.nodes if info(node).parameters]
    if not layers:
        raise ModelError(f"{type(model).__name__} has no weighted layer: there is nothing to quantize or to cut")
    chain = chain_cuts(graph, layers)
    scorer = scorer_of(metric)
    fit = [chunk for batch in fit for chunk in batch.chunks(CHUNK)]
    bar = partial(_bar, enabled=progress)

    ranges: dict[str, Range] = {}
    margins = []
    may_cross = sorted({node.name for node in graph.graph.nodes if _may_cross(node)})
    for batch in bar(fit, "ranges and margins"):
        replay = Replay(graph, batch)
        widen_ranges(ranges, replay, may_cross)
        _require_sound_scores(scorer, replay, batch)
        if isinstance(scorer, ClassScores):
            margins.append(scorer.margins(replay.output))
            scorer.compare(replay.output, replay.output, batch)  # labels that do not fit are found here, not at the end

    unbounded = [name for name, ends in ranges.items() if not np.isfinite(ends).all()]  # masked by -inf, for example
    ranges = {name: ends for name, ends in ranges.items() if name not in unbounded}
    weights = {node.name: tuple(info(node).weights) for node in layers}
    sensitivity = measure_sensitivity(
        graph, fit, scorer, layers=weights, ranges=ranges, seed=seed, progress=lambda items: bar(items, "sensitivity")
    )
    closed = find_closed_cuts(graph, together=[*unbounded, *_never_best(graph, sensitivity.values)])
    crossing = {name for cut in (*closed.cuts, *(cut for _, cut in chain)) for name in cut.crossing}
    if not closed.complete:
        crossing |= {value.name for value in closed.graph.values}
    values = sorted(crossing & ranges.keys())
    predicted = [name for name in values if name in sensitivity.values]
    others = [name for name in values if name not in sensitivity.values]
    measure = partial(measure_noise, graph, scorer=scorer, progress=lambda items: bar(items, "noise"))
    samples = max(_LAYER_SAMPLES, int(_MOST_RUNS * sum(batch.size for batch in fit) / (len(layers) * len(MEASURED))))
    of_layers, _ = measure(_first(fit, samples), layers=weights, crossings=[])
    of_input, of_others = (
        measure(_first(fit, samples), layers={}, crossings=crossings)[1]
        for crossings in (
            [{name: ranges[name] for name in chain[0][1].crossing if name in ranges}],
            [{name: ranges[name]} for name in others],
        )
    )
    _, of_predicted = measure(
        _first(fit, _VALUE_SAMPLES), layers={}, crossings=[{name: ranges[name]} for name in predicted], widths=LOW
    )
    # A layer that no gradient reaches has what was measured; a value's prediction is right from 6 bits on.
    layer_noise = np.where(
        (sensitivity.layers > 0).all(axis=1, keepdims=True),
        corrected(sensitivity.layers, of_layers.noise),
        noise_by_width(of_layers.noise),
    )
    right = np.array([sensitivity.values[name] for name in predicted]).reshape(-1, len(WIDTHS))
    low = np.concatenate([of_predicted.noise, right[:, [6 - WIDTHS[0]]]], axis=1)
    value_noise = dict(zip(predicted, corrected(right, low, (*LOW, 6)), strict=True))
    value_noise |= dict(zip(others, noise_by_width(of_others.noise), strict=True))
    if isinstance(scorer, ClassScores):
        distances = np.concatenate(margins)
        classes = int(scorer.scores(replay.output).shape[1])
        curve = curve_of_margins(distances, classes)
        adversarial = float(np.mean(distances**2) / 2)  # sigma* of eq. 22
    else:
        curve = curve_of_points(of_layers.noise.ravel(), of_layers.drop.ravel())
        adversarial = curve.noise_at(REFERENCE_DROP)
    noise_curve = measure_drop(
        graph,
        fit,
        scorer,
        layers=weights,
        noise=layer_noise,
        white=curve,
        progress=lambda items: bar(items, "accuracy over noise"),
    )
    # rho of eq. 22
    layer_robustness = of_layers.at_drop(REFERENCE_DROP, curve) / adversarial
    input_robustness = float(of_input.at_drop(REFERENCE_DROP, curve)[0]) / adversarial
    found = Profile(
        model=type(model).__name__,
        layers=tuple(
            LayerProfile(
                name=node.name,
                operation=_operation(graph, node),
                macs=info(node).macs or 0,
                parameters=info(node).parameters,
                activation_elements=info(node).elements,
                noise=tuple(of_layers.noise[index].tolist()),
                noise_by_width=tuple(layer_noise[index].tolist()),
                robustness=float(layer_robustness[index]),
            )
            for index, node in enumerate(layers)
        ),
        cuts=tuple(
            CutProfile(
                cut=cut,
                layers=p,
                noise=tuple(_noise_of(cut, value_noise).tolist()),
                robustness=float(layer_robustness[p - 1]) if p else input_robustness,
            )
            for p, cut in chain
        ),
        values=tuple(
            ValueProfile(name, _node_elements(graph, name), tuple(value_noise[name].tolist())) for name in values
        ),
        closed_cuts=closed.cuts,
        cut_graph=None if closed.complete else closed.graph,
        levels=drops,
        adversarial_noise=adversarial,
        curve=curve,
        noise_curve=noise_curve,
        reference_drop=REFERENCE_DROP,
        ranges=ranges,
        uncounted=uncounted(graph),
        samples=sum(batch.size for batch in fit),
        graph=graph,
        check=check,
        scorer=scorer,
    )
    if (whole := ExactPlanner(found).whole_graph) is None:
        return found
    budgets = [noise_curve.noise_at(drop) for drop in (drops[0], drops[-1])]
    return replace(found, closed_cuts=find_least_cuts(graph, closed.cuts, whole, budgets))


def split(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    cut: str | Sequence[str] | None = None,
) -> SplitModel:
    """Split ``model`` in two at float precision: head then tail is the model, bit for bit.

    Args:
        args: positional inputs, a tuple, or a single tensor; kwargs: keyword inputs.
        cut: names of the crossing nodes, ``"input"`` or ``"output"``; by default the cut that halves the MACs best.

    Raises:
        CaptureError: the model cannot be captured, or does not take these inputs. RequestError: there is no such cut.
    """
    positional, keywords = _arguments(args)
    keywords = {**keywords, **(kwargs or {})}
    graph = Pipeline([CountParameters(), CountMacs()]).run(capture(model, positional, keywords))
    if cut is None:
        if not (cuts := find_cuts(graph)):
            raise ModelError(f"{type(model).__name__} can be cut nowhere: nothing that could be sent is computed in it")
        chosen = min(cuts, key=lambda place: (abs(place.device_macs - place.server_macs), place.elements))
    else:
        chosen = resolve_cut(graph, cut)
    head, tail = split_at_cut(graph, chosen.crossing, chosen.device_nodes)
    return SplitModel(head, tail, reference=graph)


def analyse(graph: GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Annotate every node of ``graph`` with shapes, weights and MACs, for one call with these inputs."""
    Pipeline([PropagateShapes(args, kwargs), CountParameters(), CountMacs()]).run(graph)


def _may_cross(node: Node) -> bool:
    """Whether the value is one that could be sent quantized."""
    return node.op != "output" and not info(node).constant and quantized_elements(node) > 0


def _never_best(graph: GraphModule, noise: Mapping[str, Floats]) -> list[str]:
    """Values at which a cut is never better than behind the one node that uses them, whatever the request.

    That node has no weights and no MACs, and what it makes is no larger and, as predicted, disturbs no more at any
    width. A plan's bound is one over the other cuts.
    """
    found = []
    for node in graph.graph.nodes:
        if node.name not in noise or len(node.users) != 1:
            continue
        (user,) = node.users
        record = info(user)
        free = user.op != "output" and not record.weights and record.macs == 0 and not record.opaque
        smaller = 0 < quantized_elements(user) <= quantized_elements(node)
        if free and smaller and user.name in noise and (noise[user.name] <= noise[node.name]).all():
            found.append(node.name)
    return found


def _noise_of(cut: Cut, values: Mapping[str, Floats]) -> Floats:
    """The noise of all that crosses a cut, at the widths measured."""
    columns = np.array(MEASURED) - WIDTHS[0]
    return np.asarray(sum((values[name][columns] for name in cut.crossing if name in values), np.zeros(len(columns))))


def _node_elements(graph: GraphModule, name: str) -> int:
    return next(quantized_elements(node) for node in graph.graph.nodes if node.name == name)


def _operation(graph: GraphModule, node: Node) -> str:
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _example(example_inputs: Any, fit: Sequence[Batch], *, samples: int) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if example_inputs is not None:
        return _arguments(example_inputs)
    first = fit[0].select(slice(0, samples))
    return first.args, first.kwargs


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _first(batches: Sequence[Batch], samples: int) -> list[Batch]:
    chosen: list[Batch] = []
    for batch in batches:
        if samples > 0:
            chosen.append(batch.select(slice(0, samples)))
            samples -= batch.size
    return chosen


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    try:
        drops = tuple(sorted({float(level) for level in levels}))
    except (TypeError, ValueError):
        drops = ()
    if not drops or not all(0 < drop < 1 for drop in drops):
        raise RequestError(f"levels = {levels!r}: give accuracy drops between 0 and 1, as fractions")
    return drops


def _require_seed(seed: Any) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise RequestError(f"seed = {seed!r}: must be a whole number from 0, below 2**63")


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


def _bar(items: Sequence[Batch], what: str, *, enabled: bool) -> Iterable[Batch]:
    from tqdm import tqdm

    bar: Iterable[Batch] = tqdm(items, desc=what, unit="batch", leave=False, disable=None if enabled else True)
    return bar
