"""What can be captured and split without changing a bit, as a table: ``python -m tests.coverage.report [PART ...]``.

PART: only networks whose names hold one of them; ``--sample``: one of every kind; ``-j 2``: two at once. Each network
runs in a process of its own, with a time limit. The results also go to ``results/coverage.json``. The exit status is 1
where a split is wrong or a count differs without a reason, and for the sample where a split is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

RESULTS = Path("results/coverage.json")

LIMIT_S = 300

EXPLAINED = {
    "torch.nn/Bilinear": "FlopCounterMode does not know aten._trilinear and counts nothing",
}
"""Why multiply-adds may differ from FlopCounterMode."""

Result = dict[str, Any]


def check(name: str) -> Result:
    """The result of one network; ``{"name": ..., "error": ...}`` where it failed."""
    command = [sys.executable, "-m", "tests.coverage.check", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "error": f"took more than {LIMIT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        result: Result = json.loads(lines[-1])
        return result
    return {"name": name, "error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:400]}


def exact(result: Result) -> bool:
    """Bit-identical at both cuts, and the network unchanged."""
    return all(result.get(key) is True for key in ("middle", "random", "untouched"))


def other_batch(result: Result) -> bool:
    """Bit-identical at every batch size that the model itself takes."""
    return result.get("other batch") in (True, "the model takes no other")


def macs_known(result: Result) -> bool:
    """Of every operation, and as many as torch counts."""
    return "macs" in result and not macs_differ(result) and not result["uncounted"]


def explanation(result: Result) -> str:
    """Why the multiply-adds differ; "" where nobody knows."""
    opaque = any(operation.endswith("Opaque") for operation in result["uncounted"])
    return EXPLAINED.get(result["name"]) or ("what opaque nodes do is counted as unknown" if opaque else "")


def macs_differ(result: Result) -> bool:
    return bool(result["macs"] != result["flops / 2"])


def weights_equal(result: Result) -> bool:
    """Every weight that the graph uses is counted once, and the model does without all that it does not use."""
    counts = result.get("weights")
    if not isinstance(counts, dict):
        return False
    used = counts["of the graph"]
    unused = sum(counts["unused"].values())
    return bool(counts["parameters"] == used == counts["of the model"] - unused and counts["unused indeed"])


def table(results: Sequence[Result]) -> str:
    """Per family how many are what; then every network that is not, with its cause."""
    heads = "networks, captured, middle cut, random cut, other batch, MACs equal, weights, median, worst".split(",")
    lines = [f"{'':98}{'all / capture':>22}", f"{'family':24}" + "".join(f"{head.strip():>12}" for head in heads)]
    families = list(dict.fromkeys(result["name"].split("/")[0] for result in results))
    for family in [*families, ""]:
        rows = [result for result in results if result["name"].startswith(f"{family}/" if family else "")]
        counts = (
            len(rows),
            sum("way" in result for result in rows),
            *(sum(result.get(key) is True for result in rows) for key in ("middle", "random")),
            *(sum(map(judge, rows)) for judge in (other_batch, macs_known, weights_equal)),
        )
        ratios = "".join(f"{ratio:>12}" for ratio in _ratios(rows, 1))
        lines.append(f"{family or 'all':24}" + "".join(f"{count:>12}" for count in counts) + ratios)
    captured = [result for result in results if "way" in result]
    lists = {
        "not bit-identical, or changed": [
            f"{result['name']}: {_cause(result)}" for result in results if not exact(result)
        ],
        "not bit-identical at another batch size": [
            f"{result['name']}: {result.get('other batch')}" for result in captured if not other_batch(result)
        ],
        "multiply-adds that differ from FlopCounterMode / 2": [
            f"{result['name']}: {result['macs']:,} and {result['flops / 2']}: "
            + (explanation(result) or "NO EXPLANATION")
            for result in captured
            if macs_differ(result)
        ],
        "operations whose multiply-adds are unknown": [
            f"{operation}: {', '.join(result['name'] for result in captured if operation in result['uncounted'])}"
            for operation in sorted({operation for result in captured for operation in result["uncounted"]})
        ],
        "weights that are not all counted once": [
            f"{result['name']}: {result['weights']}" for result in captured if not weights_equal(result)
        ],
        "weights of the model that its inference does not use": [
            f"{result['name']}: {sum(unused.values()):,} in {', '.join(_places(unused))}"
            for result in captured
            if weights_equal(result) and (unused := result["weights"]["unused"])
        ],
        "captured by": [
            f"{way}: {count}" for way, count in Counter(result["way"] for result in captured).most_common()
        ],
    }
    for title, entries in lists.items():
        lines += ["", f"{title}:", *(f"  {entry}" for entry in entries or ["none"])]
    lines += ["", "capture, analysis, cuts and split together, over the way of capture that succeeded alone:"]
    for way in ("symbolic_trace", "torch.export"):
        rows = [result for result in captured if result["way"].startswith(way)]
        lines.append("  {}: median {}, worst {}".format(way, *_ratios(rows, 0)))
    return "\n".join(lines)


def _ratios(results: Sequence[Result], base: int) -> tuple[str, str]:
    """Median and worst of all over the entry ``base`` of ``seconds``."""
    seconds = [result["seconds"] for result in results if "seconds" in result]
    ratios = [each[2] / each[base] for each in seconds if each[base]]
    return (f"{median(ratios):.2f}", f"{max(ratios):.2f}") if ratios else ("-", "-")


def _cause(result: Result) -> str:
    if "error" in result:
        return str(result["error"])
    return "; ".join(f"{key}: {result[key]}" for key in ("middle", "random", "untouched") if result[key] is not True)


def _places(names: dict[str, int]) -> list[str]:
    """The modules that hold the tensors ``names``, by the first two parts of their names."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in names))


def wrong(result: Result, *, strict: bool) -> bool:
    """Whether the suite fails by this network; one that is refused counts only when ``strict``."""
    if "error" in result:
        return strict
    refused = str(result["other batch"]).startswith("frozen")
    explained = not macs_differ(result) or bool(explanation(result))
    return not (exact(result) and (other_batch(result) or refused) and explained and weights_equal(result))


def main() -> int:
    from tests.coverage.networks import NETWORKS, SAMPLE

    parser = argparse.ArgumentParser(prog="python -m tests.coverage.report")
    parser.add_argument("parts", nargs="*", metavar="PART", help="only networks whose names hold one of these")
    parser.add_argument("--sample", action="store_true", help="one network of every kind")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="how many at once")
    parser.add_argument("--resume", action="store_true", help="keep the results that are there, and do the rest")
    given = parser.parse_args()
    names = SAMPLE if given.sample else list(NETWORKS)
    names = [name for name in names if not given.parts or any(part in name for part in given.parts)]
    kept = json.loads(RESULTS.read_text()) if given.resume and RESULTS.exists() else []
    results = [result for result in kept if result["name"] in names]
    left = [name for name in names if name not in {result["name"] for result in results}]
    RESULTS.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(given.j) as pool:
        for result in tqdm(pool.map(check, left), total=len(left), unit="network"):
            results.append(result)
            RESULTS.write_text(json.dumps(results, indent=1))  # an interrupted run loses nothing
    print(table(results))
    return int(any(wrong(result, strict=given.sample) for result in results))


if __name__ == "__main__":
    sys.exit(main())
