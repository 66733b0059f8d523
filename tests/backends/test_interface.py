"""How a backend is found by its name, among ours and those of other packages; plans for what a runtime carries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import qpart_fx as qpart
from qpart_fx import runtimes
from qpart_fx.backends import Backend, Carries, get_backend
from qpart_fx.request import Device

NARROW = """
from qpart_fx.backends import Backend, Carries
class Narrow(Backend):
    carries = Carries(weight_bits=(4, 8), activation_bits=(3, 8))
    def export(self, halves, directory):
        directory.mkdir()
        (directory / "nodes.txt").write_text(" ".join(node.name for node in halves.head.graph.nodes))
        return [directory / "nodes.txt"]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package of one module on the path, with these entry points."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def install(package: str, source: str, **names: str) -> None:
        module = package.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(source)
        about = tmp_path / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{made}" for name, made in names.items()]
        (about / "entry_points.txt").write_text("\n".join(["[qpart_fx.backends]", *lines]))
        runtimes._of_others.cache_clear()

    yield install
    runtimes._of_others.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def narrow_device() -> Device:
    return Device(clock_hz=1e6, cycles_per_mac=1, runtime="narrow")


# By name


@pytest.mark.parametrize("name", runtimes.OURS)
def test_ours_are_found_and_carry_what_is_said_without_them(name: str) -> None:
    backend = get_backend(name)
    assert isinstance(backend, Backend)
    assert backend.carries == runtimes.carried_by(name)


def test_a_backend_of_another_package_exports(install: Install, tmp_path: Path) -> None:
    install("other-package", NARROW, narrow="Narrow")
    split = qpart.split(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), (torch.zeros(1, 2),), cut="output")
    (written,) = split.export("narrow", tmp_path / "out")
    assert written.read_text() == " ".join(node.name for node in split.head.graph.nodes)


def test_an_unknown_name_gets_the_names_that_there_are(install: Install) -> None:
    install("other-package", NARROW, narrow="Narrow")
    with pytest.raises(qpart.RequestError, match=r"no backend 'onyx': choose one of eager, .*narrow, onnx"):
        get_backend("onyx")


def test_nothing_is_loaded_that_is_not_asked_for(install: Install) -> None:
    install("other-package", "raise RuntimeError('loaded')", narrow="Narrow")
    get_backend("eager")
    with pytest.raises(qpart.RequestError, match="no backend 'onyx'"):
        get_backend("onyx")
    assert narrow_device().runtime == "narrow"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_package_that_is_not_there", "No module named 'a_package_that_is_not_there'"),
        ("1 / 0", "ZeroDivisionError"),
        ("Other = 1", "cannot be loaded: AttributeError"),
        ("Narrow = 3", "is 3: it has to be a class"),
        ("class Narrow: pass", "has to be a class derived from"),
        ("from qpart_fx.backends import Carries\nclass Narrow: carries = Carries()", "has to derive from"),
        (NARROW.replace("def export", "def exports"), "abstract method"),
        (NARROW.replace("carries =", "holds ="), "has to be a class derived from"),
        (NARROW + "    def __init__(self, colour): pass", "missing 1 required positional argument: 'colour'"),
    ],
)
def test_a_broken_one_is_named_with_its_package(install: Install, source: str, reason: str) -> None:
    install("other-package", source, narrow="Narrow")
    with pytest.raises(qpart.RequestError, match=r"'narrow' of the package other-package") as caught:
        get_backend("narrow")
    assert reason in str(caught.value)


def test_ours_cannot_be_taken_for_another(install: Install) -> None:
    install("other-package", NARROW, eager="Narrow")
    assert type(get_backend("eager")).__module__ == "qpart_fx.backends.eager"
    assert runtimes.carried_by("eager") == Carries()


def test_two_of_one_name_are_refused(install: Install) -> None:
    install("first-package", NARROW, narrow="Narrow")
    install("second-package", NARROW, narrow="Narrow")
    with pytest.raises(qpart.RequestError, match=r"(first|second)-package, (first|second)-package; remove"):
        get_backend("narrow")


