"""What crosses a cut: sizes, numbers, every dtype, and many values at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_cuts import find_cuts
from tests.traps.harness import (
    CAPTURED,
    Traps,
    assert_exact_at_every_cut,
    cloned,
    linear,
    net,
    numbers,
    rows,
    run,
    run_split,
    same,
    sent,
    split_of,
    tokens,
)

trap = Traps()


# Sizes.


@trap(fc=linear())
def a_size_on_both_sides(self: Any, x: Tensor) -> Any:
    count = x.shape[0]
    y = self.fc(x) * count
    return torch.relu(y) + count


@trap(rows(4, 6), fc=linear(6, 6))
def a_size_reshapes_at_the_end(self: Any, x: Tensor) -> Any:
    batch, length, width = x.size()
    y = self.fc(x.view(batch * length, width))
    return y.relu().view(batch, -1, width)


@trap(fc=linear())
def arithmetic_on_sizes(self: Any, x: Tensor) -> Any:
    scale, wide, rank = x.size(-1) ** -0.5, x.shape[1] > 3, x.dim()
    y = self.fc(x) * scale
    return y.relu() * wide + rank + x.numel() // 2 + scale


@trap(fc=linear())
def rows_one_by_one(self: Any, x: Tensor) -> Any:
    return sum(self.fc(column[:, None].expand(-1, 4)) for column in x.unbind(1)[:3])


@trap(fc=linear())
def a_loop_over_a_size(self: Any, x: Tensor) -> Any:
    for index in range(x.shape[1]):
        x = self.fc(x) + index
    return x


@trap(fc=linear())
def a_device_and_a_dtype(self: Any, x: Tensor) -> Any:
    mask = torch.ones(x.shape[1], dtype=x.dtype, device=x.device).cumsum(0)
    return self.fc(x).to(x.device, x.dtype) * mask.type_as(x)


@trap(fc=linear())
def a_range_of_the_size_of_the_batch(self: Any, x: Tensor) -> Any:
    places = torch.arange(x.shape[0])
    return self.fc(x) + places[:, None]


@trap(rows(3, 8, 8), a=nn.Conv2d(3, 4, 3))
def sizes_in_functionals(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    y = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
    y = F.pad(y, (0, 1, 0, x.shape[-1] % 3))
    return F.adaptive_avg_pool2d(y, (2, 2)).flatten(1), F.one_hot(y.flatten(1).argmax(1) % 5, 5), F.unfold(y, 3)


@trap(a=linear())
def an_assertion_on_a_size(self: Any, x: Tensor) -> Any:
    assert x.shape[1] == 4, "four columns"
    torch._assert(x.dim() == 2, "two dimensions")
    if x.is_floating_point():
        x = self.a(x)
    return x.relu()


@trap(lambda size: ((numbers(size, 3), numbers(3), numbers(3, 3)), {}), a=linear(3, 3))
def inputs_of_the_batch_s_size_by_chance(self: Any, x: Tensor, scale: Tensor, mask: Tensor) -> Any:
    if x.dim() == 2:
        x = self.a(x) * scale
    return x.relu() @ mask


# Sizes of the batch that become constants.


@trap(frozen=True, fc=linear())
def len_of_the_input(self: Any, x: Tensor) -> Any:
    return self.fc(x) * len(x)


@trap(frozen=True, a=linear())
def chunks_of_the_batch(self: Any, x: Tensor) -> Any:
    return torch.cat([self.a(part).relu() for part in x.chunk(2)])


@trap(frozen=True, a=linear())
def one_sample_after_another(self: Any, x: Tensor) -> Any:
    return torch.stack([self.a(sample).relu() for sample in x])


# Contents.


@trap(fc=linear())
def infinity_and_negative_zero(self: Any, x: Tensor) -> Any:
    y = self.fc(x)
    masked = y.masked_fill(y < 0, float("-inf"))
    return masked, y.clamp(max=0.0) * -0.0, masked.max(dim=1).values


@trap(a=linear())
def choices_by_contents(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    return torch.where(y > 0, y, x), y.argmax(1), y.sort(1)[1]


@trap(a=linear())
def outputs_of_a_size_that_depends_on_contents(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    return torch.masked_select(y, y > 0), torch.nonzero(y > 0), y[y > 0] * 2


@trap(a=linear())
def a_number_from_contents(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    return y.relu(), y.sum().item()


@trap(a=linear())
def a_list_from_contents(self: Any, x: Tensor) -> Any:
    return self.a(x).relu().tolist()


@trap(rows(5, 4), a=linear())
def a_zero_dimensional_value(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    scale = y.shape[1] * torch.tensor(0.5)
    return y * scale + y[:, :0].sum(1, keepdim=True), y[:, :0]


# Dtypes.


@trap(rows(16), a=linear(16, 16))
def a_spectrum(self: Any, x: Tensor) -> Any:
    spectrum = torch.fft.rfft(self.a(x))
    return torch.fft.irfft(spectrum * 1j).real, spectrum.abs(), spectrum.conj(), torch.view_as_real(spectrum)


@trap(rows(16), a=linear(16, 16))
def a_spectrum_in_double(self: Any, x: Tensor) -> Any:
    return torch.fft.fft(self.a(x).double()).abs()


@trap(tokens(), fc=linear(6, 3))
def integers(self: Any, x: Tensor) -> Any:
    return self.fc((x // 2 + (x & 3)).float()), x % 3 == 1, x.to(torch.uint8), x.short()


@trap(a=linear(), b=nn.Linear(4, 4, dtype=torch.float64))
def widths_that_change(self: Any, x: Tensor) -> Any:
    y = self.b(self.a(x).double())
    return y.half(), y.bfloat16(), y.to(torch.int8), y.int()


@trap(a=linear())
def eight_bit_floats_and_unsigned_integers(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    return y.to(torch.float8_e4m3fn).float().relu(), (y > 0).to(torch.uint16).int() + 1


@pytest.mark.parametrize("name", trap)
def test_exact_at_every_cut(name: str) -> None:
    assert_exact_at_every_cut(*trap[name])


def test_within_inference_mode() -> None:
    with torch.inference_mode():
        assert_exact_at_every_cut(*trap["a_size_on_both_sides"])


@pytest.mark.parametrize("deliver", [cloned, sent])
def test_three_hundred_values_cross(deliver: Any) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return torch.cat([self.fc(x).add(index) for index in range(300)], dim=1)

    model, call = net(forward, fc=linear()), rows(4)(CAPTURED)
    graph = capture(model, *call)
    widest = max(find_cuts(graph), key=lambda cut: len(cut.crossing))
    assert len(widest.crossing) == 300
    assert same(run_split(split_of(graph, widest), call, deliver), run(model, call))
