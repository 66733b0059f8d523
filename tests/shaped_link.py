"""A real link between two network namespaces of this machine, shaped by the kernel: TCP, its headers and its queues are
those of any network, and only the rate is made up.

    with ShapedLink(20e6) as link:
        subprocess.Popen([*link.inside("server"), "qpart", "serve", "--host", link.address, ...])

Needs root, and the commands ``ip`` and ``tc``.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

ENDS = ("device", "server")

_BURST_BYTES = 1_600
"""That may go at once, a packet: with more, short messages would take no time."""

_QUEUE_BYTES = 1 << 18
"""That wait before packets are lost; a call's message fits in."""

_numbers = itertools.count()


def why_not() -> str | None:
    """Why there can be no shaped link here; None if there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a shaped link needs root"
    missing = [command for command in ("ip", "tc") if shutil.which(command) is None]
    if missing:
        return f"a shaped link needs the command {missing[0]} (Debian and Ubuntu: apt install iproute2)"
    try:
        ShapedLink(1e6).close()
    except OSError as error:
        return f"a shaped link cannot be made here: {error}"
    return None


class ShapedLink:
    """Two namespaces and the link between them, of ``bps`` bits a second each way, which may be set again at any time.
    ``address``: the server's.

    Raises:
        OSError: a command failed; nothing is left behind.
    """

    def __init__(self, bps: float) -> None:
        self._name = f"qpart{os.getpid()}x{next(_numbers)}"
        net = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.address = f"{net}.2"
        try:
            for end in ENDS:
                _run("ip", "netns", "add", self._space(end))
            _run("ip", "-n", self._space("device"), "link", "add", "eth0", "type", "veth",
                 "peer", "name", "eth0", "netns", self._space("server"))  # fmt: skip
            for end, address in zip(ENDS, (f"{net}.1", self.address), strict=True):
                _run("ip", "-n", self._space(end), "addr", "add", f"{address}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _run("ip", "-n", self._space(end), "link", "set", device, "up")
            self.bps = bps
        except OSError:
            self.close()
            raise

    @property
    def bps(self) -> float:
        return self._bps

    @bps.setter
    def bps(self, bps: float) -> None:
        for end in ENDS:
            rate = "rate", f"{bps:.0f}bit", "burst", str(_BURST_BYTES), "limit", str(_QUEUE_BYTES)
            _run("tc", "-n", self._space(end), "qdisc", "replace", "dev", "eth0", "root", "tbf", *rate)
        self._bps = bps

    def inside(self, end: str) -> list[str]:
        """What a command begins with that is to run at this end."""
        return ["ip", "netns", "exec", self._space(end)]

    def close(self) -> None:
        """Take it away; what still runs at its ends is cut off."""
        for end in ENDS:
            subprocess.run(["ip", "netns", "delete", self._space(end)], capture_output=True, check=False)

    def __enter__(self) -> ShapedLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _space(self, end: str) -> str:
        return f"{self._name}-{end}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
