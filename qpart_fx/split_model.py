"""The compiler's product: a head for the device, a tail for the server, and the plan they were made by."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx import GraphModule

from .calibration import read_batches
from .errors import RequestError
from .inputs import device_of, positional
from .plan import Plan
from .scores import ClassScores, Metric, Scorer, scorer_of

if TYPE_CHECKING:
    from .passes.verify_accuracy import Evidence


class SplitModel(nn.Module):
    """A model in two parts. Called as the model is, it runs the head, then the tail: what a deployment computes.

    ``head(*args, **kwargs)`` returns the tuple of crossing values, ``tail(*payload)`` the model's output in the model's
    own structure. Both are ordinary graph modules: move them with ``.to``, compile them, read their ``code``. ``plan``
    is None for a split that quantizes nothing.
    """

    head: GraphModule
    tail: GraphModule

    def __init__(
        self,
        head: GraphModule,
        tail: GraphModule,
        plan: Plan | None = None,
        *,
        reference: nn.Module | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.tail = tail
        self.plan = plan
        self._reference = (reference,)  # in a tuple: the float model is no part of this one's state
        self._scorer = scorer or ClassScores()
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.tail(*self.head(*args, **kwargs))

    def verify(
        self,
        data: Iterable[Any],
        *,
        reference: nn.Module | None = None,
        metric: Metric | None = None,
        confidence: float = 0.95,
        max_samples: int = sys.maxsize,
    ) -> Evidence:
        """Measure the drop against the float model on ``data``, batches as for calibration that served no other
        purpose.

        Args:
            reference: the float model; needed for a split that comes from a file.
            metric: as for :func:`qpart_fx.profile`; by default what the split was planned with, else class scores.

        Raises:
            CalibrationError: the data are missing, broken, or do not fit the model.
            RequestError: there is no float model to compare with.
        """
        from .passes.capture import capture
        from .passes.verify_accuracy import verify_accuracy

        model = self._reference[0] if reference is None else capture(reference)
        if model is None:
            raise RequestError("this split comes from a file without its float model: pass it as reference=")
        device = device_of(self)
        batches = [batch.to(device) for batch in read_batches(data, max_samples=max_samples)]
        scorer = self._scorer if metric is None else scorer_of(metric)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            return verify_accuracy(model, self, batches, scorer, confidence=confidence)
        finally:
            for module, training in modes.items():
                module.training = training

    def packed_head(self, runtime: str = "torch", *, example_inputs: Sequence[Any] | None = None) -> bytes:
        """The one file that the device downloads: the head with its weights packed at their bits, and what proves its
        plan. :func:`qpart_fx.head_file.read_head` reads it without torch.

        Args:
            runtime: what the device has: ``"torch"``, or ``"onnx"`` for :class:`qpart_fx.device.HeadRuntime`.
            example_inputs: as for :meth:`export`; of use for ``"onnx"`` alone.

        Raises:
            RequestError: there is no such runtime, or the example inputs are needed.
            ModelError: the head calls what ONNX has no operator for.
        """
        from .backends.onnx_head import pack_onnx_head
        from .backends.packed import pack_head

        if runtime not in ("torch", "onnx"):
            raise RequestError(f"runtime = {runtime!r}: a device runs heads with 'torch' or 'onnx'")
        if runtime == "torch":
            return pack_head(self.head, self.plan)
        return pack_onnx_head(self.head, self.plan, self._inputs(example_inputs))

    def packed_update(self, held: bytes, *, example_inputs: Sequence[Any] | None = None) -> bytes:
        """What a device that holds the head's file ``held``, of the same model under another plan, downloads in place
        of :meth:`packed_head` for the runtime that it is for, and :func:`qpart_fx.head_update.apply_update` turns into
        it; never more than that.

        Args:
            example_inputs: as for :meth:`packed_head`.

        Raises:
            ArtifactError: ``held`` is damaged, or no head's file.
        """
        from .head_file import ONNX_GRAPH, read_head
        from .head_update import make_update

        runtime = "onnx" if ONNX_GRAPH in read_head(held).tensors else "torch"
        return make_update(held, self.packed_head(runtime, example_inputs=example_inputs))

    def pack_activation(self, payload: tuple[Any, ...], uplink_bps: float | None = None) -> bytes:
        """What crosses the wire for one call of the head, each tensor packed at its bits; or entropy-coded, where that
        saves more time on a link of ``uplink_bps`` bits a second than it takes."""
        from .backends.activation import pack_payload

        return pack_payload(self.head, payload, uplink_bps)

    def unpack_activation(self, data: bytes) -> tuple[Any, ...]:
        """The payload that :meth:`pack_activation` packed, equal to the last bit.

        Raises:
            ArtifactError: the bytes are damaged, or come from another head.
        """
        from .backends.activation import unpack_payload

        return unpack_payload(self.head, data)

    def save(self, path: str | Path) -> None:
        """Write head, tail and plan to one file, which :func:`qpart_fx.load` reads back bit for bit; nothing is
        pickled."""
        from .backends.packed import pack_split
        from .container import write_file

        write_file(Path(path), pack_split(self.head, self.tail, self.plan))

    def export(self, backend: str, directory: str | Path, *, example_inputs: Sequence[Any] | None = None) -> list[Path]:
        """Write the files that ``backend`` makes of head and tail into ``directory``, and return their paths.

        Args:
            example_inputs: what the model is called with, for backends that trace it, two samples or more; by default
                zeros of the shapes that it was captured with.

        Raises:
            RequestError: there is no such backend; the message names those there are. Or it needs example inputs.
            ModelError: the backend cannot hold what the model calls.
        """
        from .backends import Halves, get_backend

        halves = Halves(self.head, self.tail, self.plan, self._inputs(example_inputs))
        return get_backend(backend).export(halves, Path(directory))

    def _inputs(self, example_inputs: Sequence[Any] | None) -> tuple[Any, ...] | None:
        return None if example_inputs is None else tuple(positional(self.head, tuple(example_inputs), {}))
