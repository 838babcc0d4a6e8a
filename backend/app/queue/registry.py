"""The app's tasks: import `task` and `scheduled_task` from here."""

from __future__ import annotations

from litestar_tasks import Registry

__all__ = ("get_registry", "registry", "scheduled_task", "task")

registry = Registry("app")
task = registry.task
scheduled_task = registry.scheduled_task


def get_registry() -> Registry:
    """The registry with all tasks in it, whatever has been imported so far."""
    # Not at the top: app/queue/config.py imports the task modules, and those import this one.
    from app.queue import config  # noqa: F401

    return registry
