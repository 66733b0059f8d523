"""A server that knows a plan, of a catalog with the one model ``NAME``, from its start.

python -m benchmarks.serving.ours CATALOG NAME PLAN_JSON MAX_BATCH
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from qpart_fx.serving.log import start_logging
from qpart_fx.serving.server import Server
from qpart_fx.serving.settings import Settings


async def main(catalog: str, name: str, plan: str, max_batch: str) -> None:
    start_logging("warning")
    server = Server(Settings(Path(catalog), port=0, max_batch=int(max_batch)))
    await server.start()
    record = server.plans.recorded(server.catalog.model(name), Path(plan).read_text())
    await server.runner.signature(record)
    print(json.dumps({"port": server.port, "plan": record.plan_id}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
