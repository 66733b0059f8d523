"""Lowering: the rounded weights of one plan, with biases and norms, fitted together to the float model.

Compensated rounding makes up for errors within a weight, as if all others were in float. Here all of them are moved at
once, by gradients through the rounding (straight-through, Bengio et al., arXiv:1308.3432), from where it has left them:
codes change by one here and there, on steps that stay. What bits are worth is known (6 dB each), and codes are drawn to
zero by it, so that the file does not grow for next to nothing.

A few hundred samples have too few scores to say where a hundred thousand weights belong: fitted to the scores alone, a
head knows these samples by heart, and is no better on others. So what every layer on the device makes is fitted too,
each number by what it does to the scores (its squared gradient, as of BRECQ, Li et al., arXiv:2102.05426), and on
mixtures of samples (mixup, Zhang et al., arXiv:1710.09412), for which the float model says what is right as for any
other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpart_fx.calibration import Batch, spread
from qpart_fx.inputs import positional
from qpart_fx.interpreter import PlainInterpreter
from qpart_fx.meta import info
from qpart_fx.quantized import weight_quantizers
from qpart_fx.quantizer import ChannelQuantizer, FakeQuantize
from qpart_fx.scores import Scorer

Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

_RUNS = 10
"""Times that each sample is used: twice as many gain nothing on a ResNet, three times as many little on an MLP."""

_TOGETHER = 16
"""Samples of one update."""

_RESERVED = 5
"""One in so many batches is only looked at in the end, to see whether all of it was of use."""

_CODE_RATE, _FLOAT_RATE = 0.02, 1e-3
"""The largest rates: of codes, in steps; of other numbers, in standard deviations of their tensor."""

_NOISE_OF_A_BIT = 2 * math.log(2)
"""By how much of itself noise falls with a bit a weight more: what a bit is worth."""

_WARM_UP = 0.1
"""The share of the updates until the rates are at their largest; they fall to nothing then."""


@dataclass(frozen=True)
class Tuned:
    """The noise before and after, on samples that were not fitted to."""

    before: float
    after: float

    @property
    def share(self) -> float:
        """How much of the noise is left, at most all of it."""
        return min(self.after / self.before, 1.0) if self.before > 0 else 1.0


def tune_weights(
    head: GraphModule,
    tail: GraphModule,
    reference: GraphModule,
    samples: Sequence[Batch],
    scorer: Scorer,
    *,
    seed: int,
    progress: Progress,
) -> Tuned:
    """Move the quantized weights of ``head``, on their grids, and its biases and norms, to where the scores of ``head``
    and ``tail`` are nearer to those of ``reference``. If they are not in the end, nothing has changed.

    Args:
        reference: the float graph that both were split off from, its nodes named alike.
        samples: to fit to.
        seed: of the order of samples, and of how they are mixed.
    """
    batches = spread(samples, sum(batch.size for batch in samples), _TOGETHER)
    reserved, fitted = batches, batches
    if len(batches) >= _RESERVED:
        reserved, fitted = batches[::_RESERVED], [each for place, each in enumerate(batches) if place % _RESERVED]
    weights = _Weights.of(head)
    before = _noise(head, tail, reference, reserved, scorer)
    if not weights.codes or before == 0:
        return Tuned(before, before)
    kept = {name: value.detach().clone() for name, value in head.named_parameters()}
    try:
        _fit(weights, head, tail, reference, fitted, scorer, seed, progress)
    except torch.OutOfMemoryError:  # a RuntimeError, but none of the model's
        raise
    except (RuntimeError, NotImplementedError) as error:  # it runs forward only
        warnings.warn(f"the weights are not tuned, since the model does not run back: {error}", stacklevel=2)
        return Tuned(before, before)
    weights.write_to(head)
    after = _noise(head, tail, reference, reserved, scorer)
    if not after < before:
        with torch.no_grad():
            for name, value in head.named_parameters():
                value.copy_(kept[name])
        after = before
    return Tuned(before, after)


def _fit(
    weights: _Weights,
    head: GraphModule,
    tail: GraphModule,
    reference: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    seed: int,
    progress: Progress,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = [node.name for node in head.graph.nodes if info(node).weights]
    student, teacher = _Tapped(head, names), _Tapped(reference, names)
    matters = _matters(teacher, batches, scorer, generator)
    groups = weights.groups()
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=_RUNS * len(batches) + 1, pct_start=_WARM_UP
    )
    count = sum(codes.numel() for codes in weights.codes.values())
    first: Tensor | None = None
    order = [
        batches[place] for _ in range(_RUNS) for place in torch.randperm(len(batches), generator=generator).tolist()
    ]
    with _learning(False, head, tail):
        for batch in progress(order):
            mixed = _mixed(batch, generator)
            with torch.no_grad():
                wanted, right = teacher(*positional(reference, mixed.args, mixed.kwargs))
            with torch.enable_grad():
                given = tuple(positional(head, mixed.args, mixed.kwargs))
                payload, made = torch.func.functional_call(student, weights.values("graph."), given)
                loss = (scorer.scores(tail(*payload)) - scorer.scores(wanted)).square().sum()
                for name, each in matters.items():
                    loss = loss + ((made[name] - right[name]).square() * each).sum()
                loss = loss / batch.size
                first = loss.detach().clamp_min(1e-30) if first is None else first
                optimizer.zero_grad()
                (loss / first + _NOISE_OF_A_BIT * weights.bits() / count).backward()
            optimizer.step()
            schedule.step()


@dataclass(frozen=True)
class _Weights:
    """What is fitted, by name, in float32: ``codes`` of quantized weights, not rounded; ``floats``: the others."""

    codes: dict[str, Tensor]
    steps: dict[str, Tensor]
    quantizers: Mapping[str, ChannelQuantizer]
    floats: dict[str, Tensor]
    dtypes: Mapping[str, torch.dtype]
    """Of the parameters."""
    rates: Mapping[str, Tensor]
    """Bits by which a code's magnitude costs more than that below it, for each channel."""

    @classmethod
    def of(cls, head: GraphModule) -> _Weights:
        parameters = {name: value.detach() for name, value in head.named_parameters() if value.is_floating_point()}
        quantized = weight_quantizers(head)
        quantizers = {
            name: each for name, each in quantized.items() if isinstance(each, ChannelQuantizer) and name in parameters
        }
        codes = {name: each.encode(parameters[name]).requires_grad_() for name, each in quantizers.items()}
        steps = {name: each.decode(torch.ones_like(codes[name])) for name, each in quantizers.items()}
        floats = {
            name: value.float().clone().requires_grad_()
            for name, value in parameters.items()
            if name not in quantized and value.numel()
        }
        dtypes = {name: value.dtype for name, value in parameters.items()}
        return cls(codes, steps, quantizers, floats, dtypes, {name: _rates(each) for name, each in codes.items()})

    def groups(self) -> list[dict[str, Any]]:
        """For an optimizer."""
        groups: list[dict[str, Any]] = [{"params": [*self.codes.values()], "lr": _CODE_RATE}]
        for value in self.floats.values():
            size = float(value.detach().std()) if value.numel() > 1 else float(value.detach().abs())
            groups.append({"params": [value], "lr": _FLOAT_RATE * size + 1e-12})
        return groups

    def values(self, prefix: str) -> dict[str, Tensor]:
        """Every parameter as the device would have it, with gradients as if nothing were rounded."""
        found = {f"{prefix}{name}": value.to(self.dtypes[name]) for name, value in self.floats.items()}
        for name, codes in self.codes.items():
            rounded = codes + (self._rounded(name) - codes).detach()
            found[f"{prefix}{name}"] = (rounded * self.steps[name]).to(self.dtypes[name])
        return found

    def bits(self) -> Tensor:
        """About what all codes take: a magnitude of k takes k * rate, by a Laplace distribution of each channel."""
        return torch.stack([(codes.abs() * self.rates[name]).sum() for name, codes in self.codes.items()]).sum()

    def write_to(self, head: GraphModule) -> None:
        """On their grids; of the others, those that a file has in half precision in half precision."""
        with torch.no_grad():
            for name, quantizer in self.quantizers.items():
                head.get_parameter(name).copy_(quantizer.decode(self._rounded(name), self.dtypes[name]))
            for name, value in self.floats.items():
                parameter = head.get_parameter(name)
                was_half = torch.equal(parameter.half().to(parameter.dtype), parameter)
                parameter.copy_(value.half() if was_half and torch.isfinite(value.half()).all() else value)

    def _rounded(self, name: str) -> Tensor:
        most = 2 ** (self.quantizers[name].bits - 1) - 1
        return self.codes[name].detach().round().clamp(-most, most)


