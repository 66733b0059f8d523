"""What can be captured and split without changing a bit, as a table: ``python -m tests.coverage.report [PART ...]``.

PART: only networks whose names hold one of them; ``--sample``: one of every kind. Each network runs in a process of its
own, with a time limit. The results also go to ``results/coverage.json``. The exit status is 1 where a split is wrong,
and for the sample where one is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

LIMIT_S = 300


def check(name: str) -> dict[str, Any]:
    """The result of one network; ``{"name": ..., "error": ...}`` where it failed."""
    command = [sys.executable, "-m", "tests.coverage.check", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "error": f"took more than {LIMIT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    return {"name": name, "error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:400]}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Per family: how many, how many exact; then every network that is not, with its cause; ways; multiply-adds."""
    lines = [f"{'family':28}{'networks':>9}{'middle cut':>12}{'random cut':>12}{'MACs equal':>12}"]
    families = list(dict.fromkeys(result["name"].split("/")[0] for result in results))
    for family in [*families, ""]:
        rows = [result for result in results if result["name"].startswith(f"{family}/" if family else "")]
        middle, other = (sum(result.get(key) is True for result in rows) for key in ("middle", "random"))
        equal = sum("macs" in result and result["macs"] == result["flops / 2"] for result in rows)
        lines.append(f"{family or 'all':28}{len(rows):>9}{middle:>12}{other:>12}{equal:>12}")
    lines += ["", "not bit-identical, or changed:"]
    for result in results:
        if not exact(result):
            lines.append(f"  {result['name']}: {result.get('error', result)}")
    lines += ["", "multiply-adds that differ from FlopCounterMode / 2:"]
    for result in results:
        if "macs" in result and result["macs"] != result["flops / 2"]:
            lines.append(
                f"  {result['name']}: {result['macs']:,} and {result['flops / 2']:,}; unknown {result['uncounted']}"
            )
    ways = Counter(result["way"] for result in results if "way" in result)
    lines += ["", "captured by: " + ", ".join(f"{way} {count}" for way, count in ways.most_common())]
    seconds = [result["seconds"] for result in results if "seconds" in result]
    ratios = sorted((capture + split) / capture for capture, split in seconds)
    if ratios:
        lines.append(
            f"capture and split over capture alone: median {ratios[len(ratios) // 2]:.2f}, worst {ratios[-1]:.2f}"
        )
    return "\n".join(lines)


def exact(result: dict[str, Any]) -> bool:
    """Bit-identical at both cuts, and the network unchanged."""
    return all(result.get(key) is True for key in ("middle", "random", "untouched"))


def main() -> int:
    from tests.coverage.networks import NETWORKS, SAMPLE

    parts = sys.argv[1:]
    sample = parts == ["--sample"]
    names = SAMPLE if sample else [name for name in NETWORKS if not parts or any(part in name for part in parts)]
    results = [check(name) for name in tqdm(names, unit="network")]
    Path("results").mkdir(exist_ok=True)
    Path("results/coverage.json").write_text(json.dumps(results, indent=1))
    print(table(results))
    return 0 if all(exact(result) or ("error" in result and not sample) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
