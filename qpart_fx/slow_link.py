"""A link of a set rate between programs of one machine: bytes that go through take as long as on a real one."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

_PIECE = 1460
"""What goes over a network at a time."""


class SlowLink:
    """Listens on a free ``port`` of this machine, and passes what comes on to ``target`` and back.

    Attributes:
        bps: bits a second, each way; may be changed at any time.
    """

    port: int

    def __init__(self, target: int, bps: float) -> None:
        self.bps = bps
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-link", daemon=True)
        self._thread.start()
        self._started.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ways = asyncio.Lock(), asyncio.Lock()
        self._started.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # nobody listens there
            writer.transport.abort()
            return
        up, down = self._ways
        ways = [
            asyncio.ensure_future(self._pass(reader, up_writer, up)),
            asyncio.ensure_future(self._pass(up_reader, writer, down)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for each in (writer, up_writer):
            each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Lock) -> None:
        """One piece at a time is on its way, of all connections."""
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                async with way:
                    await asyncio.sleep(8 * len(piece) / self.bps)
                writer.write(piece)
                await writer.drain()
