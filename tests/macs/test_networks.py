"""Whole networks: our total equals torch's own counter, to the last multiply-add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F

from qpart_fx.meta import info
from tests.macs.oracle import by_torch, total, traced


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.norm(self.first(x)))
        y = self.second(y)
        y += self.skip(x)
        return y.relu_()


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 20, 2))
        self.classify = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.classify(torch.flatten(x, 1))


class Separable(nn.Module):
    """Depthwise and pointwise, grouped and dilated, with "same" and circular padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 24, 5, stride=(2, 1), padding=2, groups=12)
        self.pointwise = nn.Conv2d(24, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding="same", dilation=2, groups=4)
        self.circular = nn.Conv2d(16, 6, (3, 2), padding=1, padding_mode="circular")
        self.squeeze = nn.Linear(16, 4)
        self.excite = nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Any:
        x = F.hardswish(self.stem(x))
        x = F.relu6(self.pointwise(self.depthwise(x)))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3))))))
        return self.circular(self.grouped(x) * gate[:, :, None, None]).mean(dim=(-2, -1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 10, 3, padding=1)])
        self.bottom = nn.Conv2d(10, 14, 3, padding=2, dilation=2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(14, 10, 2, 2), nn.ConvTranspose2d(10, 6, 3, 2, 1, 1, groups=2)])
        self.merge = nn.ModuleList([nn.Conv2d(20, 10, 3, padding=1), nn.Conv2d(12, 6, 3, padding=1)])
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Any:
        first = F.leaky_relu(self.down[0](x), 0.1)
        second = F.leaky_relu(self.down[1](F.max_pool2d(first, 2)), 0.1)
        x = self.bottom(F.avg_pool2d(second, 2))
        x = self.merge[0](torch.cat([self.up[0](x), second], dim=1))
        x = self.merge[1](torch.cat((self.up[1](x), first), 1))
        return F.interpolate(self.head(x), scale_factor=2, mode="bilinear", align_corners=False)


class AudioAndVideo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.audio = nn.Sequential(
            nn.Conv1d(1, 8, 9, 4), nn.GELU(), nn.Conv1d(8, 12, 5, 2, dilation=2), nn.GroupNorm(3, 12)
        )
        self.decoder = nn.ConvTranspose1d(12, 5, 4, 2, groups=1)
        self.video = nn.Sequential(
            nn.Conv3d(2, 6, (3, 3, 2), (1, 2, 2), 1), nn.BatchNorm3d(6), nn.ELU(), nn.MaxPool3d(2)
        )
        self.spread = nn.ConvTranspose3d(6, 4, 3, (1, 2, 1), groups=2)
        self.kernel = nn.Parameter(torch.randn(4, 1, 2, 2, 2))

    def forward(self, sound: Tensor, film: Tensor) -> Any:
        heard = self.decoder(self.audio(sound)).amax(-1)
        seen = F.conv3d(self.spread(self.video(film)), self.kernel, groups=4, stride=(1, 1, 2))
        return torch.cat([heard, seen.flatten(2).mean(-1)], -1)


class TransformerBlock(nn.Module):
    """Grouped-query attention by the functional, and a second attention by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 24)
        self.position = nn.Parameter(torch.randn(1, 7, 24))
        self.norms = nn.ModuleList([nn.LayerNorm(24), nn.LayerNorm(24), nn.RMSNorm(24)])
        self.query, self.keys, self.out = nn.Linear(24, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, 24)
        self.qkv = nn.Linear(24, 3 * 32)
        self.project = nn.Linear(32, 24)
        self.gate, self.up, self.down = nn.Linear(24, 40), nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens) + self.position
        batch, length, _ = x.shape
        y = self.norms[0](x)
        query = self.query(y).view(batch, length, 6, 4).transpose(1, 2)
        key, value = self.keys(y).view(batch, length, 2, 12)[..., :4], self.keys(y).view(batch, length, 2, 12)[..., 4:8]
        key, value = key.permute(0, 2, 1, 3), value.permute(0, 2, 1, 3)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, -1))
        query, key, value = self.qkv(self.norms[1](x)).unflatten(-1, (4, 24)).chunk(3, dim=-1)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / 8**0.5
        y = torch.einsum("b h q k, b k h d -> b q h d", scores.softmax(-1), value)
        x = x + self.project(y.flatten(2))
        y = self.norms[2](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Encoder(nn.Module):
    """nn.MultiheadAttention, on itself and across, and a stack of torch's own encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(20, 4, batch_first=True)
        self.across = nn.MultiheadAttention(20, 2, kdim=7, vdim=9, add_bias_kv=True, add_zero_attn=True)
        layer = nn.TransformerEncoderLayer(20, 5, 33, activation="gelu", batch_first=True, norm_first=True)
        self.stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(20), enable_nested_tensor=False)
        self.classify = nn.Linear(20, 3)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Any:
        x = x + self.attend(x, x, x, need_weights=False)[0]
        attended, weights = self.across(x.transpose(0, 1), key, value)
        x = self.stack(x + attended.transpose(0, 1))
        return self.classify(x[:, 0]) * weights.mean()


class Mixer(nn.Module):
    """Every product of matrices that torch has, by function, method and operator."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(9, 6))
        self.channels = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(5))
        self.core = nn.Parameter(torch.randn(6, 8, 5))
        self.last = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Any:  # (batch, 6, 8)
        x = x + torch.matmul(self.tokens.mT, self.tokens.matmul(x))
        x = x @ self.channels
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, gram.tanh(), x, alpha=0.1)
        pooled = torch.tensordot(x, self.core, dims=([1, 2], [0, 1]))
        turned = torch.inner(x, self.channels)
        mixed = torch.addmm(self.bias, pooled, pooled.t().mm(pooled))
        mixed = self.last(mixed).addmm(mixed, mixed.t() @ mixed)
        return torch.einsum("bd,...bij,ijd->b", mixed, turned, self.core)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(42, 31), nn.ReLU(), nn.Linear(31, 10)), ((3, 6, 7),)),
    "residual": (ResNet, ((2, 3, 33, 30),)),
    "separable": (Separable, ((3, 3, 29, 17),)),
    "unet": (UNet, ((2, 2, 16, 24),)),
    "audio and video": (AudioAndVideo, ((3, 1, 121), (3, 2, 6, 9, 8))),
    "transformer": (TransformerBlock, ((2, 7),)),
    "encoder": (Encoder, ((3, 5, 20), (6, 3, 7), (6, 3, 9))),
    "mixer": (Mixer, ((4, 6, 8),)),
}


def annotated(name: str) -> tuple[GraphModule, tuple[Tensor, ...]]:
    make, shapes = NETWORKS[name]
    torch.manual_seed(0)
    inputs = tuple(torch.randint(11, shape) if name == "transformer" else torch.randn(shape) for shape in shapes)
    return traced(make(), *inputs), inputs


@pytest.mark.parametrize("name", NETWORKS)
def test_total_equals_torchs_counter(name: str) -> None:
    graph_module, inputs = annotated(name)
    assert total(graph_module) == by_torch(graph_module, *inputs) > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_equals_torchs_counter(name: str) -> None:
    graph_module, inputs = annotated(name)

    class Checked(Interpreter):
        def run_node(self, n: Node) -> Any:
            values: list[Any] = []
            expected = by_torch(lambda: values.append(super(Checked, self).run_node(n)))
            assert info(n).macs == expected, n.format_node()
            return values[0]

    Checked(graph_module).run(*inputs)
