"""A server: its parts put together, started, and stopped when what it took is finished."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable
from typing import Any

import grpc
import torch

from ..errors import QPartError, RequestError
from .access import Access
from .calls import Gate, health_service
from .catalog import Catalog
from .kept import Kept
from .load import Load
from .log import log, start_logging
from .metrics import Metrics
from .oip import OipService
from .planner import Planner
from .planner_process import PlannerProcess
from .plans import Plans
from .runner import Runner, local_runner
from .service import QPartService
from .settings import Settings, is_loopback

_LOOK_EVERY_S = 1.0
"""At the catalog and at the file of tokens."""

_GRACE_S = 30.0
"""For calls to finish when the server is to stop."""

_LINGER_S = 0.2
"""Until then answers have left, and calls that were on their way are told where they stand."""

MOST_PLANS_WAITING = 512
"""For a planner."""


class Server:
    """Made and started in a running event loop.

    Args:
        planner, runner: who plans, and who runs tails, where it is not this machine alone; the server stops them.
        shares_port: other servers of this machine may listen at the same port, and take turns with this one.

    Attributes:
        port, metrics_port: where it listens, once started.
        catalog, plans, runner: what it offers.

    Raises:
        RequestError: a file or folder of the settings is missing or malformed.
    """

    port: int
    metrics_port: int | None = None

    def __init__(
        self,
        settings: Settings,
        *,
        planner: Planner | None = None,
        runner: Runner | None = None,
        shares_port: bool = False,
    ) -> None:
        self._settings, self._shares_port = settings, shares_port
        self.catalog = Catalog(settings.catalog)
        self._access = Access(settings.tokens, settings.calls_per_s)
        self._credentials = _credentials(settings)
        load = Load()
        self._metrics = Metrics()
        self._kept = Kept(settings.memory_bytes)
        self._planner = planner or PlannerProcess(settings.profile_bytes, MOST_PLANS_WAITING)
        self.runner = runner or local_runner(settings, self._planner, self._kept, load, self._metrics.ran)
        price = load if settings.price_by_load else None
        self.plans = Plans(self.catalog, self._planner, self.runner, self._kept, price)
        self._gate = Gate(
            self._access, self._metrics, most_calls=4 * settings.queue + MOST_PLANS_WAITING,
            by_certificate=settings.client_ca is not None,
        )  # fmt: skip
        self._ready = False
        self._watching: asyncio.Task[None] | None = None
        self._server = self._made_server()
        self._measure(load)

    async def start(self) -> None:
        """Returns when it answers.

        Raises:
            RequestError: the address cannot be listened at.
        """
        settings = self._settings
        torch.set_num_threads(settings.threads or torch.get_num_threads())
        await asyncio.to_thread(self.catalog.refresh)
        if settings.metrics_port is not None:
            self.metrics_port = self._metrics.serve(settings.metrics_host, settings.metrics_port)
        address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise RequestError(f"cannot listen at {address}: is the port in use? ({error})") from error
        await self._planner.warm_up()
        await self._server.start()
        self._watching = asyncio.create_task(self._watch())
        self._ready = True
        log(
            "info", "serving", host=settings.host, port=self.port, metrics_port=self.metrics_port,
            tls=self._credentials is not None, client_certificates=settings.client_ca is not None,
            tokens=settings.tokens is not None, models=sorted(self.catalog.models),
        )  # fmt: skip
        if self._credentials is None and not is_loopback(settings.host):
            log("warning", "everybody on the network can read and use this server: give --tls-cert and --tokens")

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Take no more calls, finish those that were taken, for ``grace_s`` at most, and end."""
        log("info", "stopping", waiting=self.runner.waiting)
        self._ready = False
        if self._watching is not None:
            self._watching.cancel()
        self.runner.hurry()
        await self._gate.close(grace_s)
        await asyncio.sleep(_LINGER_S)
        await self._server.stop(_LINGER_S)
        self.runner.stop()
        self._planner.stop()
        self._metrics.stop()
        log("info", "stopped")

    def _made_server(self) -> Any:
        settings = self._settings
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", 16 << 10),
                ("grpc.so_reuseport", int(self._shares_port)),  # else a second server at the same port is a mistake
                ("grpc.keepalive_time_ms", 60_000),  # connections whose other end is gone are closed
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
        )
        server.add_generic_rpc_handlers(
            (QPartService(self.plans, self.runner).handler(self._gate), health_service(lambda: self._ready))
        )
        OipService(self.catalog, self.plans, self.runner, self._gate, lambda: self._ready).add_to(server)
        return server

    def _measure(self, load: Load) -> None:
        gauge = self._metrics.gauge
        gauge("qpart_queue_calls", "Calls that wait for the tails' thread.", lambda: self.runner.waiting)
        gauge("qpart_planner_jobs", "Jobs that the planner has not done.", lambda: self._planner.waiting)
        gauge("qpart_utilisation", "Share of the time that tails run.", lambda: load.utilisation)
        gauge("qpart_price_factor", "By load: see --price-by-load.", lambda: load.factor)
        gauge("qpart_memory_bytes", "Of heads and tails that are kept.", lambda: self._kept.bytes)
        gauge("qpart_models", "In the catalog.", lambda: len(self.catalog.models))

    async def _watch(self) -> None:
        """Look at the catalog and the tokens, again and again."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await asyncio.to_thread(self.catalog.refresh)
                if await asyncio.to_thread(self._access.refresh):
                    log("info", "tokens read again")
            except (QPartError, OSError) as error:
                log("warning", "cannot look for changes", reason=str(error))


def serve(settings: Settings) -> None:
    """Serve until the process is told to stop: SIGTERM or SIGINT once to finish what was taken, twice to end now.

    Raises:
        RequestError: the settings cannot be served.
    """
    start_logging(settings.log_level)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    server = Server(settings)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    try:
        if await _unless(told, server.start()):
            await told.wait()
    finally:
        told.clear()
        await _unless(told, server.stop())


async def _unless(told: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether ``work`` ended before the process was told to stop; if not, it is cancelled."""
    task, waiting = asyncio.ensure_future(work), asyncio.create_task(told.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    ended = task.done()
    for each in (task, waiting):
        each.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return ended


def _credentials(settings: Settings) -> Any:
    """None for connections without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        key, certificate = settings.tls_key.read_bytes(), settings.tls_cert.read_bytes()
        authority = None if settings.client_ca is None else settings.client_ca.read_bytes()
    except OSError as error:
        raise RequestError(f"TLS: cannot read {error.filename}: {error.strerror}") from error
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=authority is not None
    )
