"""Which backends there are, and what the runtimes that read their files can carry: known without torch.

Other packages add theirs under the entry-point group ``qpart_fx.backends``; one is loaded when it is asked for by name,
and none can take the name of one of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import RequestError

GROUP = "qpart_fx.backends"

_ALL = tuple(range(2, 17))


@dataclass(frozen=True)
class Carries:
    """What a head in the files of a backend may be made of, in bits.

    ``weight_bits``: widths of weights that are worth planning for: narrower ones than the least would take as much
    room in its files and as much time. ``activation_bits``: widths of what crosses.
    ``activation_bits_inside``: widths that its runtime can compute in, as integers, within the head; none where it
    computes in floats.
    """

    weight_bits: tuple[int, ...] = _ALL
    activation_bits: tuple[int, ...] = _ALL
    activation_bits_inside: tuple[int, ...] = ()


OURS: dict[str, tuple[str, Carries]] = {
    "eager": ("qpart_fx.backends.eager:EagerBackend", Carries()),
    "executorch": ("qpart_fx.backends.executorch:ExecutorchBackend", Carries(weight_bits=(8,))),
    "onnx": ("qpart_fx.backends.onnx:OnnxBackend", Carries(activation_bits_inside=(8,))),
    "openvino": ("qpart_fx.backends.openvino:OpenvinoBackend", Carries(weight_bits=(4, 8))),
    "torch_export": ("qpart_fx.backends.torch_export:TorchExportBackend", Carries()),
}
"""Where each of our backends lies, and what it carries."""


def known_backends() -> list[str]:
    """The names of ours and of those that other packages add."""
    return sorted({*OURS, *(entry.name for entry in _of_others())})


def require_known(name: str) -> None:
    """Loads nothing.

    Raises:
        RequestError: there is no backend called ``name``; the message names those there are.
    """
    if name not in OURS and not any(entry.name == name for entry in _of_others()):
        raise RequestError(f"there is no backend {name!r}: choose one of {', '.join(known_backends())}")


def carried_by(name: str) -> Carries:
    """What the backend called ``name`` carries; one of another package is loaded, and tells.

    Raises:
        RequestError: there is none, or that of another package does not load or does not say; names the package.
    """
    if name in OURS:
        return OURS[name][1]
    carries: Carries = load_backend(name).carries
    return carries


def load_backend(name: str) -> Any:
    """The class of the backend called ``name``, which says what it ``carries``.

    Raises:
        RequestError: as :func:`carried_by`.
    """
    require_known(name)
    if name in OURS:
        module, _, made = OURS[name][0].partition(":")
        return getattr(import_module(module), made)
    entry, *others = [entry for entry in _of_others() if entry.name == name]
    if others:
        raise RequestError(
            f"more than one package adds a backend {name!r}: {_package(entry)}, {', '.join(map(_package, others))}; "
            "remove all but one"
        )
    try:
        found = entry.load()
    except Exception as error:  # it runs the package's code
        raise RequestError(f"{described(name)} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, type) or not isinstance(getattr(found, "carries", None), Carries):
        raise RequestError(
            f"{described(name)} is {found!r}: it has to be a class derived from qpart_fx.backends.Backend that says "
            "what it `carries`"
        )
    return found


def described(name: str) -> str:
    """The backend called ``name`` in words, with the package that it comes from."""
    entry = next((entry for entry in _of_others() if entry.name == name), None)
    return f"the backend {name!r}" + ("" if entry is None else f" of the package {_package(entry)}")


@cache
def _of_others() -> tuple[EntryPoint, ...]:
    """Those of other packages, but for names of ours; packages that are installed later are not seen."""
    return tuple(entry for entry in entry_points(group=GROUP) if entry.name not in OURS)


def _package(entry: EntryPoint) -> str:
    return "?" if entry.dist is None else entry.dist.name


def words(widths: Iterable[int]) -> str:
    """Widths for a message.

    >>> words((2, 3, 4, 8)), words(())
    ('2-4 and 8 bits', 'no bits')
    """
    runs: list[list[int]] = []
    for width in sorted(widths):
        if runs and runs[-1][-1] == width - 1:
            runs[-1].append(width)
        else:
            runs.append([width])
    names = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) + " bits" if names else "no bits"
