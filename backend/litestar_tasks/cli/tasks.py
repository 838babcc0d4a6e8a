"""``litestar tasks …``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from litestar_tasks.cli.children import LoadedApp, fail, find_plugin
from litestar_tasks.cli.dev import develop
from litestar_tasks.exceptions import TasksError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar import Litestar

    from litestar_tasks.registry import Registry

__all__ = ("add_tasks",)


def add_tasks(cli: click.Group) -> None:
    """Add the group ``tasks``."""

    @cli.group("tasks", help="Develop and inspect background tasks.")
    def group() -> None:
        pass

    @group.command("dev")
    @click.option("--host", default="127.0.0.1", show_default=True, help="The address of the web process.")
    @click.option(
        "--port",
        default=8000,
        show_default=True,
        envvar="PORT",
        show_envvar=True,
        type=click.IntRange(0, 65535),
        help="The port of the web process.",
    )
    @click.option("--no-reload", is_flag=True, help="Keep running the old code when a Python file is edited.")
    def dev(app: Litestar, env: LoadedApp, host: str, port: int, no_reload: bool) -> None:
        """Run the app and a worker until Ctrl-C, and restart both when a Python file is edited."""
        raise SystemExit(develop(app, env, host=host, port=port, reload=not no_reload))

    @group.command("list")
    def show(app: Litestar) -> None:
        """List the registered tasks, their queues and schedules, and where they are written."""
        rows = _rows(find_plugin(app).config.registry)
        for line in _aligned([("TASK", "QUEUE", "SCHEDULE", "SOURCE"), *rows]) if rows else ["no tasks are registered"]:
            click.echo(line)

    @group.command("check")
    def check(app: Litestar) -> None:
        """Say what in the declared tasks, schedules and queues cannot work, if anything."""
        try:
            find_plugin(app).check(app)
        except TasksError as error:
            fail(str(error))
        click.echo("configuration is valid")

    @group.command("migrate")
    @click.option("--sql", is_flag=True, help="Print the statements for an empty database instead, and run nothing.")
    def migrate(app: Litestar, sql: bool) -> None:
        """Make or upgrade the tables of a Postgres broker. Nothing else ever does."""
        url = find_plugin(app).config.broker_url or ""
        if not url.lower().startswith("postgres"):
            fail("the broker is not Postgres (TasksConfig.broker_url); the others need no tables")
        try:
            if sql:
                from litestar_tasks.queues.postgres.schema import script

                click.echo(script())
            else:
                from litestar_tasks.queues.postgres.migrations import migrate as run

                run(url, click.echo)
        except TasksError as error:
            fail(str(error))
        except ImportError as error:
            fail(f"the driver of Postgres cannot be loaded ({error}); install litestar-tasks[postgres]")


def _rows(registry: Registry) -> list[tuple[str, ...]]:
    schedules = registry.get_schedules()
    return [
        (
            task.name,
            str(task.option("queue")),
            "; ".join(str(schedule) for schedule in schedules if schedule.task == task.name) or "-",
            task.source,
        )
        for task in sorted(registry.get_all_tasks(), key=lambda task: task.name)
    ]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
