"""Everything that touches a Litestar application."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    nullcontext,
)
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.plugins import CLIPlugin, InitPlugin
from litestar.response import Response
from litestar_saq import SAQPlugin

from litestar_tasks.attachment import Attachment
from litestar_tasks.codec import Hooks
from litestar_tasks.config import TasksConfig
from litestar_tasks.correlation import correlated
from litestar_tasks.exceptions import ConfigurationError, NotAttachedError, QueueUnavailableError, StartupError
from litestar_tasks.keyring import Keyring
from litestar_tasks.outbox.session import session_providers
from litestar_tasks.queues.broker import Broker, queue_configs
from litestar_tasks.queues.task_queues import TaskQueues
from litestar_tasks.worker.dependencies import Dependencies
from litestar_tasks.worker.drain import until_empty
from litestar_tasks.worker.garbage import collected_seldom
from litestar_tasks.worker.lifespan import entered, unwrapped
from litestar_tasks.worker.running import running
from litestar_tasks.worker.scheduler import Scheduler
from litestar_tasks.worker.signals import stop_signals
from litestar_tasks.worker.watchdog import Watchdog
from litestar_tasks.worker.worker import Worker

if TYPE_CHECKING:
    from click import Group
    from litestar import Litestar, Request
    from litestar.config.app import AppConfig

    from litestar_tasks.config import HistoryConfig, OutboxConfig
    from litestar_tasks.outbox.history import HistoryDatabase, JobHistory
    from litestar_tasks.outbox.outbox import Database, Outbox
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("TasksPlugin",)

logger = logging.getLogger("litestar_tasks")


class TasksPlugin(InitPlugin, CLIPlugin):
    """Background jobs for a Litestar app: ``Litestar(plugins=[TasksPlugin(TasksConfig(registry=registry))])``.

    It takes the place of litestar-saq's ``SAQPlugin``: it injects ``TaskQueues`` as ``task_queues``, serves the
    dashboard, attaches the registry to the running app so that ``await my_task.enqueue(…)`` works, and adds
    ``litestar workers`` and ``litestar tasks`` to the command line.

    Args:
        config: The settings.
    """

    def __init__(self, config: TasksConfig) -> None:
        self._config = config
        self._brokers: dict[asyncio.AbstractEventLoop, list[Broker]] = {}
        self._outboxes: dict[Broker, Outbox] = {}
        self._histories: dict[Broker, JobHistory] = {}
        self._database: Database | None = None
        self._history: HistoryDatabase | None = None
        self._serving = True

    @property
    def config(self) -> TasksConfig:
        """The settings."""
        return self._config

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add dependencies, lifespan managers, the dashboard and the handler of outages to the app.

        Raises:
            ConfigurationError: The app has a ``SAQPlugin`` or a second ``TasksPlugin``.
        """
        plugins = list(app_config.plugins)
        if any(isinstance(plugin, SAQPlugin) for plugin in plugins):
            raise ConfigurationError("the app has a SAQPlugin; TasksPlugin replaces it: remove the SAQPlugin")
        if sum(isinstance(plugin, TasksPlugin) for plugin in plugins) > 1:
            raise ConfigurationError("the app has two TasksPlugins; one serves all queues of a registry")
        if self._config.outbox is not None:
            self._database = _database(self._config.outbox, app_config)
        if self._config.history is not None:
            self._history = _history(self._config.history, app_config)
            app_config.dependencies.setdefault("job_history", Provide(self.get_history, sync_to_thread=False))
        if self._config.correlation_headers:
            names = tuple(name.lower().encode() for name in self._config.correlation_headers)
            app_config.middleware.insert(0, partial(correlated, names=names))
        app_config.dependencies.setdefault("task_queues", Provide(self.get_queues, sync_to_thread=False))
        app_config.signature_namespace.setdefault("TaskQueues", TaskQueues)
        app_config.exception_handlers.setdefault(QueueUnavailableError, _unavailable)
        app_config.exception_handlers.setdefault(NotAttachedError, _not_attached)
        lifespans = app_config.lifespan

        @asynccontextmanager
        async def attach(app: Litestar) -> AsyncGenerator[None, None]:
            # Managers exit in reverse order, and plugins that were listed after this one have added theirs since: the
            # worker must stop before they close what its jobs use.
            lifespans.sort(key=lambda manager: manager == self._work_in_process)
            async with self._running(app):
                yield

        lifespans.insert(0, attach)
        lifespans.append(self._work_in_process)
        if self._config.dashboard is not None:
            from litestar_tasks.dashboard import dashboard_handlers

            history = self.get_history if self._history is not None else None
            app_config.route_handlers.extend(dashboard_handlers(self._config.dashboard, self._config.registry, history))
        return app_config

    def on_cli_init(self, cli: Group) -> None:
        """Add the commands ``workers`` and ``tasks``."""
        from litestar_tasks.cli import add_commands

        add_commands(cli)

    def get_queues(self) -> TaskQueues:
        """The queues of the app that runs on this event loop.

        Raises:
            ConfigurationError: None does.
        """
        return self._broker().task_queues

    def get_queue(self, name: str) -> TaskQueue:
        """A queue of the app that runs on this event loop, by its name without the namespace.

        Raises:
            UnknownQueueError: There is none; names those that exist.
        """
        return self._broker().find(name)

    def get_outbox(self) -> Outbox:
        """The outbox of the app that runs on this event loop, for those who operate it.

        Raises:
            ConfigurationError: The app has none, or none runs.
        """
        outbox = self._outboxes.get(self._broker())
        if outbox is None:
            raise ConfigurationError("the app has no outbox; give it one: TasksConfig(outbox=OutboxConfig())")
        return outbox

    def get_history(self) -> JobHistory:
        """The history of the app that runs on this event loop; routes and tasks get it as ``job_history``.

        Raises:
            ConfigurationError: The app has none, or none runs.
        """
        history = self._histories.get(self._broker())
        if history is None:
            raise ConfigurationError("the app has no history; give it one: TasksConfig(history=HistoryConfig())")
        return history

    def get_workers(
        self,
        app: Litestar,
        queues: Collection[str] | None = None,
        *,
        resources: Mapping[str, object] | None = None,
    ) -> list[Worker]:
        """New workers for the running app, one per queue, not started.

        Args:
            app: The app, within its lifespan.
            queues: The queues to work on. Defaults to None: all.
            resources: What the worker's lifespans yielded, by name. Defaults to None: nothing.

        Raises:
            UnknownQueueError: One does not exist; names those that do.
            StartupError: A task needs what neither the app nor a lifespan has.
        """
        broker = self._broker()
        dependencies = Dependencies(app, session_providers(app), resources)
        if self._config.lifespan and (problems := dependencies.check(self._config.registry.get_all_tasks())):
            raise StartupError(problems)
        configs = {config.name: config for config in queue_configs(self._config)}
        wanted = [broker.find(name).label for name in queues or broker.queues]
        return [
            Worker(broker.queues[name], configs[name], self._config.registry, dependencies, self._config.middleware)
            for name in wanted
        ]

    @asynccontextmanager
    async def attached(self) -> AsyncGenerator[None, None]:
        """Connect to the broker without the app, for scripts: ``async with plugin.attached(): …``.

        Raises:
            ConfigurationError: The registry is attached to another broker on this event loop.
            EmbeddedServerError: The embedded server does not start.
            StartupError: A table of the outbox or of the history is missing.
        """
        async with self._attached(), self._with_database(working=False):
            yield

    @asynccontextmanager
    async def _attached(self) -> AsyncGenerator[None, None]:
        broker, loop = Broker(self._config), asyncio.get_running_loop()
        keyring = Keyring(self._config.secret_keys) if self._config.secret_keys else None
        outbox = None
        if self._database is not None:
            from litestar_tasks.outbox.outbox import Outbox

            outbox = Outbox(self._database, broker)
        history = None
        if self._history is not None:
            from litestar_tasks.outbox.history import JobHistory

            history = JobHistory(self._history, broker, self._config.registry)
        attachment = Attachment(
            loop,
            self._config.broker,
            broker.find,
            broker.locate,
            broker.schedules,
            keyring,
            outbox.writer if outbox else None,
        )
        with self._config.registry.attach(attachment):
            brokers = self._brokers.setdefault(loop, [])
            brokers.append(broker)
            if outbox is not None:
                self._outboxes[broker] = outbox
            if history is not None:
                self._histories[broker] = history
            try:
                await broker.connect()
                yield
            finally:
                brokers.remove(broker)
                self._outboxes.pop(broker, None)
                self._histories.pop(broker, None)
                if not brokers:
                    del self._brokers[loop]
                await broker.disconnect()

    async def run_worker(
        self,
        app: Litestar,
        queues: Collection[str] | None = None,
        *,
        drain: bool = False,
        on_ready: Callable[[], None] = lambda: None,
        on_drained: Callable[[], None] = lambda: None,
        observe: Callable[[Sequence[Worker]], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> int:
        """Run the app's jobs in this process until SIGTERM or SIGINT. The app itself is started, too, but for serving.

        The first signal stops claiming and lets running jobs end within their queues' grace periods; a second one
        ends the grace at once. What is left is handed back.

        Args:
            app: The app.
            queues: The queues to work on. Defaults to None: all.
            drain: Whether to return when no job of these queues is ready or running, here or elsewhere, without
                waiting for a signal; schedules do not fire then. Defaults to False.
            on_ready: Called when the workers claim. Defaults to nothing.
            on_drained: Called when a drain has come to its end, and was not ended by a signal. Defaults to nothing.
            observe: Makes a context that is entered before the workers claim and left when they have stopped. Defaults
                to an empty one.

        Returns:
            How many jobs are still running in threads that cannot be stopped. Where it is not 0 the process has to be
            ended with ``os._exit``: the interpreter would wait for them.

        Raises:
            StartupError: The tasks cannot work as they are declared.
            UnknownQueueError: A queue does not exist.
            Exception: What ended a worker or the scheduler, neither of which ends by itself; the rest has been stopped.
        """
        self._serving = False
        # The handlers stay until the app has shut down: a late signal must not leave the embedded server behind.
        with ExitStack() as until_the_end:
            async with unwrapped(app), entered(app, self._config.lifespan) as resources:
                workers = self.get_workers(app, queues, resources=resources)
                stopping = until_the_end.enter_context(stop_signals(workers))
                with Watchdog(), collected_seldom():
                    async with observe(workers), self._working(workers, drain=drain, ended=stopping.set) as parts:
                        self._introduce(workers)
                        on_ready()
                        await stopping.wait()
                        logger.info("stopping; %d jobs are running", sum(worker.running for worker in workers))
            for part in parts:
                if not part.cancelled() and (error := part.exception()) is not None:
                    raise error
            if drain and not parts[-1].cancelled():
                on_drained()
            return sum(worker.running for worker in workers)

    def _introduce(self, workers: Sequence[Worker]) -> None:
        tasks = sorted(task.name for task in self._config.registry.get_all_tasks())
        logger.info(
            "worker %d runs %s: %s; stop with SIGTERM",
            os.getpid(),
            _shown(workers),
            ", ".join(tasks) or "no tasks",
        )
        if not tasks:
            logger.warning(
                "registry %r has no tasks; import the modules that declare them, or let registry.discover(…) do it",
                self._config.registry.name,
            )

    def check(self, app: Litestar) -> None:
        """Refuse what cannot work in the declared tasks, schedules and queues, all of it together.

        Raises:
            StartupError: Lists the problems.
        """
        registry = self._config.registry
        hooks = Hooks(
            encoders=app.type_encoders or {},
            decoders=app.type_decoders or (),
        )
        problems = [*registry.check(app.signature_namespace, hooks, has_keys=bool(self._config.secret_keys))]
        problems += Dependencies(app, session_providers(app), more_to_come=bool(self._config.lifespan)).check(
            task for task in registry.get_all_tasks() if task.resolved
        )
        databases = [one.check for one in (self._database, self._history) if one is not None]
        for part in (lambda: queue_configs(self._config), *databases):
            try:
                part()
            except ConfigurationError as error:
                problems.append(error)
        if problems:
            raise StartupError(problems)

    @asynccontextmanager
    async def _running(self, app: Litestar) -> AsyncGenerator[None, None]:
        self.check(app)
        if self._serving and self._config.dashboard is not None:
            from litestar_tasks.dashboard import announce, describe, prepare

            announce(self._config.dashboard, app)
            describe(self._config.dashboard, app, history=self._history is not None)
            if self._config.dashboard.guards or app.debug:  # else nobody sees it
                prepare()
        async with self._attached():
            yield

    @asynccontextmanager
    async def _with_database(self, *, working: bool) -> AsyncGenerator[None, None]:
        """Deliver what the outbox holds, and record what happens to jobs, where there is one or the other."""
        outbox, history = self._outboxes.get(self._broker()), self._histories.get(self._broker())
        async with (
            history.recording(tidying=working) if history else nullcontext(),
            outbox.running(sweeping=working) if outbox else nullcontext(),
        ):
            yield

    @asynccontextmanager
    async def _work_in_process(self, app: Litestar) -> AsyncGenerator[None, None]:
        working = self._config.in_process_worker and self._serving
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._with_database(working=working or not self._serving))
            if not working:
                yield
                return
            resources = await stack.enter_async_context(entered(app, self._config.lifespan))
            workers = self.get_workers(app, resources=resources)
            # Requests block the loop, too, and are nobody's task.
            stack.enter_context(Watchdog({task.name for task in self._config.registry.get_all_tasks()}))
            await stack.enter_async_context(self._working(workers))
            logger.info(
                "web process %d runs jobs, too: %s; each web process of this app has a worker of its own%s",
                os.getpid(),
                _shown(workers),
                ", and memory:// gives it jobs of its own" if self._config.broker.startswith("memory:") else "",
            )
            yield
            logger.info("stopping; %d jobs are running", sum(worker.running for worker in workers))

    @asynccontextmanager
    async def _working(
        self, workers: list[Worker], *, drain: bool = False, ended: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[list[asyncio.Task[None]], None]:
        """Let workers work beside the scheduler, or until a drain has come to its end; see ``running``."""
        broker = self._broker()
        if drain:
            outbox = self._outboxes.get(broker)
            beside: Callable[[], Coroutine[Any, Any, None]] = partial(
                until_empty, workers, outbox.flush if outbox else None
            )
        else:
            labels = [worker.queue.label for worker in workers]
            beside = Scheduler(broker.schedules, broker.queues, labels).run
        async with running(workers, beside, name="drain" if drain else "scheduler", ended=ended) as parts:
            yield parts

    def _broker(self) -> Broker:
        brokers = self._brokers.get(asyncio.get_running_loop())
        if brokers is None:
            raise ConfigurationError(
                'no app with this plugin is running on this event loop; use it within "async with app.lifespan(): …" '
                'or "async with plugin.attached(): …"'
            )
        return brokers[-1]


def _shown(workers: Sequence[Worker]) -> str:
    return ", ".join(f"{worker.queue.label} (concurrency {worker.concurrency})" for worker in workers)


def _database(settings: OutboxConfig, app_config: AppConfig) -> Database:
    """The outbox's database, with its table among the app's own, so that the app's migrations see it."""
    try:
        from litestar_tasks.outbox.outbox import Database
        from litestar_tasks.outbox.writer import in_request
    except ImportError as error:
        raise ConfigurationError(
            f"TasksConfig.outbox needs SQLAlchemy and Advanced Alchemy, which cannot be loaded ({error}); install "
            "litestar-tasks[sqlalchemy]"
        ) from error
    if settings.in_requests:
        app_config.middleware.insert(0, in_request)
    return Database(settings, app_config.plugins)


def _history(settings: HistoryConfig, app_config: AppConfig) -> HistoryDatabase:
    """The history's database, with its tables among the app's own, so that the app's migrations see them."""
    try:
        from litestar_tasks.outbox.history import HistoryDatabase, JobHistory
    except ImportError as error:
        raise ConfigurationError(
            f"TasksConfig.history needs SQLAlchemy and Advanced Alchemy, which cannot be loaded ({error}); install "
            "litestar-tasks[sqlalchemy]"
        ) from error
    app_config.signature_namespace.setdefault("JobHistory", JobHistory)
    return HistoryDatabase(settings, app_config.plugins)


def _unavailable(request: Request[Any, Any, Any], error: QueueUnavailableError) -> Response[Mapping[str, Any]]:
    """A broker that is away is not the request's fault, and may be back when it is sent again."""
    logger.error("%s %s: %s", request.method, request.url.path, error)
    detail = HTTPException(status_code=503, detail="The job queue is unavailable; try again later.")
    return Response({"status_code": 503, "detail": detail.detail}, status_code=503, headers={"Retry-After": "2"})


def _not_attached(request: Request[Any, Any, Any], error: NotAttachedError) -> Response[Mapping[str, Any]]:
    """A mistake in how the app was started. Outside debug mode Litestar would log nothing of it."""
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return Response({"status_code": 500, "detail": "Internal Server Error"}, status_code=500)
