"""The compiler's front door: :func:`profile`, :func:`compile` and :func:`split`, each readable as a recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from .calibration import Batch, alternate, read_batches
from .errors import CalibrationError, CaptureError, ModelError, RequestError
from .inputs import device_of
from .meta import info
from .model_profile import Profile
from .pass_manager import Pipeline, debug_level
from .passes.capture import capture, capture_report
from .passes.count_macs import CountMacs
from .passes.count_parameters import CountParameters
from .passes.find_cuts import find_cuts, resolve_cut
from .passes.fold_norms import FoldNorms
from .passes.propagate_shapes import PropagateShapes
from .passes.split_at_cut import split_at_cut
from .profiling import profile_graph
from .progress import progress_bar
from .request import Request
from .resolution import LARGEST_WIDTH
from .scores import Metric, scorer_of
from .split_model import SplitModel
from .weights_hash import weights_hash

LEVELS = (0.001, 0.005, 0.01, 0.02, 0.05)
"""The accuracy drops that Algorithm 1 stores patterns for."""


ROUNDINGS = ("compensated", "searched", "nearest")
"""``"compensated"``: a step for each channel, errors that make up for each other, weights entropy-coded, batch norms
folded into the layers before them. ``"searched"``: the same by a search over several ways to round, for the fewest
bytes: some percent less, in several times the time. ``"nearest"``: the paper's quantizer and bytes (eqs. 9, 14)."""


def compile(
    model: nn.Module | Profile,
    request: Request,
    *,
    calibration: Iterable[Any] | None = None,
    example_inputs: Any = None,
    tune: bool = False,
) -> SplitModel:
    """Compile ``model`` for the device, server, link and accuracy budget of ``request``.

    Args:
        model: any module that can be traced, or its :class:`Profile`. A module is never modified.
        calibration: an iterable of batches, each ``inputs`` or ``(inputs, targets)``, on the model's scale; a
            DataLoader works. It may stand in ``request.calibration`` instead. Half of the samples serve to plan, the
            other half to measure what the plan loses. With a profile they are not needed; if given, they measure.
        example_inputs: the inputs of one inference (tensor, tuple or dict), by default the first calibration sample.
        tune: fit the rounded weights to the float model, for minutes: fewer bytes. See :meth:`Profile.compile`.

    Returns:
        The head, the tail and the plan, with the drop measured.

    Raises:
        RequestError: the arguments make no sense. InfeasibleError: nothing meets the request. CaptureError, ModelError:
            the model cannot be compiled. CalibrationError: the data are missing, broken, or do not fit the model.
    """
    if not isinstance(request, Request):
        raise RequestError(f"request: expected a qpart_fx.Request, got {type(request).__name__}")
    if isinstance(model, Profile):  # a request's own data may be those that the profile was made with
        result = model.compile(request, calibration=calibration, tune=tune)
    else:
        data = request.calibration if calibration is None else calibration
        largest_width = request.device.activation_bits_inside or LARGEST_WIDTH
        made = profile(model, data, example_inputs=example_inputs, largest_width=largest_width)
        result = made.compile(request, tune=tune)
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
    rounding: str = "compensated",
    largest_width: int = LARGEST_WIDTH,
    seed: int = 0,
) -> Profile:
    """Learn once all that plans for ``model`` depend on, whatever the request (Algorithm 1, offline).

    Args:
        calibration: as for :func:`compile`; of more than ``max_samples`` samples, the first are used.
        metric: ``metric(outputs, targets)``, 1 for a perfect batch and less for a worse one, for models whose output is
            not class scores of shape (samples, classes).
        levels: the accuracy drops that patterns are stored for.
        progress: show a progress bar where there is a terminal.
        rounding: one of :data:`ROUNDINGS`.
        largest_width: no code of a weight is wider, in bits, and steps are as fine as that allows: 8 for devices with
            integer kernels (``Device.activation_bits_inside``).
        seed: of the random signs that sensitivities are probed with.

    Raises:
        CaptureError, ModelError, CalibrationError, RequestError: as :func:`compile`.
    """
    drops = _checked_levels(levels)
    _require_seed(seed)
    if rounding not in ROUNDINGS:
        raise RequestError(f"rounding = {rounding!r} is unknown: choose one of {', '.join(ROUNDINGS)}")
    _require_width(largest_width, rounding)
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
    if rounding != "nearest":
        FoldNorms().run(graph)
    args, kwargs = _example(example_inputs, fit, samples=1)
    analyse(graph, args, kwargs)
    if not any(info(node).parameters for node in graph.graph.nodes):
        raise ModelError(f"{type(model).__name__} has no weighted layer: there is nothing to quantize or to cut")
    return profile_graph(
        graph,
        fit,
        check,
        scorer_of(metric),
        model=type(model).__name__,
        weights_hash=weights_hash(model),
        levels=drops,
        compensated=rounding != "nearest",
        search=rounding == "searched",
        largest_width=largest_width,
        seed=seed,
        progress=partial(progress_bar, enabled=progress),
    )


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


def _example(example_inputs: Any, fit: Sequence[Batch], *, samples: int) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if example_inputs is not None:
        return _arguments(example_inputs)
    first = fit[0].select(slice(0, samples))
    return first.args, first.kwargs


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    try:
        drops = tuple(sorted({float(level) for level in levels}))
    except (TypeError, ValueError):
        drops = ()
    if not drops or not all(0 < drop < 1 for drop in drops):
        raise RequestError(f"levels = {levels!r}: give accuracy drops between 0 and 1, as fractions")
    return drops


def _require_width(largest_width: Any, rounding: str) -> None:
    if type(largest_width) is not int or not 2 <= largest_width <= LARGEST_WIDTH:
        raise RequestError(f"largest_width = {largest_width!r}: a width is a whole number of bits from 2 to 16")
    if largest_width < LARGEST_WIDTH and rounding == "nearest":
        raise RequestError('largest_width: rounding="nearest" has widths alone, of which a device says what it stores')


def _require_seed(seed: Any) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise RequestError(f"seed = {seed!r}: must be a whole number from 0, below 2**63")
