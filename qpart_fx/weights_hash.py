"""Which weights a profile or a plan was made for, told by their contents."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and contents of all parameters and buffers of ``model``, in hexadecimal.

    >>> layer = nn.Linear(2, 2)
    >>> before = weights_hash(layer)
    >>> _ = layer.weight.data.add_(1)
    >>> weights_hash(layer) == before
    False
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            dense = value.detach().to("cpu", copy=False)
            dense = dense if dense.layout is torch.strided else dense.to_dense()
            digest.update(f"{name} {dense.dtype} {tuple(dense.shape)} ".encode())
            digest.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
