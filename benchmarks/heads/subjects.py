"""Networks of five kinds, trained, with samples to calibrate with and samples to judge on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.planning.subjects import subject
from qpart_fx.demo import load_digits

Data = tuple[Tensor, Tensor]
Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Subject:
    name: str
    model: nn.Module
    calibration: Data
    judged: Data
    metric: Metric | None = None


class LstmClassifier(nn.Module):
    """The rows of a digit, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 48, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.squeeze(1))
        scores: Tensor = self.out(states[:, -1])
        return scores


class Transformer(nn.Module):
    """The rows of a digit as tokens, in plain attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 48), nn.Parameter(0.1 * torch.randn(8, 48))
        self.layers = nn.ModuleList(_Block(48, 4) for _ in range(2))
        self.out = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.squeeze(1)) + self.place
        for layer in self.layers:
            tokens = layer(tokens)
        scores: Tensor = self.out(tokens.mean(dim=1))
        return scores


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.mix(attended)
        made: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return made


class UNet(nn.Module):
    """Which pixels are ink, and of which digit, in noise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.middle, self.up = nn.Conv2d(32, 32, 3, padding=1), nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.last, self.out = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.relu(self.first(x))
        deep = torch.relu(self.middle(torch.relu(self.down(wide))))
        joined = torch.cat([torch.relu(self.up(deep)), wide], dim=1)
        scores: Tensor = self.out(torch.relu(self.last(joined)))
        return scores


def pixels_right(output: Tensor, targets: Tensor) -> float:
    """The share of them."""
    return float((output.argmax(1) == targets).float().mean())


def subjects(directory: Path | None, names: list[str]) -> list[Subject]:
    """Those of ``NAMES`` that are asked for; the last two need ``directory``, that of ``benchmarks.planning``."""
    return [_MADE[name]() if name in _MADE else _real(directory, name) for name in names]


def _real(directory: Path | None, name: str) -> Subject:
    if directory is None:
        raise SystemExit(f"{name} needs the directory of the real networks and data")
    found = subject(directory, name)
    return Subject(name, found.model, found.calibration_data, next(iter(found.held.values())))


def _trained(name: str, model: Callable[[], nn.Module]) -> Subject:
    digits = load_digits(seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = _fit(model(), *digits.train)
    return Subject(name, made, digits.calibration, digits.test)


def _u_net() -> Subject:
    digits = load_digits(seed=0)
    generator = torch.Generator().manual_seed(0)

    def noisy(data: Data) -> Data:
        images = data[0]
        ink = (images[:, 0] > 0.5).long() * (1 + data[1][:, None, None])
        return images + 0.1 * torch.randn(images.shape, generator=generator), ink

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = _fit(UNet(), *noisy(digits.train))
    return Subject("u_net", made, noisy(digits.calibration), noisy(digits.test), pixels_right)


def _fit(model: nn.Module, images: Tensor, targets: Tensor) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


_MADE: dict[str, Callable[[], Subject]] = {
    "transformer": lambda: _trained("transformer", Transformer),
    "lstm": lambda: _trained("lstm", LstmClassifier),
    "u_net": _u_net,
}
NAMES = [*_MADE, "resnet20", "mobilenet_v1"]
