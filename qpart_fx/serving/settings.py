"""What a server is told when it is started."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError


@dataclass(frozen=True)
class Settings:
    """What ``qpart serve`` takes: see there. ``port`` and ``metrics_port``: 0 for any that is free; ``metrics_port``
    None for no metrics. ``max_message_bytes``: of one call. ``calls_per_s``: of one client. ``threads``: of torch."""

    catalog: Path
    host: str = "127.0.0.1"
    port: int = 8471
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    tokens: Path | None = None
    max_batch: int = 32
    max_delay_ms: float = 2.0
    queue: int = 256
    memory_mb: int = 1024
    max_message_bytes: int = 16 << 20
    calls_per_s: float | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    price_by_load: bool = False
    threads: int | None = None
    log_level: str = "info"

    @property
    def memory_bytes(self) -> int:
        """Of heads and tails that are kept."""
        return self.memory_mb << 20

    @property
    def profile_bytes(self) -> int:
        """Of the files of profiles that a planner keeps."""
        return self.memory_bytes // 4

    @property
    def queue_bytes(self) -> int:
        """Of messages that wait."""
        return max(self.memory_bytes // 4, self.max_message_bytes)

    def __post_init__(self) -> None:
        """Raises:
        RequestError: the settings make no sense together.
        """
        whole = {"--max-batch": self.max_batch, "--queue": self.queue, "--memory-mb": self.memory_mb}
        for name, value in whole.items():
            if value < 1:
                raise RequestError(f"{name} {value}: give a number above 0")
        for name, port in {"--port": self.port, "--metrics-port": self.metrics_port or 0}.items():
            if not 0 <= port < 2**16:
                raise RequestError(f"{name} {port}: a port is a number from 1 to 65535, or 0 for any that is free")
        if not 0 <= self.max_delay_ms <= 10_000:
            raise RequestError(f"--max-delay-ms {self.max_delay_ms}: give a number from 0 to 10,000")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RequestError("--tls-cert and --tls-key: give both or none")
        if self.client_ca is not None and self.tls_cert is None:
            raise RequestError("--client-ca: clients show their certificates over TLS only; give --tls-cert as well")
        if self.tokens is not None and self.tls_cert is None and not is_loopback(self.host):
            raise RequestError(
                "--tokens: without TLS everybody on the way can read them; give --tls-cert and --tls-key, or listen "
                "on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
