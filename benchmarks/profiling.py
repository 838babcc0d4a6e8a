"""``python -m benchmarks profile``: what one job of ours costs in CPU time, and which functions take it.

Wall-clock times of a busy machine say little. So this runs the producer and the worker in its own process, and counts
the CPU time of the process and of the server.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from litestar import Litestar

from benchmarks import agent, marks, report, server
from benchmarks.contestants import ours

_EVERY = 0.001


def main(*, jobs: int, rounds: int, functions: int) -> None:
    """Measure, and print medians.

    Args:
        jobs: How many jobs a round enqueues and drains.
        rounds: How many rounds there are.
        functions: How many functions are shown; 0 takes no samples.
    """
    found: list[dict[str, float]] = []
    samples = {what: Samples() for what in STEPS}
    with server.run() as own:
        for _ in range(rounds):
            own.clear()
            numbers: dict[str, float] = {}
            starts = {what: _cpu_of(run(own, 0)) for what, run in STEPS.items()}
            for what, run in STEPS.items():
                before, began = own.usage(), time.perf_counter()
                with samples[what].taken(functions > 0):
                    cpu = _cpu_of(run(own, jobs)) - starts[what]
                seconds, used = time.perf_counter() - began, own.usage() - before
                numbers |= {
                    f"{what}: CPU per job, µs": cpu / jobs * 1e6,
                    f"{what}: Redis CPU per job, µs": used.cpu / jobs * 1e6,
                    f"{what}: Redis commands per job": used.commands / jobs,
                    f"{what}: jobs/s": jobs / seconds,
                }
            found.append(numbers)
    lines = [
        [row, *(report.number(of(one[row] for one in found)) for of in (statistics.median, min, max))]
        for row in found[0]
    ]
    print(report.table([f"{rounds} rounds of {jobs:,} jobs", "median", "least", "most"], lines))
    for what, sampled in samples.items() if functions else ():
        print(f"\n{what}: % of the CPU time in the function itself, and with what it calls\n")
        print(sampled.table(functions))


class Samples:
    """Which functions were running, at every millisecond of CPU time. Unlike a tracer it slows nothing down."""

    def __init__(self) -> None:
        self._own = Counter[str]()
        self._with_callees = Counter[str]()

    @contextmanager
    def taken(self, wanted: bool) -> Iterator[None]:
        """Take samples within a block."""
        if not wanted:
            yield
            return
        before = signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def table(self, most: int) -> str:
        """The functions that took most."""
        total = max(1, sum(self._own.values()))
        return report.table(
            ["%", "with callees", "function"],
            [
                [f"{count / total * 100:.1f}", f"{self._with_callees[name] / total * 100:.1f}", name]
                for name, count in self._own.most_common(most)
            ],
        )

    def _take(self, _: int, frame: FrameType | None) -> None:
        names: list[str] = []
        while frame is not None:
            place = "/".join(frame.f_code.co_filename.split("/")[-2:])
            names.append(f"{place} {frame.f_code.co_qualname}")
            frame = frame.f_back
        self._own[names[0]] += 1
        self._with_callees.update(set(names))


def _cpu_of(coroutine: Coroutine[Any, Any, None]) -> float:
    before = time.process_time()
    agent.run(coroutine)
    return time.process_time() - before


async def _enqueue(own: server.Server, jobs: int) -> None:
    producer = ours.Producer()
    await producer.open(own.database(0).url)
    await producer.bulk("noop", jobs, i=-1)
    await producer.close()


async def _drain(own: server.Server, jobs: int) -> None:
    marks.reset()
    plugin = ours.plugin_of(own.database(0).url, 32)
    await plugin.run_worker(Litestar(plugins=[plugin], logging_config=None), drain=True)
    assert marks.count() == jobs


STEPS = {"bulk": _enqueue, "drain": _drain}
