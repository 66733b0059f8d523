"""What a server makes of messages that were damaged, or made to harm it.

    python -m benchmarks.serving.fuzz [COUNT] [--seed SEED] [--json FILE]

COUNT messages (default: 100,000) to all methods of a `qpart serve` of a small network: real ones with bits flipped, cut
short, spliced with others, with lengths that lie; of the tail's, some with a checksum that is right for what they are.
Each has to be refused, with a status that says so, or answered rightly, as what its bytes say; the server has to live,
and its memory, the planner's included, may not grow. Then a tenth as many answers, altered likewise, to what devices
read them with: each has to be read, or refused as an ArtifactError or RequestError.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import torch
from tritonclient.grpc import service_pb2 as pb

import qpart_fx as qpart
from benchmarks.planning.report import print_table
from qpart_fx.container import deflate
from qpart_fx.device import pack_arrays, unpack_arrays
from qpart_fx.serving_protocol import (
    BYTES,
    CALL,
    HASH,
    HEAD,
    HEAD_METHOD,
    INFER_METHOD,
    KIND,
    PLAN,
    PLAN_METHOD,
    HeadQuery,
    PlanAnswer,
    PlanQuery,
)
from tests.networks import images
from tests.serving.running import REQUEST, Caller, profile, running, split_of

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
AT_ONCE = 16
WARM = 0.1
"""The share of messages after which memory is first looked at."""

GROWTH = 1.10
"""Of memory from then on, that is no leak: caches fill."""

REFUSALS = frozenset("INVALID_ARGUMENT NOT_FOUND FAILED_PRECONDITION RESOURCE_EXHAUSTED".split())
"""What a caller's mistake may end in; any other status would be the server's."""

SUSPECT = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


@dataclass
class Found:
    """How calls ended, by method; what was wrong, and the memory in MB by the share of messages sent."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    memory_mb: dict[str, float] = field(default_factory=dict)
    ended: bool = False

    @property
    def grown(self) -> float:
        return self.memory_mb["end"] / self.memory_mb["start"]


