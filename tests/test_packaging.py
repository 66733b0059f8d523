"""The package as others install it: what the wheel holds, what an import brings along, what the constraints pin."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.device.heads import rounded
from tests.networks import images

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
NAME: str = PROJECT["name"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
}

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import qpart_fx
modules = {"qpart_fx": qpart_fx.__file__}
def fail(name):
    raise
for module in pkgutil.walk_packages(qpart_fx.__path__, "qpart_fx.", onerror=fail):
    if not module.name.endswith("__main__"):
        modules[module.name] = importlib.import_module(module.name).__file__
print(json.dumps({"ours": modules, "all": sorted(sys.modules)}))
"""

BLOCK_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code: str, *, executable: Path | str = sys.executable, cwd: Path = ROOT) -> str:
    """What ``code`` prints in a fresh interpreter started in ``cwd``."""
    result = subprocess.run([executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def sources(folder: Path) -> Iterator[Path]:
    """The Python files below ``folder``, those in linked folders too."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from sources(path)
        elif path.suffix == ".py":
            yield path


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def requirements(lines: list[str]) -> Iterator[Requirement]:
    """The requirements in ``lines``, those of our own extras in place of these."""
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) == NAME:
            for extra in requirement.extras:
                yield from requirements(EXTRAS[extra])
        else:
            yield requirement


# What an import brings along


def test_everything_imports_under_our_own_name_only() -> None:
    imported = json.loads(python(IMPORT_ALL))

    expected = {module_name(path) for path in sources(ROOT / "qpart_fx") if path.name != "__main__.py"}
    assert set(imported["ours"]) == expected
    assert any(name.startswith("qpart_fx.passes.") for name in expected), "the link qpart_fx/passes is missing"
    strangers = [name for name in imported["all"] if name.partition(".")[0] in ("passes", "backends")]
    assert strangers == [], "import these as qpart_fx.passes and qpart_fx.backends"


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_links_are_relative(name: str) -> None:
    assert (ROOT / "qpart_fx" / name).readlink() == Path("..", name)


def test_a_request_needs_no_torch() -> None:
    python(BLOCK_TORCH + "import qpart_fx; qpart_fx.Request")


def test_without_torch_compile_says_what_to_install() -> None:
    message = python(
        BLOCK_TORCH
        + """
import qpart_fx
try:
    qpart_fx.compile(None, None)
except ImportError as error:
    assert isinstance(error, qpart_fx.QPartError), type(error).__mro__
    print(error)
"""
    )
    assert 'pip install "qpart-fx[torch]"' in message


# What is shipped


def test_packages_are_all_listed() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({module_name(path.parent) for path in sources(ROOT / "qpart_fx")})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is built from, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("qpart_fx", "passes", "backends"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_wheel_holds_each_file_once_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    ours = [name for name in names if ".dist-info/" not in name]
    expected = [path.relative_to(ROOT).as_posix() for path in sources(ROOT / "qpart_fx")]
    assert sorted(ours) == sorted([*expected, "qpart_fx/py.typed"])
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    # an environment with our dependencies and the wheel, but not the checkout: the folders that a .pth file names are
    # searched for modules, while their own .pth files, an editable install among them, are not read
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    interpreter = tmp_path / "env" / "bin" / "python"

    imported = json.loads(python(IMPORT_ALL, executable=interpreter, cwd=tmp_path))
    entry_point = python(
        "from importlib.metadata import distribution; "
        f"print(*{{e.name: e.load().__module__ for e in distribution('{NAME}').entry_points}}.items())",
        executable=interpreter,
        cwd=tmp_path,
    )

    assert "qpart_fx.passes" in imported["ours"]
    assert {name: path for name, path in imported["ours"].items() if not Path(path).is_relative_to(site)} == {}
    assert (site / "qpart_fx" / "py.typed").is_file()
    assert entry_point.strip() == "('qpart', 'qpart_fx.cli')"


DEVICE = """
from importlib.metadata import distributions
import numpy as np
from qpart_fx.device import HeadRuntime
head = HeadRuntime.load("head.qpart")
with open("message", "wb") as file:
    file.write(head.message(np.load("images.npy")))
print(*sorted(distribution.name.lower() for distribution in distributions()))
"""


@pytest.mark.slow
def test_a_device_runs_heads_with_the_few_packages_of_its_extra(wheel: Path, tmp_path: Path) -> None:
    split = rounded("classifier", "_2", 8).split
    (tmp_path / "head.qpart").write_bytes(split.packed_head(runtime="onnx"))
    np.save(tmp_path / "images.npy", images(3).numpy())
    venv.create(tmp_path / "env", with_pip=True)
    interpreter = tmp_path / "env" / "bin" / "python"
    pins = str(ROOT / "constraints.txt")
    command = [str(interpreter), "-m", "pip", "install", "-q", "-c", pins, f"{wheel}[device]"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

    installed = set(python(DEVICE, executable=interpreter, cwd=tmp_path).split())

    assert {"numpy", "onnxruntime", "constriction", "grpcio"} <= installed
    assert installed & {"torch", "scipy", "onnx", "matplotlib"} == set()
    assert (tmp_path / "message").read_bytes() == split.pack_activation(split.head(images(3)))


# What is pinned


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_constraints_pin_every_requirement(extra: str) -> None:
    lines = EXTRAS[extra] if extra else [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for requirement in requirements(lines):
        version = PINS.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement.name}=={version} is not {requirement}"


def test_constraints_pin_what_the_requirements_need() -> None:
    every = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    waiting = list(requirements(every))
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        for need in map(Requirement, needs):
            environments = [{"extra": extra} for extra in ("", *requirement.extras)]
            if need.marker is None or any(need.marker.evaluate(environment) for environment in environments):
                waiting.append(need)
    unpinned = sorted({name for name, _ in seen} - set(PINS))
    # whoever keeps another build of torch has other versions of these
    assert [name for name in unpinned if not name.startswith(("nvidia-", "cuda-", "triton", "pytorch-triton"))] == []
