"""The programs that the commands give to the supervisor, and what the commands share."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import click

from litestar_tasks.plugin import TasksPlugin
from litestar_tasks.queues.broker import queue_configs
from litestar_tasks.worker.child import Program

if TYPE_CHECKING:
    from litestar import Litestar

__all__ = ("LoadedApp", "fail", "find_plugin", "in_memory", "reload_folders", "web", "workers")

_AFTER_THE_GRACE: Final = 15.0
"""Seconds that a worker has beyond its queues' grace period: to hand jobs back, and to leave the app's lifespan."""
_WEB_GRACE: Final = 10.0


class LoadedApp(Protocol):
    """What Litestar's command line tells its commands of the app, in their parameter ``env``."""

    app_path: str
    """``module:name`` of the app or of its factory, as given or found."""
    cwd: Path
    """Where modules are looked for, too."""


def workers(
    env: LoadedApp,
    plugin: TasksPlugin,
    *,
    queues: Sequence[str] = (),
    processes: int = 1,
    reload: bool = False,
    drain: bool = False,
    report_every: float | None = None,
) -> list[Program]:
    """Worker processes. Their grace is that of the most patient of their queues."""
    graces = [one.shutdown_grace_period_s for one in queue_configs(plugin.config) if one.name in queues or not queues]
    grace = max(math.inf if one is None else one + _AFTER_THE_GRACE for one in graces)
    options = [word for queue in queues for word in ("--queue", queue)] + (["--drain"] if drain else [])
    options += ["--report-every", f"{report_every:g}"] if report_every is not None else []
    names = ["worker"] if processes == 1 else [f"worker-{number}" for number in range(1, processes + 1)]
    return [
        Program(
            name=name,
            argv=_command("worker", name, env, options),
            env=_variables(reload),
            grace=grace,
            finite=drain,
        )
        for name in names
    ]


def web(env: LoadedApp, *, listener: int, reload: bool = False) -> Program:
    """The web process, which accepts from a socket that listens already."""
    return Program(
        name="web",
        argv=_command("web", "web", env, ["--listener", str(listener)]),
        env=_variables(reload),
        pass_fds=(listener,),
        exclusive=True,
        grace=_WEB_GRACE,
    )


def find_plugin(app: Litestar) -> TasksPlugin:
    """The app's plugin, of which it has one: it made the command that asks."""
    return next(plugin for plugin in app.plugins if isinstance(plugin, TasksPlugin))


def in_memory(plugin: TasksPlugin) -> bool:
    """Whether jobs wait in the memory of the web process, where no worker process finds them."""
    return (plugin.config.broker_url or "").lower().startswith("memory:")


def reload_folders(env: LoadedApp, given: Iterable[Path]) -> list[Path]:
    """The folders whose edits count: those that are named, else the one in which the app's outermost package lies."""
    if importlib.util.find_spec("watchfiles") is None:
        fail("reload needs watchfiles: pip install 'litestar-tasks[standard]'")
    if folders := list(given):
        return folders
    package = sys.modules[env.app_path.partition(":")[0].partition(".")[0]]
    # A package without __init__.py has no file.
    place = Path(package.__file__ or next(iter(package.__path__)) + "/__init__.py")
    folder = place.parent.parent if hasattr(package, "__path__") else place.parent
    return [place.parent if folder.name == "site-packages" else folder]


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with a message, which no terminal's width breaks into pieces."""
    click.echo(message, err=True)
    raise SystemExit(code)


def _command(role: str, name: str, env: LoadedApp, options: Iterable[str]) -> list[str]:
    # -P: as with `litestar` itself, a module that lies in the working directory does not hide one of Python's own.
    start = [sys.executable, "-P", "-m", "litestar_tasks.cli.process", role, env.app_path]
    return [*start, "--name", name, "--app-dir", str(env.cwd), *options]


def _variables(reload: bool) -> dict[str, str]:
    # A bytecode file is good for its source's size and second: two edits within one would run the first one's code.
    return {"PYTHONDONTWRITEBYTECODE": "1"} if reload else {}
