"""``python -m benchmarks postgres``: us, SAQ's own Postgres queue and procrastinate on one server, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks import contestants, marks, report
from benchmarks.processes import ROOT, Agent, ContestantError, python_of
from tests.servers import PostgresServer

REPETITIONS = 3
CONCURRENCY = 32
SINGLES, BLOCKS, LATENCIES = 100, 5, 60
TIMEOUT = 240.0
ROWS = {
    "drain": ("drain", "jobs/s"),
    "bulk_enqueue": ("bulk enqueue", "jobs/s"),
    "enqueue": ("enqueue, one await per job", "jobs/s"),
    "pickup_p50": ("pick-up p50", "ms"),
    "result_p50": ("result known p50", "ms"),
}
JOBS = {"ours": 20_000, "stock_saq": 2_000, "procrastinate": 2_000}
UNFINISHED = {
    "ours": "SELECT count(*) FROM litestar_tasks_jobs WHERE status IN ('queued', 'active')",
    "stock_saq": "SELECT count(*) FROM saq_jobs WHERE status IN ('new', 'queued', 'active')",
    "procrastinate": "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
}
_TABLES = """
import asyncio, sys
from benchmarks.contestants import procrastinate
asyncio.run(procrastinate.make_tables(sys.argv[1]))
"""


@dataclass(frozen=True)
class Side:
    """A contestant with a database of its own, a producer that is up, and a worker that waits for the word."""

    name: str
    url: str
    producer: Agent
    worker: Agent


def main() -> None:
    """Measure, print a table, and as the last line the ratios of ours to SAQ's as JSON."""
    names = [name for name in contestants.ON_POSTGRES if python_of(name) is not None]
    for name in set(contestants.ON_POSTGRES) - set(names):
        print(f"{contestants.load(name).LABEL} is left out: make bench-peers installs it")
    # What is committed is on the disk: what a Postgres is used for.
    server = PostgresServer("-c", "fsync=on", "-c", "shared_buffers=128MB")
    series = defaultdict[str, list[dict[str, float]]](list)
    try:
        ((version,),) = server.execute("SHOW server_version")
        print(report.machine(f"Postgres {version}, fsync on"))
        print(report.versions(names))
        for turn in range(REPETITIONS):
            with _sides(server, names) as sides:
                for side, numbers in zip(sides, _measure(sides, turn), strict=True):
                    series[side.name].append(numbers)
            print(".", end="", file=sys.stderr, flush=True)
    finally:
        server.close()
    print(file=sys.stderr)
    lines = [
        [f"{text}, {unit}", *(report.cell(series, name, row) for name in reversed(names))]
        for row, (text, unit) in ROWS.items()
    ]
    labels = [contestants.load(name).LABEL for name in reversed(names)]
    print(report.table([f"{REPETITIONS} turns: median, ratio (range)", *labels], lines))
    print(json.dumps({row: round(statistics.median(report.ratios(series, contestants.OURS, row)), 3) for row in ROWS}))


@contextmanager
def _sides(server: PostgresServer, names: list[str]) -> Iterator[list[Side]]:
    """Start the processes of contestants, each on an empty database, all at once, and end them."""
    started: list[Agent] = []
    try:
        urls = {name: server.create_database() for name in names}
        if "ours" in urls:
            from litestar_tasks.queues.postgres.migrations import migrate

            migrate(urls["ours"], lambda _: None)
        if "procrastinate" in urls:
            python = str(python_of("procrastinate"))
            subprocess.run([python, "-c", _TABLES, urls["procrastinate"]], cwd=ROOT, check=True)
        producers = [Agent("produce", name, url) for name, url in urls.items()]
        started += producers
        for agent in producers:
            agent.hear()  # SAQ makes its tables now
        workers = [Agent("work", name, url, concurrency=CONCURRENCY) for name, url in urls.items()]
        started += workers
        for agent in workers:
            agent.hear()
        yield [Side(*four) for four in zip(urls.keys(), urls.values(), producers, workers, strict=True)]
    finally:
        for agent in started:
            agent.stop()


def _measure(sides: list[Side], turn: int) -> list[dict[str, float]]:
    """Enqueueing and latencies in small blocks in turns; then one drain after the other."""
    numbers: list[dict[str, float]] = [{} for _ in sides]
    singles: list[list[float]] = [[] for _ in sides]
    bulks: list[list[float]] = [[] for _ in sides]
    for _ in range(BLOCKS):
        for index, side in enumerate(sides):
            order = {"body": "noop", "arguments": {"i": -1}}
            singles[index].append(side.producer.ask(do="one_by_one", count=SINGLES, **order)["rate"])
            count = (JOBS[side.name] - BLOCKS * SINGLES) // BLOCKS
            bulks[index].append(side.producer.ask(do="bulk", count=count, **order)["rate"])
    for index in range(len(sides)):
        numbers[index] |= {
            "enqueue": statistics.median(singles[index]),
            "bulk_enqueue": statistics.median(bulks[index]),
        }
    for step in range(len(sides)):
        index = (turn + step) % len(sides)
        numbers[index]["drain"] = _drain(sides[index])
    results: list[list[float]] = [[] for _ in sides]
    pickups: list[list[float]] = [[] for _ in sides]
    for _ in range(LATENCIES // 20):
        for index, side in enumerate(sides):
            if side.name == "procrastinate":
                continue  # it keeps no results that one could wait for
            answer = side.producer.ask(do="latency", body="noop", count=20)
            pickups[index] += answer["pickups"]
            results[index] += answer["results"]
    for index in range(len(sides)):
        if results[index]:
            numbers[index] |= {
                "pickup_p50": statistics.median(pickups[index]),
                "result_p50": statistics.median(results[index]),
            }
    return numbers


def _drain(side: Side) -> float:
    with psycopg.connect(side.url, autocommit=True) as connection:
        unfinished = UNFINISHED[side.name].encode()
        (jobs,) = connection.execute(unfinished).fetchone() or (0,)
        marks.reset()
        side.worker.ask(go=True)
        deadline = time.monotonic() + TIMEOUT
        while marks.count() < jobs:
            if time.monotonic() > deadline:
                raise ContestantError(f"only {marks.count()} of {jobs} jobs had started after {TIMEOUT:g} s")
            time.sleep(0.005)
        while (connection.execute(unfinished).fetchone() or (0,))[0]:
            time.sleep(0.005)
        return jobs / ((time.monotonic_ns() - marks.first()) / 1e9)
