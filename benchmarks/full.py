"""``make bench``: every row, each library beside stock SAQ."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks import contestants, measure, report, server
from benchmarks.measure import Numbers, Pair
from benchmarks.processes import ContestantError, python_of

RESULTS = Path(__file__).parent / "results.md"
PAYLOAD = 10_240
DEPTHS = (1_000, 10_000, 100_000)

SPEED = {
    "enqueue": "enqueue, one await per job, jobs/s",
    "bulk_enqueue": "bulk enqueue, jobs/s",
    "drain": "drain, jobs/s",
    "pickup_p50": "pick-up p50, ms",
    "pickup_p99": "pick-up p99, ms",
    "result_p50": "result known p50, ms",
    "result_p99": "result known p99, ms",
}
COST = {
    "producer_cpu": "producer CPU per job in bulk, µs",
    "worker_cpu": "worker CPU per 1,000 jobs, s",
    "redis_cpu": "Redis CPU per job, enqueue and drain, µs",
    "commands": "Redis commands per job, those within scripts included",
    "memory": "memory per 10,000 queued, MB",
    "idle_cpu": "idle worker, % of a core",
    "idle_redis_cpu": "Redis beside an idle worker, % of a core",
    "idle_commands": "idle worker, Redis commands/s",
    "run_twice": "jobs run twice",
    "results_lost": "results not known after 2 s",
}
BODIES: dict[str, tuple[str, Callable[[server.Server, str], Pair]]] = {
    "burn": ("1 ms of CPU", lambda own, name: measure.other_body(own, name, "burn", most=2_000)),
    "nap": (
        "10 ms of sleep, concurrency 200",
        lambda own, name: measure.other_body(own, name, "nap", most=20_000, concurrency=200),
    ),
    "carry": (
        "10 KB of payload",
        lambda own, name: measure.other_body(own, name, "carry", most=20_000, text="x" * PAYLOAD),
    ),
}


class Run:
    """The measurements of one run, by what was measured."""

    def __init__(self, peers: list[str], repetitions: int) -> None:
        self.peers = peers
        self.repetitions = repetitions
        self.pairs: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        """By kind and contestant."""
        self.failures: list[str] = []

    def take(self, kind: str, own: server.Server, measured: Callable[[server.Server, str], Pair], *only: str) -> None:
        """Measure one thing of every contestant. One that fails is said, and left out where it failed."""
        for name in only or self.peers:
            try:
                self.pairs[kind, name].append(measured(own, name))
            except ContestantError as error:
                self.failures.append(f"{kind}: {error}")
            print(".", end="", file=sys.stderr, flush=True)

    def cell(self, kind: str, name: str, row: str) -> str:
        """A contestant's median, and its ratio to stock SAQ beside it with the range of the pairs."""
        pairs = [pair for pair in self.pairs[kind, name] if row in pair[0]]
        if not pairs:
            return "–"
        text = report.number(statistics.median(one[row] for one, _ in pairs))
        ratios = sorted(one[row] / stock[row] for one, stock in pairs if stock.get(row))
        if not ratios:
            return text
        spread = f" ({report.number(ratios[0])}–{report.number(ratios[-1])})" if len(ratios) > 1 else ""
        return f"{text} · {report.number(statistics.median(ratios))}×{spread}"

    def stock(self, kind: str, row: str) -> str:
        """Stock SAQ's median over all pairs."""
        values = [stock[row] for name in self.peers for _, stock in self.pairs[kind, name] if row in stock]
        return report.number(statistics.median(values)) if values else "–"

    def table(self, head: str, rows: dict[tuple[str, str], str]) -> str:
        """A table with a line for each (kind, row)."""
        labels = [contestants.load(name).LABEL for name in self.peers]
        return report.table(
            [head, contestants.load(contestants.STOCK).LABEL, *labels],
            [
                [text, self.stock(kind, row), *(self.cell(kind, name, row) for name in self.peers)]
                for (kind, row), text in rows.items()
            ],
        )


