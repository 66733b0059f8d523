"""Small networks of different kinds, untrained and seeded, for tests of structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions, norms, in-place activations and a short cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)) + y)
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return scores


class TwoInputs(nn.Module):
    """Two inputs, the second used again at the end, and a dictionary as output."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(9, 4)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        joined = torch.relu(self.left(left)) * scale + torch.tanh(self.right(right))
        return {"logits": self.out(torch.cat([joined, right], dim=1)), "hidden": joined}


class Tokens(nn.Module):
    """Integer inputs, an embedding tied to the output layer, and a raw parameter in a functional."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.mix = nn.Parameter(torch.randn(6, 6))
        self.bias = nn.Parameter(torch.randn(6))
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.gelu(F.linear(self.embedding(tokens), self.mix, self.bias))
        scores: Tensor = self.out(x.mean(dim=1))
        return scores


class Recurrent(nn.Module):
    """Integer inputs of any length, an LSTM, and the last of what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(11, 8), nn.Linear(12, 4)
        self.lstm = nn.LSTM(8, 12, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        scores: Tensor = self.out(torch.relu(states[:, -1]))
        return scores


class Encoder(nn.Module):
    """Rows of numbers into class scores, by a layer of torch's own transformer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.embedding, self.out = nn.Linear(5, 16), nn.Linear(16, 4)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.out(self.encoder(self.embedding(rows)).mean(dim=1))
        return scores


class UNet(nn.Module):
    """Down and up again, with what came before beside it: two values cross a cut at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.relu(self.first(x))
        below = torch.relu(self.down(before))
        scores: Tensor = self.out(torch.cat([self.up(below), before], dim=1)).mean(dim=(2, 3))
        return scores


def classifier(seed: int = 0) -> nn.Sequential:
    """A small convolutional classifier of 3 x 8 x 8 images into 4 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()  # fmt: skip


def images(count: int, seed: int = 0) -> Tensor:
    """Inputs of :func:`classifier` and :class:`Residual`."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
