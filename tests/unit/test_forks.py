"""A task that forks: its child ends with the task, and does not go on as a second worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, json, os, sys, threading
from litestar import Litestar
from litestar_tasks import Registry, TasksConfig, TasksPlugin

registry = Registry("forks")

def child(how):
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise LookupError("in the child")
    return -1

@registry.task
async def on_the_loop(*, how: str) -> int:
    if not (pid := os.fork()):
        return child(how)
    return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, pid, 0))[1])

@registry.task
def in_a_thread(*, how: str) -> int:
    if not (pid := os.fork()):
        return child(how)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

async def main():
    plugin = TasksPlugin(
        TasksConfig(registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True)
    )
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        task = registry.get_task(sys.argv[1])
        codes = [await (await task.enqueue(how=how)).result(timeout=20) for how in ("return", "raise", "exit")]
    print(json.dumps(codes))

asyncio.run(main())
"""


@pytest.mark.usefixtures("light_starts")
@pytest.mark.parametrize("task", ["on_the_loop", "in_a_thread"])
def test_the_child_ends_where_its_task_does(task: str, tmp_path: Path) -> None:
    with Path(tmp_path, "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, task], stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(60)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # no child is left behind, whatever it does
            except ProcessLookupError:
                pass
            process.wait()
        said.seek(0)
        text = said.read()
    assert code == 0, text
    assert json.loads(text.splitlines()[-1]) == [0, 1, 3]
    assert "LookupError: in the child" in text
