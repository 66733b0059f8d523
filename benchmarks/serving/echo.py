"""The bare server that ours is compared with: answers of as many bytes, in a coroutine that does nothing.

python -m benchmarks.serving.echo ANSWER_BYTES
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc

from qpart_fx.serving_protocol import SERVICE


async def main(answer_bytes: int) -> None:
    answer = bytes(answer_bytes)

    async def echo(request: bytes, context: Any) -> bytes:
        return answer

    server = grpc.aio.server()
    handlers = {"Infer": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port, "plan": "0" * 32}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