def test_what_a_runtime_carries_is_known_without_torch_or_its_own_packages() -> None:
    code = (
        "import sys, qpart_fx.backends; from qpart_fx import Device; from qpart_fx.runtimes import OURS\n"
        "widths = [Device(1e9, 1, runtime=name).storable_bits for name in OURS]\n"
        "print({'torch', 'onnx', 'onnxruntime', 'openvino', 'executorch'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


# Plans for what a runtime carries


@pytest.fixture(scope="module")
def model_profile() -> qpart.Profile:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    return qpart.profile(model, [torch.randn(64, 6)], progress=False)


def requests() -> list[qpart.Request]:
    """On cheap and dear links, at narrow and wide budgets, with and without what has plans made one by one."""
    return [
        replace(
            qpart.Request.paper(drop, inferences_per_download=times, deadline_s=limit),
            link=qpart.Link(uplink_bps=rate, downlink_bps=rate),
            device=Device(clock_hz=1e5, cycles_per_mac=cycles, runtime="narrow"),
        )
        for drop in (0.001, 0.05)
        for times in (1, 10_000)
        for rate in (1e3, 1e6)
        for limit in (None, 2.0)
        for cycles in (1.0, {4: 0.1, 8: 1.0})
    ]


def without_runtime(request: qpart.Request) -> qpart.Request:
    """The same with the widths named by the device."""
    return replace(request, device=replace(request.device, runtime=None, weight_bits=(4, 8), activation_bits=(3, 8)))


def test_plans_have_the_widths_of_the_runtime_and_are_the_best_of_these(
    install: Install, model_profile: qpart.Profile
) -> None:
    install("other-package", NARROW, narrow="Narrow")
    asked = requests()
    plans, expected = model_profile.plan_many(asked), model_profile.plan_many([*map(without_runtime, asked)])
    assert plans.feasible.tolist() == expected.feasible.tolist()
    made = [plan for plan, feasible in zip(range(len(asked)), plans.feasible, strict=True) if feasible]
    assert made
    for place in made:
        plan = plans[place]
        assert plan == expected[place] == model_profile.plan(asked[place])
        assert {*plan.weight_bits.values()} <= {4, 8}
        assert {*plan.activation_bits.values()} <= {3, 8}
    assert any(plans[place].weight_bits for place in made)


def test_the_paper_s_plans_too(install: Install, model_profile: qpart.Profile) -> None:
    install("other-package", NARROW, narrow="Narrow")
    request = replace(qpart.Request.paper(0.05), device=narrow_device())
    for place in model_profile.cuts:
        plan = model_profile.plan(request, cut=place.cut.crossing, method="paper")
        assert {*plan.weight_bits.values()} <= {4, 8}
        assert {*plan.activation_bits.values()} <= {3, 8}


def test_device_and_runtime_both_restrict(install: Install) -> None:
    install("other-package", NARROW, narrow="Narrow")
    device = replace(narrow_device(), weight_bits=(2, 3, 8, 16), activation_bits=(3, 4))
    assert device.storable_bits == (8,)
    assert device.crossing_bits == (3,)
    assert Device(clock_hz=1e6, cycles_per_mac=1, weight_bits=(2, 5), runtime="onnx").storable_bits == (2, 5)


def test_speeds_that_no_carried_width_has_do_not_count(install: Install) -> None:
    install("other-package", NARROW, narrow="Narrow")
    assert not replace(narrow_device(), cycles_per_mac={2: 1, 8: 2}, weight_bits=(2, 8)).speed_depends_on_width


def test_where_nothing_is_left_the_field_and_what_is_carried_are_named(
    install: Install, model_profile: qpart.Profile
) -> None:
    install("other-package", NARROW, narrow="Narrow")
    request = replace(qpart.Request.paper(0.05), device=replace(narrow_device(), weight_bits=(2, 5)))
    with pytest.raises(qpart.RequestError, match=r"Device.runtime = 'narrow': .*weight_bits = \(2, 5\), but 4 and 8 b"):
        model_profile.plan(request)
    request = replace(request, device=replace(narrow_device(), activation_bits=(2, 5)))
    with pytest.raises(qpart.RequestError, match=r"none of activation_bits = \(2, 5\), but 3 and 8 bits"):
        model_profile.plan_many([request])


def test_an_unknown_runtime_is_refused_when_the_device_is_made() -> None:
    with pytest.raises(qpart.RequestError, match=r"Device.runtime = 'onyx': there is no backend 'onyx'"):
        Device(clock_hz=1e6, cycles_per_mac=1, runtime="onyx")