@dataclass(frozen=True)
class Kind:
    """A method with real messages of its own. ``mend``: makes a mutated message whole again; ``right``: whether an
    answer is what the message asks for."""

    name: str
    method: str
    messages: list[bytes]
    metadata: tuple[tuple[str, str], ...]
    mend: Callable[[bytes], bytes] | None
    right: Callable[[bytes, Any, dict[str, Any]], bool]
    streams: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.fuzz", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of what is altered (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures into this file as well")
    options = parser.parse_args()
    found = fuzz(options.count, options.seed)
    names = sorted({name for counts in found.statuses.values() for name in counts})
    rows = [[name, *(f"{counts[each]:,}" for each in names)] for name, counts in found.statuses.items()]
    print_table(f"{options.count:,} mutated messages", ["method", *names], rows)
    memory = ", ".join(f"{value:.0f} MB at the {when}" for when, value in found.memory_mb.items())
    print(f"\nmemory: {memory} ({found.grown - 1:+.1%})")
    for words in found.wrong[:20]:
        print(f"WRONG: {words}")
    print(f"{len(found.wrong)} wrong; the server {'has ENDED' if found.ended else 'lives'}")
    if options.json is not None:
        record = {"count": options.count, "statuses": found.statuses, "memory_mb": found.memory_mb}
        options.json.write_text(json.dumps({**record, "wrong": len(found.wrong), "ended": found.ended}, indent=1))
    badly = read_by_devices(options.count // 10, options.seed)
    print(f"{options.count // 10:,} mutated answers to devices: {badly} end in an error that none should raise")
    if found.wrong or badly or found.ended or found.grown > GROWTH:
        raise SystemExit(1)


def fuzz(count: int, seed: int = 0) -> Found:
    """Send so many."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        profile().save(Path(folder) / "net.qpart")
        with running(Path(folder)) as server:
            caller = Caller(server.port)
            kinds = kinds_of(caller)
            found = asyncio.run(_sent(server.process.pid, server.port, kinds, count, seed))
            found.ended = server.process.poll() is not None
            if not found.ended:
                require_well(caller, found)
    return found


def read_by_devices(count: int, seed: int = 0) -> int:
    """How many of so many mutated answers raise what they should not. Their hashes are right for what they are."""
    plan = json.loads(replace(profile().plan(REQUEST), by_cut=()).to_json())
    answer = PlanAnswer(plan, "0" * 32, "0" * 64, 10, None, {"value": 0}, "0" * 64)
    outputs = pack_arrays([np.arange(40, dtype=np.float32).reshape(4, 10)])
    random, wrong = Random(seed), 0
    for place in range(count):
        try:
            if place % 2:
                unpack_arrays(with_checksum(mutated(outputs, answer.text, random)))
            else:
                text = mutated(answer.text, outputs, random)
                read = PlanAnswer.decode(deflate(text), hashlib.sha256(text).hexdigest())
                qpart.Plan.from_json(json.dumps(dict(read.plan)))
        except (qpart.ArtifactError, qpart.RequestError):
            pass
        except Exception:
            wrong += 1
    return wrong


def kinds_of(caller: Caller) -> list[Kind]:
    """The four methods, and the whole model as well as a tail for others' clients."""
    known = profile()
    answers = [caller.plan("net", replace(REQUEST, max_accuracy_drop=drop)) for drop in (0.001, 0.05, 0.2)]
    answer = answers[1]
    split = split_of(known, answer)
    with torch.no_grad():
        messages = [split.pack_activation(split.head(images(count, seed=count))) for count in (1, 2, 5)]
    queries = [
        PlanQuery("net", json.loads(replace(REQUEST, max_accuracy_drop=drop).to_json()), holds)
        for drop in (0.001, 0.05, 0.2) for holds in (None, answer.head_hash)
    ]  # fmt: skip
    heads = [HeadQuery(each.plan_id, holds).encode() for each in answers for holds in (None, answer.head_hash)]
    own = ((PLAN, answer.plan_id), (CALL, "0123456789abcdef"))
    return [
        Kind("Plan", PLAN_METHOD, [query.encode() for query in queries], (), None, right_plan),
        Kind("Head", HEAD_METHOD, heads, (), None, right_head, streams=True),
        Kind("Infer", INFER_METHOD, messages, own, None, lambda *_: False),  # its checksum is wrong
        Kind("Infer, with its checksum", INFER_METHOD, messages, own, with_checksum, right_infer(split)),
        Kind("ModelInfer", MODEL_INFER, model_infers(answer, messages), (), None, right_model_infer),
    ]


def model_infers(answer: PlanAnswer, messages: list[bytes]) -> list[bytes]:
    """Of the whole model, and of a tail with its packed message."""
    made = []
    for count in (1, 3):
        x = images(count, seed=count).numpy()
        asked = pb.ModelInferRequest(model_name="net")
        name = next(node.name for node in profile().graph.graph.nodes if node.op == "placeholder")
        asked.inputs.add(name=name, datatype="FP32", shape=x.shape)
        asked.raw_input_contents.append(x.tobytes())
        made.append(asked.SerializeToString())
    packed = pb.ModelInferRequest(model_name="net", model_version=answer.plan_id)
    packed.inputs.add(name="message", datatype="UINT8", shape=[len(messages[0])])
    packed.raw_input_contents.append(messages[0])
    return [*made, packed.SerializeToString()]


def mutated(message: bytes, other: bytes, random: Random) -> bytes:
    """``message`` with one to four things done to it."""
    changed = bytearray(message)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        place = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0 | 1 if changed:
                changed[place % len(changed)] ^= 1 << random.randrange(8)
            case 2:
                del changed[place:]
            case 3:
                changed[place:] = other[random.randrange(len(other)) :]
            case 4:
                size, code = random.choice(((1, "B"), (2, "<H"), (4, "<I"), (8, "<Q")))
                lie = struct.pack(code, random.choice(SUSPECT) & ((1 << 8 * size) - 1))
                changed[place : place + size] = lie
            case _:
                changed[place:place] = random.randbytes(random.randrange(1, 64))
    return bytes(changed)


def with_checksum(message: bytes) -> bytes:
    body = message[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def right_plan(message: bytes, answer: Any, metadata: dict[str, Any]) -> bool:
    """Whether it is the one of its hash, and keeps the budget that the query, altered as it is, still asks for."""
    asked = qpart.Request.from_json(json.dumps(PlanQuery.decode(message).request))
    plan = PlanAnswer.decode(answer, metadata[HASH]).plan
    return bool(plan["max_accuracy_drop"] == asked.max_accuracy_drop)


def right_head(message: bytes, answer: Any, metadata: dict[str, Any]) -> bool:
    """Whether it is as long as was said, and the head that was said where it is a whole one."""
    if metadata[BYTES] != str(len(answer)):
        return False
    return bool(metadata[KIND] != HEAD or hashlib.sha256(answer).hexdigest() == metadata[HASH])


def right_infer(split: qpart.SplitModel) -> Callable[[bytes, Any, dict[str, Any]], bool]:
    def right(message: bytes, answer: Any, metadata: dict[str, Any]) -> bool:
        with torch.no_grad():
            expected = split.tail(*split.unpack_activation(message)).numpy()
        return same(unpack_arrays(answer)[0], expected)

    return right


def right_model_infer(message: bytes, answer: Any, metadata: dict[str, Any]) -> bool:
    """Of the whole model; what a tail answers is looked at where it is called as a device does."""
    asked, given = pb.ModelInferRequest.FromString(message), pb.ModelInferResponse.FromString(answer)
    if asked.model_version or len(asked.raw_input_contents) != 1 or not given.raw_output_contents:
        return bool(given.outputs)
    x = np.frombuffer(asked.raw_input_contents[0], "<f4").reshape(list(asked.inputs[0].shape))
    with torch.no_grad():
        expected = profile().graph(torch.from_numpy(x.copy())).numpy()
    return same(np.frombuffer(given.raw_output_contents[0], "<f4").reshape(expected.shape), expected)


def same(one: Any, other: Any) -> bool:
    scale = float(np.nan_to_num(np.abs(other), nan=0.0, posinf=0.0).max(initial=0.0))
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=1e-4, atol=1e-5 * (1 + scale), equal_nan=True)
    )