def main(*, repetitions: int, only: list[str] | None, write: bool) -> None:
    """Measure everything, and print it; with ``write`` also into ``results.md``."""
    wanted = [name for name in contestants.NAMES if name != contestants.STOCK and (not only or name in only)]
    peers = [name for name in wanted if python_of(name) is not None]
    missing = [contestants.load(name).LABEL for name in wanted if name not in peers]
    run = Run(peers, repetitions)
    with server.run() as own:
        machine = report.machine(own.version)
        for turn in range(repetitions):
            run.take("usual", own, lambda own, name, turn=turn: measure.usual(
                own, name, singles=500, blocks=5, latencies=200, turn=turn
            ))  # fmt: skip
            run.take("idle", own, _idle_pair)
            for kind, (_, measured) in BODIES.items():
                run.take(kind, own, measured)
            for depth in DEPTHS:
                run.take(f"depth {depth}", own, lambda own, name, depth=depth: measure.growth(
                    own, name, depth=depth, singles=300, blocks=3
                ), contestants.OURS)  # fmt: skip
    with server.run(append_only=True) as own:
        for turn in range(repetitions):
            run.take("append-only", own, lambda own, name, turn=turn: measure.usual(
                own, name, singles=500, blocks=5, latencies=100, turn=turn
            ))  # fmt: skip
    print(file=sys.stderr)
    text = _text(run, machine, missing)
    print(text)
    if write:
        RESULTS.write_text(text + "\n")


def _idle_pair(own: server.Server, name: str) -> Pair:
    return measure.idle(own, name, seconds=5), measure.idle(own, contestants.STOCK, seconds=5)


def _text(run: Run, machine: str, missing: list[str]) -> str:
    usual = {("usual", row): text for row, text in SPEED.items()}
    cost = {("idle" if row.startswith("idle") else "usual", row): text for row, text in COST.items()}
    bodies = {(kind, "drain"): f"drain, {text}, jobs/s" for kind, (text, _) in BODIES.items()}
    append = {("append-only", row): f"append-only: {text}" for row, text in SPEED.items() if "p99" not in row}
    measured = (
        f"Measured on {machine}. {run.repetitions} repetitions: the median, its ratio to stock SAQ measured beside it "
        f"at the same time, and the range of that ratio. No-op jobs, concurrency {measure.CONCURRENCY}, one worker "
        "process, results stored, no persistence but where it is said."
    )
    parts = [
        measured,
        f"Versions: {report.versions([contestants.STOCK, *run.peers])}.",
        run.table("speed", usual),
        run.table("cost", cost),
        run.table("other jobs", {**bodies, **append}),
        _growth(run),
        "\n".join(
            f"- {one.LABEL}: bulk by {one.BULK}; after a crash: {one.SAFETY}."
            for one in map(contestants.load, [contestants.STOCK, *run.peers])
        ),
    ]
    if missing:
        parts.append(f"Not installed, so not measured: {', '.join(missing)}.")
    if run.failures:
        parts.append("Not measured:\n\n" + "\n".join(f"- {one}" for one in run.failures))
    return "\n\n".join(part for part in parts if part)


def _growth(run: Run) -> str:
    """How rates change with the number of queued jobs, as a ratio to those at the smallest one."""
    if contestants.OURS not in run.peers:
        return ""
    lines = []
    for row in ("enqueue", "bulk_enqueue", "drain"):
        for number, name in enumerate((contestants.OURS, contestants.STOCK)):
            series: list[list[Numbers]] = [
                [pair[number] for pair in run.pairs[f"depth {depth}", contestants.OURS]] for depth in DEPTHS
            ]
            medians = [statistics.median(one[row] for one in found) if found else 0.0 for found in series]
            cells = [
                f"{report.number(one)} · {report.number(one / medians[0])}×" if one and medians[0] else "–"
                for one in medians
            ]
            lines.append([f"{row.replace('_', ' ')}, {contestants.load(name).LABEL}", *cells])
    return report.table(["jobs/s with so many queued", *(f"{depth:,}" for depth in DEPTHS)], lines)
