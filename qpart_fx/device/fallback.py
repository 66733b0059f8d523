"""What answers in the server's place: a whole model on the device, from a file or the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..serving_protocol import build_outputs, count_outputs
from .arrays import Array
from .runtime import HeadRuntime

Model = Callable[..., Any]
"""Takes arrays as the model is called, and returns its output."""

Fallback = Model | HeadRuntime | str | Path
"""Such a function, or the file of a head of the cut "output", which is the whole model."""


class LocalModel:
    """A whole model on the device.

    Args:
        fallback: a function, or a head of the cut ``"output"``, as ``profile.plan(request, cut="output")`` makes it.
        threads: that a head may use.

    Raises:
        ArtifactError: there is no such file, or it is no head.
    """

    def __init__(self, fallback: Fallback, *, threads: int | None = None) -> None:
        if isinstance(fallback, str | Path):
            fallback = HeadRuntime.load(fallback, threads=threads)
        self._model: Model = fallback
        self._is_head = isinstance(fallback, HeadRuntime)

    def __call__(
        self, structure: Mapping[str, Any] | None, args: tuple[Array, ...], kwargs: Mapping[str, Array]
    ) -> Any:
        """The model's output. A head's values are put into the ``structure`` of it, if that is known; without, one is
        given as it is and several as a tuple."""
        made = self._model(*args, **kwargs)
        return structured(made, structure) if self._is_head else made


def structured(values: tuple[Any, ...], structure: Mapping[str, Any] | None) -> Any:
    """The output that a whole model's head returned the ``values`` of.

    Raises:
        ArtifactError: the structure is one of other values.
    """
    if structure is None:
        return values[0] if len(values) == 1 else values
    if count_outputs(structure) != len(values):
        raise ArtifactError(f"the head returns {len(values)} values, and the model {count_outputs(structure)}")
    return build_outputs(structure, values)
