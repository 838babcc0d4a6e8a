"""``litestar workers …``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from litestar_tasks.cli.children import LoadedApp, fail, find_plugin, in_memory, reload_folders, workers
from litestar_tasks.cli.logs import configure_logging
from litestar_tasks.exceptions import TasksError, UnknownQueueError
from litestar_tasks.queues.broker import queue_configs
from litestar_tasks.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.plugin import TasksPlugin

__all__ = ("add_workers",)


def add_workers(cli: click.Group) -> None:
    """Add the group ``workers``."""

    @cli.group("workers", help="Run background jobs.")
    def group() -> None:
        pass

    @group.command("run")
    @click.option("--queues", multiple=True, metavar="A,B", help="Work on these queues only. Repeatable.")
    @click.option("--processes", default=1, show_default=True, type=click.IntRange(min=1), help="How many workers.")
    @click.option("--burst", is_flag=True, help="End when the queues are empty. Jobs that are due later are left.")
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
        burst: bool,
        reload: bool,
        reload_dirs: tuple[Path, ...],
    ) -> None:
        """Run workers until SIGTERM or Ctrl-C.

        The first signal lets running jobs finish within their queues' grace periods, a second one stops at once. A
        worker that dies is restarted.
        """
        plugin = find_plugin(app)
        if in_memory(plugin):
            fail(
                "the broker is memory://, which lives in the web process: no other process sees its jobs. "
                "Set TasksConfig(in_process_worker=True), or a broker_url"
            )
        reload = reload or bool(reload_dirs)
        if burst and reload:
            fail("--burst ends when the queues are empty, --reload never; give one of them", 2)
        try:
            plugin.check(app)  # Each worker does so, too. Here it is said once.
            programs = workers(
                env, plugin, queues=_known(plugin, queues), processes=processes, reload=reload, burst=burst
            )
        except TasksError as error:
            fail(str(error), 2)
        configure_logging("supervisor")
        folders = reload_folders(env, reload_dirs) if reload else []
        raise SystemExit(Supervisor(programs, reload_paths=folders).run())


def _known(plugin: TasksPlugin, given: Iterable[str]) -> list[str]:
    """The single names in ``a,b``; an unknown one is refused before any process starts."""
    wanted = [name for words in given for name in (word.strip() for word in words.split(",")) if name]
    known = [config.name for config in queue_configs(plugin.config)]
    for name in wanted:
        if name not in known:
            raise UnknownQueueError(name, known)
    return list(dict.fromkeys(wanted))
