"""``make bench-quick``: us beside stock SAQ, in pairs, within a minute."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict

from benchmarks import contestants, measure, report, server

PAIRS = 5
FEWEST = 3
SECONDS = 56.0
ROWS = {
    "drain": ("drain", "jobs/s"),
    "bulk_enqueue": ("bulk enqueue", "jobs/s"),
    "enqueue": ("enqueue, one await per job", "jobs/s"),
    "pickup_p50": ("pick-up p50", "ms"),
    "result_p50": ("result known p50", "ms"),
    "redis_cpu": ("Redis CPU per job, enqueue and drain", "µs"),
}


def main() -> None:
    """Measure, print a table, and as the last line the ratios as JSON."""
    began, series = time.monotonic(), defaultdict[str, list[measure.Numbers]](list)
    names = (contestants.OURS, contestants.STOCK)
    with server.run() as own:
        print(report.machine(own.version))
        print(report.versions(names))
        for pair in range(PAIRS):
            passed = time.monotonic() - began
            if pair >= FEWEST and passed * (pair + 1) / pair > SECONDS:
                break
            both = measure.usual(own, contestants.OURS, singles=300, blocks=5, latencies=100, turn=pair)
            for name, numbers in zip(names, both, strict=True):
                series[name].append(numbers)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    labels = [contestants.load(name).LABEL for name in names]
    lines = [
        [f"{text}, {unit}", *(report.cell(series, name, row) for name in reversed(names))]
        for row, (text, unit) in ROWS.items()
    ]
    print(report.table([f"{len(series[names[0]])} pairs: median, ratio (range)", *reversed(labels)], lines))
    print(json.dumps({row: round(statistics.median(report.ratios(series, names[0], row)), 3) for row in ROWS}))
