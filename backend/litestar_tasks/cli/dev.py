"""``litestar tasks dev``: a web process and a worker, once per folder, on a port that is free."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from litestar_tasks.cli.children import LoadedApp, fail, find_plugin, in_memory, reload_folders, web, workers
from litestar_tasks.cli.listening import listen
from litestar_tasks.cli.logs import configure_logging
from litestar_tasks.exceptions import TasksError
from litestar_tasks.worker.supervised import stop_at_once
from litestar_tasks.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from litestar import Litestar

__all__ = ("develop",)

FOLDER: Final = Path(".litestar-tasks")


def develop(app: Litestar, env: LoadedApp, *, host: str, port: int, reload: bool) -> int:
    """Run the app and a worker until a signal.

    Returns:
        The exit code.
    """
    stop_at_once()
    if importlib.util.find_spec("uvicorn") is None:
        fail("tasks dev needs uvicorn: pip install 'litestar-tasks[standard]'")
    plugin = find_plugin(app)
    try:
        plugin.check(app)  # Each process does so, too. Here it is said once.
    except TasksError as error:
        fail(str(error), 2)
    folders = reload_folders(env, ()) if reload else []
    with ExitStack() as stack:
        # In this order: who starts it twice in one folder learns that, and not that the port is taken.
        stack.enter_context(_only_one_here())
        remedy = "make dev PORT={}" if "MAKELEVEL" in os.environ else "--port {}"
        listener = stack.enter_context(listen(host, port, option="--host", remedy=remedy))
        url = _url(host, listener)
        programs = [web(env, listener=listener.fileno(), reload=reload)]
        if not in_memory(plugin):
            programs += workers(env, plugin, reload=reload)
        configure_logging("dev")
        return Supervisor(programs, reload_paths=folders, on_ready=_welcome(app, url, reload=reload)).run()


@contextmanager
def _only_one_here() -> Generator[None]:
    """Refuse a second one in this folder. The kernel frees the lock, however a process ends."""
    _make_folder()
    with (FOLDER / "dev.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip()
            fail(f"dev runs already in this folder, as process {pid or '?'}; stop it with Ctrl-C, or: kill {pid}")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _make_folder() -> None:
    if FOLDER.is_dir():
        return
    FOLDER.mkdir(mode=0o700)
    # The embedded server, whose folder this is, takes no folder that it did not make, and tells it by this file.
    (FOLDER / "start.lock").touch()
    (FOLDER / ".gitignore").write_text("*\n")


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    if host in ("127.0.0.1", "::1", "0.0.0.0", "::", ""):  # noqa: S104  # compared, not bound
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _welcome(app: Litestar, url: str, *, reload: bool) -> Callable[[], None]:
    """What to open, told when it can be opened."""
    places = [("app", url)]
    if app.openapi_config is not None:
        places.append(("API", url + (app.openapi_config.path or "/schema")))
    dashboard = find_plugin(app).config.dashboard
    if dashboard is not None:
        places.append(("dashboard", url + dashboard.path))
    text = "".join(f"  {name:<9}  {place}\n" for name, place in places)
    edits = "An edited Python file restarts the web process and the worker. " if reload else ""
    return lambda: click.echo(f"\n{text}\n{edits}Ctrl-C stops everything.\n")
