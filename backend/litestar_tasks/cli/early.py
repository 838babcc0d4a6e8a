"""What Litestar's command line loads before the app: the entry point ``litestar.commands``.

The commands proper come with the app's plugin, and the app's import may take long. Whoever stops the process meanwhile
is heeded at once: process 1 of a container would ignore SIGTERM until the workers run, and be killed with them later.
"""

from __future__ import annotations

import sys
import threading
from itertools import pairwise

import click

from litestar_tasks.worker.supervised import stop_at_once

__all__ = ("workers",)

_LASTING = {("workers", "run"), ("tasks", "dev")}

if _LASTING.intersection(pairwise(sys.argv)) and threading.current_thread() is threading.main_thread():
    stop_at_once()


@click.group("workers", help="Run background jobs.")
def workers() -> None:
    """Stand in for the group of the same name, which an app with the plugin puts in its place."""


@workers.command("run", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def run() -> None:
    """Say why there is nothing to run."""
    click.echo("no app with a TasksPlugin was found; name one: litestar --app module:app workers run", err=True)
    raise SystemExit(2)
