"""The limit: the tail called in a loop in a process that does nothing else, one message after the other.

python -m benchmarks.serving.loop PROFILE PLAN_JSON MESSAGE SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import qpart_fx as qpart
from qpart_fx.tail_runtime import TailRuntime


def main(profile: str, plan: str, message: str, seconds: str) -> None:
    known = qpart.load(profile)
    assert isinstance(known, qpart.Profile)
    tail = TailRuntime(known.compile(qpart.Plan.from_json(Path(plan).read_text()), progress=False))
    content = Path(message).read_bytes()
    for _ in range(3):
        tail(content)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < float(seconds):
        tail(content)
        count += 1
    print(json.dumps({"per_s": count / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
