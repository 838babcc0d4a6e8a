"""What is measured of a contestant, beside stock SAQ on the same server at the same time, each in its own database.

Neighbours on the machine disturb two contestants alike only where these take turns: so enqueueing and latencies
alternate in small blocks, and one drain follows the other at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks import contestants, marks
from benchmarks.processes import Agent, ContestantError
from benchmarks.server import Database, Server

Numbers = dict[str, float]
Pair = tuple[Numbers, Numbers]
"""The numbers of a contestant, and those of stock SAQ beside it."""

CONCURRENCY = 32
STALLED = 20.0
"""Seconds without any start of a job after which the rest counts as lost."""
_NOTHING: dict[str, Any] = {"i": -1}


@dataclass(frozen=True)
class Side:
    """A contestant with its database, a producer that is up, and a worker that waits for the word."""

    contestant: ModuleType
    database: Database
    producer: Agent
    worker: Agent


def usual(server: Server, name: str, *, singles: int, blocks: int, latencies: int, turn: int = 0) -> Pair:
    """Enqueue one by one and in bulk, drain, and measure latencies.

    Args:
        server: The server.
        name: The contestant.
        singles: How many jobs a block of them enqueues one by one.
        blocks: How many blocks of enqueueing there are.
        latencies: How many latencies are measured.
        turn: Which of the two is drained first: an even number for the contestant.
    """
    with _sides(server, (name, contestants.STOCK)) as pair:
        rates = _one_by_one(pair, singles, blocks)
        for side in pair:
            side.database.clear()
        numbers = _bulk(server, pair, "noop", [side.contestant.JOBS for side in pair], blocks)
        for index in (turn % 2, 1 - turn % 2):
            numbers[index] |= {"enqueue": rates[index]}
            numbers[index] |= _drain(server, pair[index], pair[index].contestant.JOBS)
            numbers[index]["redis_cpu"] = numbers[index]["bulk_redis_cpu"] + numbers[index]["drain_redis_cpu"]
            numbers[index]["commands"] = numbers[index]["bulk_commands"] + numbers[index]["drain_commands"]
        for found, latency in zip(numbers, _latencies(pair, latencies), strict=True):
            found |= latency
    return numbers[0], numbers[1]


def other_body(
    server: Server, name: str, body: str, *, most: int, concurrency: int = CONCURRENCY, **arguments: Any
) -> Pair:
    """Bulk enqueue and drain of at most ``most`` jobs with another body."""
    with _sides(server, (name, contestants.STOCK), concurrency) as pair:
        counts = [min(most, side.contestant.JOBS) for side in pair]
        numbers = _bulk(server, pair, body, counts, blocks=2, **arguments)
        for found, side, count in zip(numbers, pair, counts, strict=True):
            found |= _drain(server, side, count)
    return numbers[0], numbers[1]


def growth(server: Server, name: str, *, depth: int, singles: int, blocks: int) -> Pair:
    """How fast enqueueing is where ``depth`` jobs wait already, and how fast the first of them are drained."""
    with _sides(server, (name, contestants.STOCK)) as pair:
        _bulk(server, pair, "noop", [depth, depth], blocks=1)
        numbers: list[Numbers] = [{"enqueue": rate} for rate in _one_by_one(pair, singles, blocks)]
        bulk = _bulk(server, pair, "noop", [blocks * singles] * 2, blocks)
        for found, enqueued, side in zip(numbers, bulk, pair, strict=True):
            marks.reset()
            side.worker.ask(go=True)
            _await_marks(side, min(depth, side.contestant.JOBS))
            found["bulk_enqueue"] = enqueued["bulk_enqueue"]
            found["drain"] = (marks.count() - 1) / (marks.last() - marks.first()) * 1e9
            side.worker.stop()
    return numbers[0], numbers[1]


def idle(server: Server, name: str, *, seconds: float) -> Numbers:
    """What a worker costs that has nothing to do."""
    with _sides(server, (name,)) as (side,):
        side.worker.ask(go=True)
        time.sleep(2)
        server_before, worker_before, start = server.usage(), side.worker.cpu(), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - start
        used = server.usage() - server_before
        return {
            "idle_cpu": (side.worker.cpu() - worker_before) / passed * 100,
            "idle_redis_cpu": used.cpu / passed * 100,
            "idle_commands": used.commands / passed,
        }


@contextmanager
def _sides(server: Server, names: Sequence[str], concurrency: int = CONCURRENCY) -> Iterator[list[Side]]:
    """Start the processes of contestants on an empty server, all at once, and end them."""
    server.clear()
    started: list[Agent] = []
    try:
        for number, name in enumerate(names):
            for role in ("produce", "work"):
                url = server.database(number).url
                started.append(Agent(role, name, url, concurrency=concurrency))
        for agent in started:
            agent.hear()
        yield [
            Side(contestants.load(name), server.database(number), started[2 * number], started[2 * number + 1])
            for number, name in enumerate(names)
        ]
    finally:
        for agent in started:
            agent.stop()


def _one_by_one(pair: Sequence[Side], singles: int, blocks: int) -> list[float]:
    """The median rate of each side."""
    order = {"do": "one_by_one", "body": "noop", "count": singles, "arguments": _NOTHING}
    rates = [[side.producer.ask(**order)["rate"] for side in pair] for _ in range(blocks)]
    return [statistics.median(of_side) for of_side in zip(*rates, strict=True)]


def _bulk(
    server: Server, pair: Sequence[Side], body: str, counts: Sequence[int], blocks: int, **arguments: Any
) -> list[Numbers]:
    """Enqueue so many jobs on each side, in turns. The rate is the median of the blocks, the rest a sum over them."""
    rates: list[list[float]] = [[] for _ in pair]
    numbers: list[Numbers] = [{"producer_cpu": 0, "memory": 0, "bulk_redis_cpu": 0, "bulk_commands": 0} for _ in pair]
    for block in range(blocks):
        for side, count, rate, found in zip(pair, counts, rates, numbers, strict=True):
            jobs = count // blocks + (count % blocks if not block else 0)
            before = server.usage()
            answer = side.producer.ask(do="bulk", body=body, count=jobs, arguments={**_NOTHING, **arguments})
            used = server.usage() - before
            rate.append(answer["rate"])
            found["producer_cpu"] += answer["cpu"] * jobs / count * 1e6
            found["memory"] += used.memory / count * 10_000 / 1e6
            found["bulk_redis_cpu"] += used.cpu / count * 1e6
            found["bulk_commands"] += used.commands / count
    for rate, found in zip(rates, numbers, strict=True):
        found["bulk_enqueue"] = statistics.median(rate)
    return numbers


def _drain(server: Server, side: Side, jobs: int) -> Numbers:
    """From the start of the first job until the last one is settled."""
    marks.reset()
    redis_before = server.usage()
    side.worker.ask(go=True)
    worker_before = side.worker.cpu()
    _await_marks(side, jobs)
    while side.contestant.unfinished(side.database.client):
        time.sleep(0.002)
    seconds = (time.monotonic_ns() - marks.first()) / 1e9
    used = server.usage() - redis_before
    return {
        "drain": jobs / seconds,
        "run_twice": marks.count() - jobs,
        "worker_cpu": (side.worker.cpu() - worker_before) / jobs * 1e3,
        "drain_redis_cpu": used.cpu / jobs * 1e6,
        "drain_commands": used.commands / jobs,
    }


def _latencies(pair: Sequence[Side], count: int) -> list[Numbers]:
    """From before an enqueue to the job's start, and until its result is known to who enqueued it."""
    pickups: list[list[float]] = [[] for _ in pair]
    results: list[list[float]] = [[] for _ in pair]
    lost = [0 for _ in pair]
    for _ in range(0, count, 20):
        for number, side in enumerate(pair):
            answer = side.producer.ask(do="latency", body="noop", count=20)
            pickups[number] += answer["pickups"]
            results[number] += answer["results"]
            lost[number] += answer["lost"]
    return [
        {
            **{f"pickup_p{part}": _percentile(pickups[number], part) for part in (50, 99)},
            **{f"result_p{part}": _percentile(results[number], part) for part in (50, 99)},
            "results_lost": lost[number],
        }
        for number in range(len(pair))
    ]


def _percentile(values: Sequence[float], part: int) -> float:
    if len(values) < 2:
        raise ContestantError("no results arrived")
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1]


def _await_marks(side: Side, jobs: int) -> None:
    started, deadline = 0, 0.0
    while started < jobs:
        if (count := marks.count()) > started or not deadline:
            started, deadline = count, time.monotonic() + STALLED
        elif time.monotonic() > deadline:
            raise ContestantError(f"{side.contestant.LABEL}: only {started:,} of {jobs:,} jobs ever started")
        time.sleep(0.005)
