"""What is counted, for Prometheus, at a port of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from ..errors import RequestError

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one server. Labels have few values: methods, status codes, and nothing that callers choose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self._calls = Counter("qpart_calls", "Calls that ended.", ["method", "code"], **of)
        self._seconds = Histogram("qpart_call_seconds", "From a call to its end.", ["method"], buckets=_SECONDS, **of)
        self._received = Counter("qpart_received_bytes", "Of messages.", ["method"], **of)
        self._sent = Counter("qpart_sent_bytes", "Of messages.", ["method"], **of)
        self._batch_samples = Histogram("qpart_batch_samples", "Samples run together.", buckets=_SAMPLES, **of)
        self._batch_seconds = Histogram("qpart_batch_seconds", "A tail's run.", buckets=_SECONDS, **of)
        self._of = of
        self._known: dict[tuple[str, str], Any] = {}
        self._server: Any = None

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Something that is looked at when it is asked for."""
        Gauge(name, words, **self._of).set_function(value)

    def ended(self, method: str, code: str, seconds: float, received: int, sent: int) -> None:
        """A call has ended."""
        known = self._known.get((method, code))
        if known is None:
            known = self._known[method, code] = (
                self._calls.labels(method, code), self._seconds.labels(method), self._received.labels(method),
                self._sent.labels(method),
            )  # fmt: skip
        calls, times, in_, out = known
        calls.inc()
        times.observe(seconds)
        in_.inc(received)
        out.inc(sent)

    def ran(self, samples: int, seconds: float) -> None:
        """A batch has run."""
        self._batch_samples.observe(samples)
        self._batch_seconds.observe(seconds)

    def serve(self, host: str, port: int) -> int:
        """Answer at ``/metrics``; returns the port.

        Raises:
            RequestError: the port cannot be listened at.
        """
        try:
            self._server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise RequestError(f"--metrics-port {port}: {error.strerror}") from error
        return int(self._server.server_port)

    def stop(self) -> None:
        """No longer."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