def _rates(codes: Tensor) -> Tensor:
    """-log2(t) of p(k) ~ t**|k| with the mean magnitude of each channel, of the shape of what scales it."""
    dimensions = tuple(range(1, codes.dim()))
    mean = codes.detach().abs().mean(dim=dimensions, keepdim=True) if dimensions else codes.detach().abs()
    mean = mean.clamp(1e-3, 1e3)
    return -(((mean.square() + 1).sqrt() - 1) / mean).log2()


class _Tapped(nn.Module):
    """A graph that also returns what some of its nodes make, where that is floating point with samples first; what
    rounds has the gradient of what does not."""

    def __init__(self, graph: GraphModule, names: Sequence[str]) -> None:
        super().__init__()
        self.graph = graph
        self._names = frozenset(names)

    def forward(self, *inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        made: dict[str, Tensor] = {}
        output = _Taps(self.graph, self._names, made).run(*inputs)
        return output, made


class _Taps(PlainInterpreter):
    def __init__(self, graph_module: GraphModule, names: frozenset[str], made: dict[str, Tensor]) -> None:
        super().__init__(graph_module)
        self._names, self._made = names, made

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, Tensor) and value.is_floating_point() and value.dim():
            self._made[n.name] = value
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().call_module(target, args, kwargs)
        if isinstance(self.fetch_attr(target), FakeQuantize):
            return args[0] + (value - args[0]).detach()
        return value


