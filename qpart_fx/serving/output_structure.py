"""A model's output as a list of values, and what is left of it: the structure that a device builds it by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import ModelError

_KEYS = (str, int, float, bool, type(None))


def values_of(output: Any, values: list[Any]) -> dict[str, Any]:
    """Append the tensors and numbers in ``output`` to ``values``, and return its structure, as
    :func:`qpart_fx.serving_protocol.build_outputs` takes it. Named tuples become tuples, data classes dictionaries.

    Raises:
        ModelError: it holds something that cannot be sent.
    """
    match output:
        case Tensor() | bool() | int() | float():
            values.append(output)
            return {"value": len(values) - 1}
        case None | str():
            return {"constant": output}
        case tuple() | list():
            kind = "tuple" if isinstance(output, tuple) else "list"
            return {kind: [values_of(part, values) for part in output]}
        case Mapping() if all(isinstance(key, _KEYS) for key in output):
            return {"dict": [[key, values_of(part, values)] for key, part in output.items()]}
    if dataclasses.is_dataclass(output):
        names = [item.name for item in dataclasses.fields(output)]
        return {"dict": [[name, values_of(getattr(output, name), values)] for name in names]}
    raise ModelError(f"the model returns a {type(output).__name__}, which cannot be sent")