def require_well(caller: Caller, found: Found) -> None:
    """That it still answers what is right."""
    answer = caller.plan("net", REQUEST)
    split = split_of(profile(), answer)
    with torch.no_grad():
        x = images(3, seed=5)
        if not same(caller.output(answer, split.pack_activation(split.head(x))), split(x).numpy()):
            found.wrong.append("after all that, a right message is answered wrongly")


async def _sent(pid: int, port: int, kinds: list[Kind], count: int, seed: int) -> Found:
    found, random, sent = Found(), Random(seed), 0
    found.statuses = {kind.name: Counter() for kind in kinds}
    looks = {int(count * share): when for share, when in ((WARM, "start"), (0.5, "middle"), (1.0, "end"))}
    options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    address = f"127.0.0.1:{port}"
    streams = grpc.insecure_channel(address, options)
    async with grpc.aio.insecure_channel(address, options) as channel:

        async def one(kind: Kind, message: bytes) -> None:
            status, words = await _status(channel, streams, kind, message)
            found.statuses[kind.name][status] += 1
            if status != "OK" and status not in REFUSALS:
                found.wrong.append(f"{kind.name}: {status}: {words[:200]}: {message[:200].hex()}")
            if status == "OK" and words:
                found.wrong.append(f"{kind.name}: {words}: {message[:200].hex()}")

        running_now: set[asyncio.Task[None]] = set()
        while sent < count:
            kind = kinds[sent % len(kinds)]
            original = random.choice(kind.messages)
            message = mutated(original, random.choice(random.choice(kinds).messages), random)
            message = message if kind.mend is None else kind.mend(message)
            if message in kind.messages:
                continue
            sent += 1
            running_now.add(asyncio.create_task(one(kind, message)))
            if len(running_now) >= AT_ONCE or sent in looks:
                wait = asyncio.ALL_COMPLETED if sent in looks else asyncio.FIRST_COMPLETED
                done, running_now = await asyncio.wait(running_now, return_when=wait)
                for each in done:
                    each.result()
            if sent in looks:
                found.memory_mb[looks[sent]] = memory_mb(pid)
    return found


async def _status(channel: Any, streams: Any, kind: Kind, message: bytes) -> tuple[str, str]:
    """How a call ends, and what is to be said against it."""
    try:
        if kind.streams:
            answer, metadata = await asyncio.to_thread(_streamed, streams, kind, message)
        else:
            call = channel.unary_unary(kind.method)(message, metadata=kind.metadata, timeout=60)
            answer = await call
            metadata = dict(await call.trailing_metadata())
    except (grpc.aio.AioRpcError, grpc.RpcError) as error:
        return error.code().name, error.details() or ""
    try:
        return "OK", "" if kind.right(message, answer, metadata) else "not the right answer"
    except Exception as error:
        return "OK", f"not the right answer: {type(error).__name__}: {str(error)[:100]}"


def _streamed(channel: Any, kind: Kind, message: bytes) -> tuple[bytes, dict[str, Any]]:
    """As devices call: the client of grpc.aio now and then loses the metadata of a stream that is empty."""
    stream = channel.unary_stream(kind.method)(message, metadata=kind.metadata, timeout=60)
    metadata = dict(stream.initial_metadata() or ())
    return b"".join(stream), metadata


def memory_mb(pid: int) -> float:
    """Of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in (str(pid), *children)]
    return sum(pages) * 4096 / 1e6


if __name__ == "__main__":
    main()
