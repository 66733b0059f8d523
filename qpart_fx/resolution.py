"""How finely the weights of a layer may be rounded, and how wide their codes then are.

Weights are entropy-coded: steps set the bytes, and a width is only what the codes fit in. So a layer is given a
resolution in bits, which need not be whole: with every bit its steps are halved. Where no code may be wider than a
largest width, those of some channels are halved no further. A value that crosses is not coded, and has a width.

Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESOLUTIONS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, *map(float, range(6, 17)))
"""Those of weights with a step for each channel: half an octave apart where most bytes are, in layers of few bits."""


LARGEST_WIDTH = 16


def width_of(resolution: float, largest_width: int = LARGEST_WIDTH) -> int:
    """The width that all codes fit in, signed.

    >>> [width_of(resolution) for resolution in (2, 2.5, 3)]
    [2, 3, 3]
    """
    return min(math.ceil(resolution), largest_width)


def places_of(
    widths: Sequence[int], resolutions: Sequence[float], largest_width: int = LARGEST_WIDTH
) -> NDArray[np.int64]:
    """The places of those ``resolutions`` whose codes are of one of ``widths``.

    >>> places_of((2, 4), (2, 2.5, 3, 3.5, 4))
    array([0, 3, 4])
    """
    fit = [place for place, resolution in enumerate(resolutions) if width_of(resolution, largest_width) in widths]
    return np.array(fit, dtype=np.int64)