def _matters(
    teacher: _Tapped, batches: Sequence[Batch], scorer: Scorer, generator: torch.Generator
) -> dict[str, Tensor]:
    """The mean squared gradient of the scores in each number that a tapped node makes, by random signs."""
    sums: dict[str, Tensor] = {}
    samples = 0
    for batch in batches:
        with torch.enable_grad(), _learning(True, teacher):
            copy = batch.copy()
            output, made = teacher(*positional(teacher.graph, copy.args, copy.kwargs))
            scores = scorer.scores(output)
            signs = torch.randint(0, 2, scores.shape, generator=generator).to(scores) * 2 - 1
            known = {name: value for name, value in made.items() if len(value) == batch.size and value.requires_grad}
            found = torch.autograd.grad(scores, [*known.values()], signs, allow_unused=True)
        samples += batch.size
        for name, gradient in zip(known, found, strict=True):
            if gradient is None:
                continue
            square = gradient.square().sum(dim=0)
            if torch.isfinite(square).all() and sums.setdefault(name, torch.zeros_like(square)).shape == square.shape:
                sums[name] += square
    return {name: total / samples for name, total in sums.items()}


def _mixed(batch: Batch, generator: torch.Generator) -> Batch:
    """Each sample and another, in a random proportion; as it is where inputs are not all floating point."""
    copy = batch.copy()
    leaves: list[Any] = [*copy.args, *copy.kwargs.values()]
    if batch.size < 2 or not all(
        isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() and len(leaf) == batch.size
        for leaf in leaves
    ):
        return copy
    other = torch.randperm(batch.size, generator=generator)
    share = torch.rand(batch.size, generator=generator)

    def mix(leaf: Tensor) -> Tensor:
        of_first = share.to(leaf).reshape(-1, *[1] * (leaf.dim() - 1))
        return of_first * leaf + (1 - of_first) * leaf[other]

    return Batch(tuple(map(mix, copy.args)), {name: mix(leaf) for name, leaf in copy.kwargs.items()}, None, batch.size)


@contextmanager
def _learning(flag: bool, *modules: nn.Module) -> Iterator[None]:
    """Whether gradients of their parameters are worked out."""
    flags = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(flag and parameter.is_floating_point())
        yield
    finally:
        for parameter, before in flags:
            parameter.requires_grad_(before)


def _noise(
    head: GraphModule, tail: GraphModule, reference: GraphModule, batches: Sequence[Batch], scorer: Scorer
) -> float:
    total, samples = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            clean, other = batch.copy(), batch.copy()
            output = tail(*head(*positional(head, other.args, other.kwargs)))
            total += float(scorer.noise(reference(*positional(reference, clean.args, clean.kwargs)), output).sum())
            samples += batch.size
    return total / max(samples, 1)
