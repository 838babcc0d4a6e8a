"""The process of one contestant: ``python -m benchmarks.agent produce|work <contestant> <url> <concurrency>``.

A producer obeys the lines of JSON that it reads, and answers each with one. A worker waits for a line, so that it can
be started ahead of time, says when it is up, and works until it is stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TextIO

from benchmarks import contestants, marks

WARM_UP = 2


async def produce(contestant: Any, url: str, say: Callable[[Any], None]) -> None:
    producer = contestant.Producer()
    await producer.open(url)
    say("ready")
    orders: dict[str, Callable[..., Awaitable[Any]]] = {"one_by_one": one_by_one, "bulk": bulk, "latency": latency}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        say(await orders[order.pop("do")](producer, **order))
    await producer.close()


async def one_by_one(producer: Any, body: str, count: int, arguments: dict[str, Any]) -> dict[str, float]:
    """Enqueue jobs, each after the one before it is stored."""
    await producer.enqueue(body, **arguments)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count - 1):
        await producer.enqueue(body, **arguments)
    return {"rate": (count - 1) / (time.perf_counter() - wall), "cpu": (time.process_time() - cpu) / count}


async def bulk(producer: Any, body: str, count: int, arguments: dict[str, Any]) -> dict[str, float]:
    """Enqueue many jobs in the best way that the library has."""
    wall, cpu = time.perf_counter(), time.process_time()
    await producer.bulk(body, count, **arguments)
    return {"rate": count / (time.perf_counter() - wall), "cpu": (time.process_time() - cpu) / count}


async def latency(producer: Any, body: str, count: int) -> dict[str, Any]:
    """Milliseconds from before an enqueue to the start of the job, and until its result is known here."""
    pickups, results, lost = [], [], 0
    for i in range(count + WARM_UP):
        await asyncio.sleep(random.uniform(0.002, 0.008))
        before = time.monotonic_ns()
        job = await producer.enqueue(body, i=i)
        try:
            await producer.result(job)
        except Exception:  # each library has an error of its own for it
            lost += 1
            continue
        after = time.monotonic_ns()
        if i >= WARM_UP:
            pickups.append((marks.start_of(i) - before) / 1e6)
            results.append((after - before) / 1e6)
    return {"pickups": pickups, "results": results, "lost": lost}


async def work(contestant: Any, url: str, concurrency: int, say: Callable[[Any], None]) -> None:
    await contestant.work(url, concurrency, lambda: say("ready"))


def run(coroutine: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(coroutine)


def main() -> None:
    role, name, url, concurrency = sys.argv[1:]
    # Libraries print; what they print goes to stderr, and our answers to where stdout was.
    answers: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    logging.getLogger().setLevel(logging.WARNING)
    contestant = contestants.load(name)

    def say(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")

    if role == "produce":
        run(produce(contestant, url, say))
        return
    say("loaded")
    sys.stdin.readline()
    run(work(contestant, url, int(concurrency), say))


if __name__ == "__main__":
    main()
