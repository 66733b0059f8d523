"""MAC handler of einsum, which contracts its operands in pairs from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

import torch

from qpart_fx.macs.table import Call, register_macs
from qpart_fx.meta import TensorInfo

Label: TypeAlias = "str | int"
"""A letter of the equation, or a dimension under its ellipsis, counted from the right."""


@register_macs(torch.einsum)
def einsum(call: Call) -> int | None:
    """In torch's own order; with ``opt_einsum`` installed, torch may find a cheaper one for three operands or more."""
    equation, *operands = call.args or (None,)
    if len(operands) == 1 and isinstance(operands[0], Sequence):
        operands = list(operands[0])
    if not isinstance(equation, str) or not all(isinstance(operand, TensorInfo) for operand in operands):
        return None
    return einsum_macs(equation, [operand.shape for operand in operands])


def einsum_macs(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """Multiply-adds of an einsum over operands of these ``shapes``.

    A label that only one operand of a pair has, and nothing later needs, is summed before the product. A pair that
    contracts no label is an elementwise product, which counts nothing.

    >>> einsum_macs("bik,bkj->bij", [(2, 3, 4), (2, 4, 5)])
    120
    >>> einsum_macs("i,j->ij", [(3,), (4,)])
    0
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    operands = [_sizes(term, shape) for term, shape in zip(terms, shapes, strict=True)]
    everything: set[Label] = set().union(*operands)
    kept: set[Label]
    if arrow:
        kept = {label for label in everything if isinstance(label, str) and label in output}
    else:
        kept = {label for label in everything if isinstance(label, str) and inputs.count(label) == 1}
    if not arrow or "..." in output:
        kept |= {label for label in everything if isinstance(label, int)}
    return _contract_in_turn(operands, kept)


def _contract_in_turn(operands: Sequence[dict[Label, int]], kept: set[Label]) -> int:
    macs = 0
    left = operands[0]
    for position, right in enumerate(operands[1:], start=1):
        needed = kept.union(*operands[position + 1 :])
        contracted = (left.keys() & right.keys()) - needed
        joint = {label: size for label, size in (left | right).items() if label in needed | contracted}
        if contracted:
            macs += prod(joint.values())
        left = {label: size for label, size in joint.items() if label not in contracted}
    return macs


def _sizes(term: str, shape: tuple[int, ...]) -> dict[Label, int]:
    """Size of every label of an operand, those of size 1 left out: they broadcast, and are not there for torch."""
    before, ellipsis, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after)
    labels: list[Label] = [*before, *range(-hidden, 0), *after] if ellipsis else [*before]
    return {label: size for label, size in zip(labels, shape, strict=True) if size != 1}
