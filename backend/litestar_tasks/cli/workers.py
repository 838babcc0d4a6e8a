"""``litestar workers …``."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from litestar_tasks.cli.children import LoadedApp, fail, find_plugin, in_memory, reload_folders, workers
from litestar_tasks.cli.listening import address, listen
from litestar_tasks.cli.logs import configure_logging
from litestar_tasks.exceptions import TasksError, UnknownQueueError
from litestar_tasks.queues.broker import queue_configs
from litestar_tasks.worker.board import Board
from litestar_tasks.worker.health import Health
from litestar_tasks.worker.supervised import stop_at_once
from litestar_tasks.worker.supervisor import Program, Supervisor

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.plugin import TasksPlugin

__all__ = ("add_workers",)

logger = logging.getLogger("litestar_tasks.supervisor")

_FOR_PROBES: Final = 2.0
_FOR_A_BAR: Final = 0.25
"""Seconds between two reports of a worker."""


def add_workers(cli: click.Group) -> None:
    """Add the group ``workers``."""

    @cli.group("workers", help="Run background jobs.")
    def group() -> None:
        pass

    @group.command("run")
    @click.option("--queues", multiple=True, metavar="A,B", help="Work on these queues only. Repeatable.")
    @click.option("--processes", default=1, show_default=True, type=click.IntRange(min=1), help="How many workers.")
    @click.option(
        "--drain",
        is_flag=True,
        help="Run what is queued, and what becomes due meanwhile, and end when no job of these queues is ready or "
        "running, here or elsewhere. Jobs that are due later, or in a paused queue, are left; schedules do not fire.",
    )
    @click.option(
        "--health-port",
        type=click.IntRange(0, 65535),
        help="Answer /live, /ready and /metrics on this port. Without it, nothing listens.",
    )
    @click.option(
        "--health-host",
        default="127.0.0.1",
        show_default=True,
        help="The address of that port. Probes of Kubernetes need 0.0.0.0 or ::.",
    )
    @click.option("--reload", is_flag=True, help="Replace the workers when a Python file is edited.")
    @click.option(
        "--reload-dir",
        "reload_dirs",
        multiple=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Watch this folder, and not that of the app. Repeatable; turns --reload on.",
    )
    def run(
        app: Litestar,
        env: LoadedApp,
        queues: tuple[str, ...],
        processes: int,
        drain: bool,
        health_port: int | None,
        health_host: str,
        reload: bool,
        reload_dirs: tuple[Path, ...],
    ) -> None:
        """Run workers until SIGTERM or Ctrl-C.

        The first signal lets running jobs finish within their queues' grace periods, a second one stops at once. A
        worker that dies is restarted.
        """
        stop_at_once()
        plugin = find_plugin(app)
        if in_memory(plugin):
            fail(
                "the broker is memory://, which lives in the web process: no other process sees its jobs. "
                "Set TasksConfig(in_process_worker=True), or a broker_url"
            )
        reload = reload or bool(reload_dirs)
        if drain and reload:
            fail("--drain ends when the queues are empty, --reload never; give one of them", 2)
        try:
            plugin.check(app)  # Each worker does so, too. Here it is said once.
            programs = workers(
                env,
                plugin,
                queues=_known(plugin, queues),
                processes=processes,
                reload=reload,
                drain=drain,
                report_every=_FOR_A_BAR if drain else None if health_port is None else _FOR_PROBES,
            )
        except TasksError as error:
            fail(str(error), 2)
        folders = reload_folders(env, reload_dirs) if reload else []
        configure_logging("supervisor")
        with ExitStack() as stack:
            board = Board([program.name for program in programs])
            if health_port is not None:
                remedy = "--health-port {}"
                listener = stack.enter_context(listen(health_host, health_port, option="--health-host", remedy=remedy))
                stack.enter_context(Health(listener, board.snapshot))
                logger.info("probes and metrics at http://%s/live, /ready and /metrics", address(listener))
            status = (
                _drain(programs, board) if drain else Supervisor(programs, reload_paths=folders, audience=board).run()
            )
        raise SystemExit(status)


def _drain(programs: list[Program], board: Board) -> int:
    from litestar_tasks.cli.progress import DrainProgress

    supervisor = Supervisor(programs, audience=board)
    with DrainProgress() as progress:
        board.on_change = lambda: progress.show(board.snapshot())
        status = supervisor.run()
        if supervisor.finished:
            progress.finish()
    if status == 0 and not supervisor.finished:
        click.echo("stopped before the queues were empty", err=True)
        return 1
    return status


def _known(plugin: TasksPlugin, given: Iterable[str]) -> list[str]:
    """The single names in ``a,b``; an unknown one is refused before any process starts."""
    wanted = [name for words in given for name in (word.strip() for word in words.split(",")) if name]
    known = [config.name for config in queue_configs(plugin.config)]
    for name in wanted:
        if name not in known:
            raise UnknownQueueError(name, known)
    return list(dict.fromkeys(wanted))
