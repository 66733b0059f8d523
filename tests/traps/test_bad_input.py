"""What cannot be captured, and cuts that do not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from tests.traps.harness import Plain, linear, net, numbers


def bad(kind: str) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        match kind:
            case "raises":
                raise ValueError("only on Sundays")
            case "loop":
                while x.sum() > 0:
                    x = self.fc(x) - 1
                return x
            case "branch":
                return self.fc(x) if x.mean() > 0 else x
            case "size from contents":
                return self.fc(x)[: int(x.abs().sum())]
            case "sparse":
                return torch.sparse.mm(self.fc(x).to_sparse(), self.fc.weight)
            case "text":
                return "text"
            case "generator":
                return (self.fc(each) for each in x)
            case "number":
                return 7
        return None

    return net(forward, fc=linear())


HERE = r"test_bad_input\.py:\d+"
X34 = numbers(3, 4)
BAD: list[tuple[str, Any, Any, str]] = [
    ("raises", bad("raises"), X34, rf"{HERE}: the model does not accept .*: only on Sundays"),
    ("loop", bad("loop"), X34, rf"{HERE}: a decision on the contents of a tensor.*Remedy"),
    ("branch", bad("branch"), X34, rf"{HERE}: a decision on the contents of a tensor.*Remedy"),
    ("size from contents", bad("size from contents"), X34, rf"{HERE}: a decision on the contents of a tensor.*Remedy"),
    ("sparse", bad("sparse"), X34, "cannot be captured"),
    ("nothing returned", bad("nothing"), X34, "forward returns None, with no tensor in it"),
    ("number returned", bad("number"), X34, "forward returns 7, with no tensor in it"),
    ("text returned", bad("text"), X34, "forward returns 'text', with no tensor in it"),
    ("generator returned", bad("generator"), X34, "a generator cannot be looked into"),
    ("lazy weights", nn.Sequential(nn.LazyLinear(4)), X34, r"'0\.weight' has no shape yet.*initialized"),
    ("weights on meta", Plain().to("meta"), X34.to("meta"), r"'first\.weight' is on the meta device"),
    ("no forward", nn.Module(), X34, 'missing the required "forward" function'),
    ("function", torch.relu, X34, "expected a torch.nn.Module, got builtin_function"),
    ("class", nn.Linear, X34, "expected a torch.nn.Module, got type"),
    ("none", None, X34, "expected a torch.nn.Module, got NoneType"),
    ("too many inputs", Plain(), (X34, X34), "does not accept .* but 3 were given"),
    ("no input", Plain(), (), "does not accept nothing: .*missing 1 required positional argument: 'x'"),
    ("unknown keyword", Plain(), {"y": X34}, "does not accept y=.*unexpected keyword argument 'y'"),
    ("input given twice", Plain(), {"x": X34, "y": X34}, "unexpected keyword argument 'y'"),
    ("wrong shape", Plain(), numbers(3, 5), r"in 'first', at .*does not accept float32\[3, 5\]"),
    ("wrong dtype", Plain(), X34.double(), r"does not accept float64\[3, 4\]"),
    ("wrong device", Plain(), X34.to("meta"), "does not accept"),
    ("text", Plain(), "text", "does not accept 'text'"),
    ("array", Plain(), X34.numpy(), r"must be Tensor, not numpy.ndarray"),
]


@pytest.mark.parametrize(("model", "inputs", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_cannot_be_captured(model: Any, inputs: Any, message: str) -> None:
    with pytest.raises(qpart.CaptureError, match=message) as caught:
        qpart.split(model, inputs)
    assert len(str(caught.value)) < 2000


def recurrent(self: Any, x: Tensor) -> Any:
    sequence, (hidden, cell) = self.lstm(x)
    return self.fc(sequence[:, -1]), hidden.mean(0) + cell.mean(0)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("nowhere", r"no node 'nowhere' .*nearest legal cuts are at x or at getitem, "),
        ("fc_7", r"no node 'fc_7' \(did you mean 'fc'\?\); the nearest legal cuts are at .*, fc"),
        (["x", "nowhere"], "no node 'nowhere'"),
        ("lstm", "'lstm' is neither a tensor nor a number, .*; the nearest legal cuts are at x or at getitem, "),
        (["x", "getitem"], "not only .* would cross, but also lstm; .*; the nearest legal cuts are at x or at "),
        ([], 'name at least one crossing node, or "input", or "output"'),
    ],
)
def test_cuts_that_do_not_exist_name_the_nearest(cut: Any, message: str) -> None:
    model = net(recurrent, lstm=nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), fc=linear(12, 3))
    with pytest.raises(qpart.RequestError, match=message):
        qpart.split(model, numbers(3, 5, 4), cut=cut)


def test_a_cut_that_is_no_name() -> None:
    with pytest.raises(qpart.RequestError, match="cut"):
        qpart.split(Plain(), X34, cut=5)  # type: ignore[arg-type]
