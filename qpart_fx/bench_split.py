"""How long a whole split takes, beside the model as it was: ``qpart bench`` of a file that ``split.save`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from .backends.packed import unpack_split
from .bench import DEVICE, Report, Settings, Stopwatch, measured
from .container import decode
from .errors import ArtifactError, MissingDependencyError, ModelError, RequestError
from .graph_parts import with_parts
from .inputs import example_inputs
from .quantizer import FakeQuantize
from .split_model import SplitModel

if TYPE_CHECKING:
    from .device import HeadRuntime

WHOLE, SUM = "the whole model, nothing rounded", "head, packing, unpacking and tail"


def bench_split(content: bytes, settings: Settings) -> Report:
    """Time a split from its file: its parts in PyTorch, its head on a device's runtime, and, to compare with, head and
    tail in one go without rounding what crosses.

    Raises:
        ArtifactError: the file is damaged. RequestError: it does not say what its inputs look like, or the model takes
            no such batch.
    """
    _, manifest, data = decode(content, "split")
    split = SplitModel(*unpack_split(manifest, data))
    with _threads(settings.threads), torch.no_grad():
        inputs = _inputs(split.head, settings.batch)
        notes: tuple[str, ...] = ()
        device = None
        try:
            device = _on_device(split, settings.threads)
        except (MissingDependencyError, ModelError, RequestError, ArtifactError) as error:
            notes = (f"Not measured in {DEVICE}: {error}",)
        arrays = [value.numpy() for value in inputs if isinstance(value, Tensor)]
        unrounded = _unrounded(split.head)

        def rounds() -> Mapping[str, float]:
            watch = Stopwatch()
            watch(WHOLE, lambda: split.tail(*unrounded(*inputs)))
            payload = watch("head", lambda: split.head(*inputs))
            message = watch("packing", lambda: split.pack_activation(payload))
            received = watch("unpacking", lambda: split.unpack_activation(message))
            watch("tail", lambda: split.tail(*received))
            parts = ("head", "packing", "unpacking", "tail")
            watch.times_s[SUM] = sum(watch.times_s[step] for step in parts)
            if device is not None:
                watch(f"head and packing in {DEVICE}", lambda: device[1].message(*arrays))
            return watch.times_s

        try:
            times = measured(rounds, settings.repeats)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise RequestError(f"the model does not run on a batch of {settings.batch}: {error}") from error
        sizes = {"message": len(split.pack_activation(split.head(*inputs))), "head's file": len(split.packed_head())}
    if device is not None:
        sizes[f"head's file for {DEVICE}"] = len(device[0])
    plan = split.plan
    versions = {"torch": torch.__version__} if device is None else {"torch": torch.__version__, DEVICE: version(DEVICE)}
    title = "A split without a plan" if plan is None else f"{plan.model}, cut at {', '.join(plan.cut)}"
    return Report(title, settings, times, sizes, WHOLE, versions, notes)


def _inputs(head: GraphModule, batch: int) -> tuple[Any, ...]:
    """What the head is called with: ``batch`` samples, floats random and other numbers 0."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for value in example_inputs(head):
        if isinstance(value, Tensor) and value.dim():
            value = value[:1].repeat_interleave(batch, dim=0)
            if value.is_floating_point():
                value = torch.randn(value.shape, generator=generator).to(value.dtype)
        found.append(value)
    return tuple(found)


def _on_device(split: SplitModel, threads: int | None) -> tuple[bytes, HeadRuntime]:
    """The head's file for a device without torch, and what runs it."""
    from .device import HeadRuntime

    content = split.packed_head(runtime="onnx")
    return content, HeadRuntime(content, threads=threads)


def _unrounded(head: GraphModule) -> GraphModule:
    """The head over the same weights, without what rounds."""
    rounding = [name for name, module in head.named_modules() if isinstance(module, FakeQuantize)]
    return with_parts(head, {name: nn.Identity() for name in rounding})


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Have torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
