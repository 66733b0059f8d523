"""A tail on a server: messages in, the model's output out, in the precision and on the processor of one's choice."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .backends.activation import unpack_payload
from .errors import RequestError
from .split_model import SplitModel
from .structure import take_apart

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class TailRuntime:
    """Finishes what a device began: ``answer = TailRuntime(split)(message)``.

    Args:
        split: its tail is copied; the split stays as it is.
        dtype: of floats in the tail: float32, float16 or bfloat16; None for that of the model. Answers have that of the
            model in any case. Half precision is for GPUs and processors that have it, and adds errors of its own, which
            no plan knows of.
        device: where the tail runs, a GPU for example; by default where the split is.
        compiled: through ``torch.compile``: the first messages of each batch size take seconds, later ones less.

    Raises:
        RequestError: there is no such dtype.
    """

    def __init__(
        self,
        split: SplitModel,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compiled: bool = False,
    ) -> None:
        if dtype not in (None, *_DTYPES):
            raise RequestError(f"dtype = {dtype}: a tail runs in float32, float16 or bfloat16")
        self._head = split.head
        self._dtype, self._device = dtype, None if device is None else torch.device(device)
        self._tail: Any = copy.deepcopy(split.tail).to(device=self._device, dtype=dtype)
        if compiled:
            self._tail = torch.compile(self._tail, dynamic=True)

    def __call__(self, message: bytes) -> Any:
        """The model's output, in its own structure, on the CPU, for a message of its head.

        Raises:
            ArtifactError: the message is damaged, or another head's.
        """
        return self.finish(unpack_payload(self._head, message))

    @torch.inference_mode()
    def finish(self, payload: tuple[Any, ...]) -> Any:
        """The same for what crosses, as the head returns it."""
        floats = {value.dtype for value in payload if _is_float(value)}
        output = self._tail(*(self._placed(value) for value in payload))
        tensors: list[Any] = []
        structure = take_apart(output, tensors)
        back = floats.pop() if len(floats) == 1 else torch.float32
        return structure.build([self._returned(value, back) for value in tensors])

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device=self._device, dtype=self._dtype if _is_float(value) else None)

    def _returned(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.to(device="cpu", dtype=dtype if self._dtype is not None and _is_float(value) else None)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
