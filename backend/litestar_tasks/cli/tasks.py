"""``litestar tasks …``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from litestar_tasks.cli.children import LoadedApp, fail, find_plugin
from litestar_tasks.cli.dev import develop
from litestar_tasks.exceptions import TasksError
from litestar_tasks.job import JobStatus

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.outbox.history import HistoryJob
    from litestar_tasks.plugin import TasksPlugin
    from litestar_tasks.registry import Registry

__all__ = ("add_tasks",)

_FACTS: Final = (
    "id", "task", "queue", "status", "reason", "tag", "correlation_id", "parent", "priority", "arguments", "withheld",
    "enqueued", "started", "ended", "duration", "attempted", "worker", "result",
)  # fmt: skip
"""What is shown of a job in the history, beside its attempts."""


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

    @group.command("outbox")
    @click.option("--retry", multiple=True, metavar="ID", help="Deliver a parked row after all; may be repeated.")
    @click.option("--drop", multiple=True, metavar="ID", help="Remove a parked row for good; may be repeated.")
    def outbox(app: Litestar, retry: Sequence[str], drop: Sequence[str]) -> None:
        """Say what the outbox holds, and decide about the rows that are parked there."""
        try:
            for line in asyncio.run(_outbox(find_plugin(app), retry, drop)):
                click.echo(line)
        except TasksError as error:
            fail(str(error))
        except Exception as error:  # the database's own, of a library that is not known here
            fail(f"the outbox's database does not answer: {str(error).partition(chr(10))[0]}")

    @group.command("history")
    @click.option("--task", help="Jobs of this task alone.")
    @click.option("--status", type=click.Choice(get_args(JobStatus)), help="Jobs that stand there alone.")
    @click.option("--tag", help="Jobs with this tag alone.")
    @click.option("--since", type=float, metavar="HOURS", help="Jobs that were enqueued in so many hours until now.")
    @click.option("--text", help="Jobs with this in their id, arguments, error or result.")
    @click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 500), help="How many at the most.")
    @click.option("--job", metavar="ID", help="Show one job with its attempts instead.")
    @click.option("--rerun", metavar="ID", help="Enqueue what a job did as a new job instead.")
    def history(app: Litestar, job: str | None, rerun: str | None, since: float | None, **criteria: Any) -> None:
        """Search what the history holds of jobs, the newest first."""
        try:
            for line in asyncio.run(_history(find_plugin(app), job, rerun, since, criteria)):
                click.echo(line)
        except TasksError as error:
            fail(str(error))
        except Exception as error:  # the database's own, of a library that is not known here
            fail(f"the history's database does not answer: {str(error).partition(chr(10))[0]}")

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


async def _outbox(plugin: TasksPlugin, retry: Sequence[str], drop: Sequence[str]) -> list[str]:
    lines: list[str] = []
    async with plugin.attached():
        outbox = plugin.get_outbox()
        if retry:
            lines.append(f"{await outbox.retry(retry)} of {len(retry)} rows will be delivered")
        if drop:
            lines.append(f"{await outbox.drop(drop)} of {len(drop)} rows were removed")
        counts, parked = await outbox.counts(), await outbox.parked()
    lines.append(
        f"waiting {counts.waiting}, delivered {counts.delivered}, parked {counts.parked}, of queues that this app does "
        f"not have {counts.foreign}"
    )
    return lines + _aligned(
        [(row.id, row.queue, row.task, f"{row.created:%Y-%m-%d %H:%M}", row.reason) for row in parked]
    )


async def _history(
    plugin: TasksPlugin, job: str | None, rerun: str | None, since: float | None, criteria: dict[str, Any]
) -> list[str]:
    async with plugin.attached():
        history = plugin.get_history()
        if rerun is not None:
            return [f"enqueued as {(await history.rerun(rerun)).id}"]
        if job is not None:
            return _shown(await history.job(job))
        start = None if since is None else datetime.now(UTC) - timedelta(hours=since)
        found, gaps = await history.search(since=start, **criteria), await history.gaps(limit=5)
    lines = _aligned(
        [
            (f"{one.enqueued:%Y-%m-%d %H:%M:%S}", one.status, one.task, one.id, one.error or one.result or "")
            for one in found.jobs
        ]
    )
    lines += [f"there are more than these {len(found.jobs)}"] if found.cursor else []
    return (lines or ["nothing is recorded of such jobs"]) + [
        f"{gap.lost} changes of jobs are missing, {gap.since:%Y-%m-%d %H:%M:%S} to {gap.until:%H:%M:%S}: {gap.reason}"
        for gap in gaps
    ]


def _shown(job: HistoryJob) -> list[str]:
    facts = [(name.replace("_", " "), getattr(job, name)) for name in _FACTS]
    lines = _aligned([(name, str(value)) for name, value in facts if value not in (None, (), "")])
    for number, attempt in enumerate(job.attempts, start=1):
        took = f" after {attempt.duration.total_seconds():.3f} s" if attempt.duration is not None else ""
        lines += [
            "",
            f"attempt {number}: {attempt.outcome}{took}",
            *(attempt.traceback or attempt.error or "").split("\n"),
        ]
    return lines


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
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
