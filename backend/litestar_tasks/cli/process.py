"""The child processes of the command line: ``python -m litestar_tasks.cli.process worker app.asgi:create_app``.

The app comes in by its path, so nothing of it has to be pickled, and every start reads its present code.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

from litestar_tasks.worker.supervised import report, report_ready, stop_at_once, watch_parent

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.worker.worker import Worker

__all__ = ("main",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a child process until it is told to stop.

    Returns:
        The exit code: 2 where the app itself says what is wrong with it, 1 after any other failure.
    """
    stop_at_once()
    watch_parent()
    options = _parse(argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # Lines of several processes must not meet within a line.
    from litestar_tasks.cli.logs import configure_logging
    from litestar_tasks.exceptions import BrokerError, DeclarationError, StartupError, UnknownQueueError

    try:
        app = load_app(options.app, options.app_dir)
        configure_logging(options.name)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            if options.role == "web":
                return runner.run(_serve(app, socket.socket(fileno=options.listener)))
            work = _work(app, options.queues or None, drain=options.drain, report_every=options.report_every)
            return runner.run(work)
    except (StartupError, DeclarationError, UnknownQueueError, BrokerError) as error:
        sys.stderr.write(f"{options.name}: {error}\n")
        return 2
    except Exception:
        sys.stderr.write(f"{options.name}: {traceback.format_exc()}")
        return 1


def load_app(path: str, app_dir: str) -> Litestar:
    """Import ``module:name``, an app or a function that makes one, as Litestar's own command line does."""
    from litestar import Litestar

    if app_dir not in sys.path:
        sys.path.append(app_dir)
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name)
    app = found if isinstance(found, Litestar) else found()
    if not isinstance(app, Litestar):
        raise TypeError(f"{path} is no Litestar app, and makes none: {app!r}")
    return app


async def _work(app: Litestar, queues: Sequence[str] | None, *, drain: bool, report_every: float | None) -> int:
    import msgspec

    from litestar_tasks.plugin import TasksPlugin
    from litestar_tasks.worker.state import Reporter, State

    plugin = next(plugin for plugin in app.plugins if isinstance(plugin, TasksPlugin))
    starting, loop = asyncio.current_task(), asyncio.get_running_loop()
    # Until the worker is up and takes the signal itself, it unwinds the start: the embedded server is not left behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: starting and starting.cancel())
    up, drained = False, False

    def on_ready() -> None:
        nonlocal up
        up = True
        report_ready()

    def on_drained() -> None:
        nonlocal drained
        drained = True

    def send(state: State) -> None:
        report(msgspec.json.encode(state))

    def observe(workers: Sequence[Worker]) -> AbstractAsyncContextManager[object]:
        return nullcontext() if report_every is None else Reporter(workers, send, every=report_every)

    try:
        running = await plugin.run_worker(
            app, queues, drain=drain, on_ready=on_ready, on_drained=on_drained, observe=observe
        )
    except asyncio.CancelledError:
        if up:
            raise
        running = 0
    # To the supervisor, 0 says that a drain is done, though the signal may have come to this process first.
    code = 128 + signal.SIGTERM if drain and not drained else 0
    if running:
        # Their threads cannot be stopped, and the interpreter would wait for them. Their jobs run again elsewhere.
        _exit_now(code)
    return code


async def _serve(app: Litestar, listener: socket.socket) -> int:
    import uvicorn

    from litestar_tasks.cli.logs import plain_handler

    listener.set_inheritable(False)
    failure: BaseException | None = None

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        """The app, but for what is said of a failed start: that is for ``main`` to say."""
        nonlocal failure

        async def send_without_traceback(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                message = {**message, "message": ""}
            await send(message)

        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        try:
            await app(scope, receive, send_without_traceback)
        except BaseException as error:
            failure = error
            raise

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                report_ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Connections that were accepted in this moment still send their request; uvicorn would reset them.
            for server in self.servers:
                server.close()
            await asyncio.sleep(0.05)
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: Any) -> None:
            # Any number of signals is one: uvicorn would leave the app's lifespan open after a second one, and with it
            # the embedded server behind.
            self.should_exit = True

    log = logging.getLogger("uvicorn")
    log.addHandler(plain_handler("web"))
    log.propagate = False
    logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # Pages that stay connected, as the dashboard's may, do not hold up a restart for longer than this.
    config = uvicorn.Config(asgi, lifespan="on", log_config=None, timeout_graceful_shutdown=2)
    server = Server(config)
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # How uvicorn tells that the start has failed.
        if failure is None:
            raise
    if failure is not None and not server.started:
        raise _cause(failure)
    return 1 if failure is not None else 0


def _cause(error: BaseException) -> BaseException:
    """What lies in the groups that Litestar's task group wraps around a single error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _exit_now(code: int) -> NoReturn:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="litestar_tasks.cli.process", description="A child of the supervisor.")
    parser.add_argument("role", choices=("web", "worker"))
    parser.add_argument("app", help="module:name of an app, or of a function that makes one")
    parser.add_argument("--name", default="worker", help="names the process in the log")
    parser.add_argument("--app-dir", default=".", help="where modules are looked for, too")
    parser.add_argument("--queue", dest="queues", action="append", default=[], help="work on it; default: all")
    parser.add_argument("--drain", action="store_true", help="end when the queues are empty")
    parser.add_argument("--report-every", type=float, help="tell the supervisor how it fares, every so many seconds")
    parser.add_argument("--listener", type=int, help="the descriptor of the listening socket")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
