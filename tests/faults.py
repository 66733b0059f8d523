"""A TCP proxy that misbehaves: between a client and a server in tests, it does to the bytes what a network may.

with FaultProxy(port_of_the_server) as proxy:
    proxy.faults = Faults(cut_after=2000)
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_PIECE = 4096


@dataclass(frozen=True)
class Faults:
    """What happens to a connection's bytes; counts are of bytes since the faults were set, over all connections.

    ``up_bps``, ``down_bps``: the rates towards the server and back. ``delay_s``: each way. ``frozen``: nothing moves.
    ``cut_after``: bytes of answers after which connections are cut. ``swallow_after``: bytes of answers after which
    they vanish, and the connection stays. ``alter_after``: bytes of answers after which bits are flipped, ``altered``
    in each piece, and ``alter_up_after`` likewise of requests. ``refuse``: no connection is taken.
    ``seed``: of the bits.
    """

    up_bps: float | None = None
    down_bps: float | None = None
    delay_s: float = 0.0
    frozen: bool = False
    cut_after: int | None = None
    swallow_after: int | None = None
    alter_after: int | None = None
    alter_up_after: int | None = None
    altered: int = 1
    refuse: bool = False
    seed: int = 0


class FaultProxy:
    """Listens on ``port``, and passes bytes to and from ``target`` on this machine."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.up = self.down = 0
        self.connections = 0
        self._faults = Faults()
        self._passed = {"up": 0, "down": 0}
        self._random = random.Random(0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._thawed = self._run(self._event())
        self._busy = {"up": self._run(self._lock()), "down": self._run(self._lock())}
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        async def change() -> None:
            self._faults, self._passed, self._random = faults, {"up": 0, "down": 0}, random.Random(faults.seed)
            (self._thawed.clear if faults.frozen else self._thawed.set)()

        self._run(change())

    def cut(self) -> None:
        """Reset all connections."""

        async def reset() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        self._run(reset())

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    @staticmethod
    async def _event() -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    @staticmethod
    async def _lock() -> asyncio.Lock:
        return asyncio.Lock()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._faults.refuse:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, up_writer}
        self._writers |= both
        tasks = [
            asyncio.ensure_future(self._pass(reader, up_writer, "up")),
            asyncio.ensure_future(self._pass(up_reader, writer, "down")),
        ]
        try:
            with suppress(asyncio.CancelledError):  # the proxy is closed
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for each in both:
                each.transport.abort()
            self._writers -= both
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            sender = asyncio.ensure_future(self._send(waiting, writer, way))
            try:
                while piece := await reader.read(_PIECE):
                    await self._thawed.wait()
                    bps = self._faults.up_bps if way == "up" else self._faults.down_bps
                    if bps is not None:  # one piece at a time is on the link, of all connections
                        async with self._busy[way]:
                            await asyncio.sleep(8 * len(piece) / bps)
                    waiting.put_nowait((self._loop.time() + self._faults.delay_s, piece))
                while not waiting.empty() and not sender.done():
                    await asyncio.sleep(0.001)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str) -> None:
        while True:
            due, piece = await waiting.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._thawed.wait()
            piece = self._spoiled(piece, way)
            if way == "up":
                self.up += len(piece)
            else:
                self.down += len(piece)
            writer.write(piece)
            await writer.drain()
            if way == "down" and self._faults.cut_after is not None and self._passed[way] >= self._faults.cut_after:
                writer.transport.close()  # what was written arrives before
                raise ConnectionResetError

    def _spoiled(self, piece: bytes, way: str) -> bytes:
        faults, before = self._faults, self._passed[way]
        self._passed[way] += len(piece)
        if way == "down" and faults.swallow_after is not None:
            return piece[: max(0, faults.swallow_after - before)]
        if way == "down" and faults.cut_after is not None:
            return piece[: max(0, faults.cut_after - before)]
        start = faults.alter_after if way == "down" else faults.alter_up_after
        if start is None or before + len(piece) <= start:
            return piece
        changed = bytearray(piece)
        for _ in range(faults.altered):
            place = self._random.randrange(max(0, start - before), len(piece))
            changed[place] ^= 1 << self._random.randrange(8)
        return bytes(changed)
