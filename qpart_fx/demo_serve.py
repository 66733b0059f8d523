"""The demo of serving: a server and two devices, each a process of its own, on real digits, over a link that slows, to
a server that is killed and started again. What the devices do is printed as it happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .compiler import profile
from .container import make_directory, write_file
from .demo import Digits, load_digits, train
from .errors import InternalError, require_packages
from .model_profile import Profile
from .request import Device, Link, Request, Server
from .slow_link import SlowLink

_MODEL = "digits"
_FAST_BPS, _SLOW_BPS = 50e6, 0.1e6
_PART_S = 7.0
"""Of each part of the play."""

_PATIENCE_S = 60.0
"""For what a busy machine may take its time for."""

_SERVER = Server(clock_hz=3e9, cycles_per_mac=0.05)
_LINK = Link(uplink_bps=_FAST_BPS, downlink_bps=_FAST_BPS, transmit_power_w=0.5)


def requests() -> dict[str, Request]:
    """What the two devices ask for. Both run heads with ONNX, as devices without torch do."""
    strong = Device(clock_hz=1.5e9, cycles_per_mac=0.5, kappa=1e-29, runtime="onnx")
    weak = Device(clock_hz=50e6, cycles_per_mac=8, kappa=1e-27, runtime="onnx")
    return {
        "strong": Request(0.01, strong, _SERVER, _LINK, inferences_per_download=10_000),
        "weak": Request(0.01, weak, _SERVER, _LINK, inferences_per_download=10_000),
    }


def run(directory: Path, *, seed: int = 0, part_s: float = _PART_S) -> None:
    """Train, profile, and play; files are left in ``directory``.

    Args:
        part_s: seconds of each part of the play.

    Raises:
        MissingDependencyError: a package is not installed.
    """
    packages = "onnxscript onnxruntime tritonclient prometheus_client sklearn"
    require_packages(packages, "the demo of serving", extra="demo,onnx,device,serve")
    catalog = directory / "catalog"
    make_directory(catalog)
    data = load_digits(seed)
    known = profile(train(data.train, seed=seed), [data.calibration])
    known.save(catalog / f"{_MODEL}.qpart")
    print(f"Trained and profiled a residual network on digits: {catalog / _MODEL}.qpart")
    _leave_data(directory, data)
    whole = _whole_model(known, directory)
    server = _started_server(catalog, 0)
    link = SlowLink(server.port, _FAST_BPS)
    devices: list[_Device] = []
    try:
        start = time.time()

        def say(words: str) -> None:
            print(f"{time.time() - start:5.1f} s  ------  {words}", flush=True)

        say(f"two devices start, on a link of {_FAST_BPS / 1e6:g} Mbit/s; each call is 32 images, and has 1 s")
        for name, request in requests().items():
            fallback = str(whole) if name == "strong" else None
            devices.append(_Device(_settings(directory, name, request, link.port, fallback, start)))
        for device in devices:
            device.wait_for("the plan in use")
        time.sleep(part_s)
        say(f"the link slows to {_SLOW_BPS / 1e6:g} Mbit/s")
        link.bps = _SLOW_BPS
        time.sleep(part_s)
        say("the server is killed")
        server.kill()
        time.sleep(part_s)
        say(f"the server is started again, and the link is as fast as it was: {_FAST_BPS / 1e6:g} Mbit/s")
        link.bps = _FAST_BPS
        server = _started_server(catalog, server.port)
        say("the server is there")
        for device, since in [(device, device.lines) for device in devices]:
            device.wait_for("by the server", since)
        time.sleep(part_s)
        say("the end")
    finally:
        for device in devices:
            device.stop()
        link.close()
        server.kill()


class _Server:
    """``qpart serve`` as a process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self.port = process, port

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _started_server(catalog: Path, port: int) -> _Server:
    """Returns when it answers."""
    with open(catalog.parent / "server.log", "ab+") as log:
        before = log.seek(0, 2)
        command = [sys.executable, "-m", "qpart_fx", "serve", str(catalog), "--port", str(port), "--threads", "1"]
        process = subprocess.Popen(command, stderr=log)
        while process.poll() is None:
            log.seek(before)
            for line in log.read().splitlines(keepends=True):
                if b'"event": "serving"' in line and line.endswith(b"\n"):
                    return _Server(process, json.loads(line)["port"])
            time.sleep(0.05)
    raise InternalError(f"the server does not start: see {catalog.parent / 'server.log'}")


class _Device:
    """A device as a process; what it says is printed."""

    def __init__(self, settings: Path) -> None:
        command = [sys.executable, "-m", "qpart_fx.demo_device", str(settings)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._said: list[str] = []
        self._printing = threading.Thread(target=self._print, daemon=True)
        self._printing.start()

    @property
    def lines(self) -> int:
        """How many it has said."""
        return len(self._said)

    def wait_for(self, words: str, since: int = 0) -> None:
        """Until it has said them, after so many lines; but not forever."""
        until = time.monotonic() + _PATIENCE_S
        while not any(words in line for line in self._said[since:]) and time.monotonic() < until:
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printing.join()

    def _print(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(line, end="", flush=True)
            self._said.append(line)


def _settings(directory: Path, name: str, request: Request, port: int, fallback: str | None, start: float) -> Path:
    settings: dict[str, Any] = {
        "name": name, "target": f"127.0.0.1:{port}", "model": _MODEL, "request": json.loads(request.to_json()),
        "cache": str(directory / f"cache_{name}"), "data": str(directory / "digits.npz"), "fallback": fallback,
        "start": start,
    }  # fmt: skip
    path = directory / f"device_{name}.json"
    write_file(path, json.dumps(settings).encode())
    return path


def _leave_data(directory: Path, data: Digits) -> None:
    """The test digits, and the mean image of each class, as a device without torch reads them."""
    images, labels = (part.numpy() for part in data.train)
    centres = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    test_images, test_labels = (part.numpy() for part in data.test)
    np.savez(directory / "digits.npz", images=test_images, labels=test_labels, centres=centres)


def _whole_model(known: Profile, directory: Path) -> Path:
    """The file of a head that is all of the model."""
    request = requests()["strong"]
    plan = known.plan(replace(request, max_accuracy_drop=0.02), cut="output")
    path = directory / "whole_model.qpart"
    write_file(path, known.compile(plan, progress=False).packed_head("onnx"))
    return path
