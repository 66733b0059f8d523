"""The fixed workload: a recipe that must never change, or saved ratios mean nothing."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch

_SIZE, _WORDS, _STEPS, _REPEATS = 192, 1 << 18, 20_000, 7


def workload_s() -> float:
    """Seconds that a product of matrices, a pass over memory, a convolution and a loop of Python take together: the
    median of some repeats."""
    generator = np.random.default_rng(0)
    matrix, words = generator.random((_SIZE, _SIZE)), generator.random(_WORDS)
    convolution, image = torch.nn.Conv2d(8, 8, 3), torch.zeros(1, 8, 24, 24)
    spent = []
    for _ in range(_REPEATS):
        start = perf_counter()
        _ = matrix @ matrix
        _ = (words + 1.0).sum()
        with torch.no_grad():
            convolution(image)
        total = 0
        for step in range(_STEPS):
            total += step
        spent.append(perf_counter() - start)
    return float(np.median(spent))
