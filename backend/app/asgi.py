"""The application: `litestar --app app.asgi:create_app run`, or `uvicorn --factory app.asgi:create_app`.

Nothing is read or connected before `create_app()` is called.
"""

from __future__ import annotations

from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin
from litestar import Litestar
from litestar.logging import LoggingConfig
from litestar.openapi import OpenAPIConfig

from app.db import database_config
from app.dependencies import dependencies
from app.errors import exception_handlers
from app.queue.config import tasks_config
from app.routes import handlers
from app.settings import Settings
from litestar_tasks import QueueUnavailableError, TasksPlugin

__all__ = ("create_app",)


def create_app(settings: Settings | None = None) -> Litestar:
    """The app, for the web process and for the worker.

    Args:
        settings: Defaults to what the environment says.

    Raises:
        SettingsError: A variable of the environment has a value that cannot be used.
    """
    settings = settings or Settings.from_env()
    return Litestar(
        route_handlers=handlers,
        dependencies=dependencies(settings),
        exception_handlers=exception_handlers,
        debug=settings.debug,
        plugins=[SQLAlchemyPlugin(database_config(settings)), TasksPlugin(tasks_config(settings))],
        openapi_config=OpenAPIConfig(
            title="Reference app of litestar-tasks",
            version="1.0.0",
            description="Users, payments and campaigns. Their routes answer with the ids of jobs.",
            use_handler_docstrings=True,
        ),
        # Log what a client only sees as "500", and none of what is the client's own mistake.
        logging_config=LoggingConfig(
            log_exceptions="always", disable_stack_trace={*exception_handlers, *range(400, 500), QueueUnavailableError}
        ),
    )
