"""Networks with branches, in the style of known ones but small; tests and benchmarks share them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second, self.norm = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.narrows = stride > 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.second(self.first(x)))
        y += self.short(x) if self.narrows else x
        return F.relu(y, inplace=True)


class _Inception(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direct = _convolution(inputs, outputs, 1)
        self.small = nn.Sequential(_convolution(inputs, 4, 1), _convolution(4, outputs, 3))
        self.large = nn.Sequential(_convolution(inputs, 4, 1), _convolution(4, outputs, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _convolution(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.direct(x), self.small(x), self.large(x), self.pooled(x)], dim=1)


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x), inplace=True))], dim=1)


class UNet(nn.Module):
    """Three levels with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_convolution(3, 8, 3), _convolution(8, 16, 3), _convolution(16, 32, 3)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.join = nn.ModuleList([_convolution(32, 16, 3), _convolution(16, 8, 3)])
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        y = self.down[2](F.max_pool2d(second, 2))
        y = self.join[0](torch.cat([self.up[0](y), second], dim=1))
        y = self.join[1](torch.cat([self.up[1](y), first], dim=1))
        scores: Tensor = self.out(y)
        return scores


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        query, key, value = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        changed: Tensor = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return changed


def residual_network(blocks: int = 8) -> nn.Module:
    """ResNet-18 in small: eight blocks, in-place additions and activations."""
    body = [_ResidualBlock(8, 8, 1 + (index % 2 and index > 1)) for index in range(blocks)]
    return nn.Sequential(_convolution(3, 8, 3), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()


def inception_network(modules: int = 9) -> nn.Module:
    """GoogLeNet in small: nine modules of four branches."""
    body = [_Inception(16, 4) for _ in range(modules)]
    return nn.Sequential(_convolution(3, 16, 3), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def dense_network(layers: int = 12) -> nn.Module:
    """A block of DenseNet."""
    body = [_DenseLayer(8 + 4 * index) for index in range(layers)]
    tail = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 + 4 * layers, 10)
    return nn.Sequential(_convolution(3, 8, 3), *body, *tail).eval()


def encoder(layers: int = 4) -> nn.Module:
    """A transformer encoder with queries, keys and values as branches."""
    return nn.Sequential(*[_Attention(16, 2) for _ in range(layers)], nn.LayerNorm(16), nn.Linear(16, 3)).eval()


class Cameras(nn.Module):
    """A small network for each of some pictures, and a classifier of what they see: very many closed sets.

    Each has its narrowest place before its last layer; a cut there, in all of them, is no prefix of the graph's order.
    """

    def __init__(self, count: int = 4, depth: int = 6) -> None:
        super().__init__()
        widths = [1, *[4] * (depth - 1), 64]
        self.eyes = nn.ModuleList(
            nn.Sequential(*[_convolution(widths[i], widths[i + 1], 3, 2) for i in range(depth)]) for _ in range(count)
        )
        self.join, self.out = nn.Linear(count * widths[-1], 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        seen = [eye(x[:, index : index + 1]).mean((2, 3)) for index, eye in enumerate(self.eyes)]
        scores: Tensor = self.out(F.relu(self.join(torch.cat(seen, dim=1))))
        return scores


def _pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "residual": (residual_network, _pictures),
    "inception": (inception_network, _pictures),
    "dense": (dense_network, _pictures),
    "u-net": (lambda: UNet().eval(), _pictures),
    "encoder": (encoder, lambda count: torch.randn(count, 6, 16, generator=torch.Generator().manual_seed(1))),
}
"""How to make each of the networks, and a batch of inputs of some size for it."""

CAMERAS: tuple[Callable[[], nn.Module], Callable[[int], Tensor]] = (
    lambda: Cameras().eval(),
    lambda count: torch.randn(count, 4, 64, 64, generator=torch.Generator().manual_seed(1)),
)
"""The same of one with more closed sets than can be looked at."""
