"""What other tools are compared by: bytes of their networks, saved runs as a section, and words where they lack."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.bytes.integers import Layer, Rounded
from benchmarks.peers.__main__ import main
from benchmarks.peers.macs import COUNTERS
from benchmarks.peers.networks import Example, examples
from benchmarks.peers.report import section
from benchmarks.peers.splits import SPLITTERS


def rounded(bits: int) -> Rounded:
    generator = np.random.default_rng(0)
    codes = generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (8, 5, 3, 3))
    ones = np.ones(8, dtype=np.float32)
    return Rounded(nn.Identity(), {"conv": Layer(codes, ones, ones, bits)}, 64, 1.0)


def test_bytes_are_weights_at_their_widths_with_scales_and_biases() -> None:
    assert rounded(4).weight_bytes == 8 * 5 * 9 // 2
    assert rounded(4).bytes == rounded(4).weight_bytes + 2 * (8 + 8) + 1
    assert rounded(3).bytes < rounded(4).bytes


def test_integers_that_fill_their_width_take_no_less_in_a_coder() -> None:
    found = rounded(4)
    assert found.coded_bytes > 0.95 * found.bytes


@pytest.mark.parametrize("tool", ["ours", "FlopCounterMode"])
def test_tools_agree_on_convolutions(tool: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    assert COUNTERS[tool](model, torch.randn(1, 3, 8, 8)) == 27 * 8 * 36 + 8 * 36 * 5


@pytest.mark.parametrize("tool", ["ours", "fx split_module"])
def test_head_then_tail_is_the_model(tool: str) -> None:
    example = next(examples(None))
    with torch.no_grad():
        torch.testing.assert_close(SPLITTERS[tool](example)(example.inputs), example.model(example.inputs))


def test_pipelining_leaves_the_example_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    before = {name: type(module) for name, module in model.named_modules()}
    inputs = torch.randn(1, 4)
    with torch.no_grad():
        made = SPLITTERS["torch.distributed.pipelining"](Example("small", model, inputs))(inputs)
        torch.testing.assert_close(made, model(inputs))
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_the_section_is_made_from_saved_runs_alone(tmp_path: Path) -> None:
    made = section("make peers", 1.0, tmp_path)
    made.publish(tmp_path)
    text = (tmp_path / "README.md").read_text()
    for tool in ("qpart_fx", "nncodec", "MCT + our coder", "ModelOpt", "FlopCounterMode", "fx split_module"):
        assert tool in text
    assert (tmp_path / "figures" / "peers-bytes.png").exists()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["peers", "nowhere"])
    with pytest.raises(SystemExit):
        main()
    assert "holds no zoo.py" in capsys.readouterr().err
    if find_spec("modelopt") is None:
        monkeypatch.setattr("sys.argv", ["peers"])
        with pytest.raises(SystemExit):
            main()
        assert "make peers" in capsys.readouterr().err
