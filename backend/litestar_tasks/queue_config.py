"""One queue's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar_saq import QueueConfig as StockQueueConfig

from litestar_tasks.exceptions import ConfigurationError

__all__ = ("QueueConfig",)


@dataclass(kw_only=True)
class QueueConfig(StockQueueConfig):
    """A queue and how a worker process works on it.

    It is litestar-saq's ``QueueConfig`` without a broker of its own: the plugin connects every queue to
    ``TasksConfig.broker_url``. Of the inherited fields these have an effect: ``name``, ``concurrency``,
    ``shutdown_grace_period_s`` and ``metadata``; the others belong to what this package replaces, and are refused.
    """

    name: str = "default"
    """The queue's name, without the namespace. Letters, digits, ``-`` and ``_``. Defaults to "default"."""
    concurrency: int = 10
    """How many jobs of this queue one worker process runs at the same time. Sync tasks have a pool of as many
    threads. Defaults to 10."""
    processes: int | None = None
    """How many processes one worker process has for tasks with ``executor="process"``; they are started when they are
    first needed. Defaults to None: as many as there are CPUs, and no more than ``concurrency``."""
    shutdown_grace_period_s: int | None = 30
    """Seconds that running jobs get to finish when the worker is told to stop; those that are left are cancelled
    and handed back. Keep it below what the process manager waits before it kills. Defaults to 30."""
    keep_complete: int = 10_000
    """How many records of complete jobs are kept at the most: the oldest go first, whatever their ``ttl`` says.
    Defaults to 10,000."""
    keep_failed: int = 100_000
    """How many records of failed jobs, and as many of aborted ones. Defaults to 100,000."""
    metadata: dict[str, Any] | None = None
    """What the worker publishes beside its statistics. Defaults to None."""

    def __post_init__(self) -> None:
        """Check the fields. SAQ's own set-up would ask for a broker, which is the plugin's to give."""
        if not self.name or not all(part.isalnum() or part in "-_" for part in self.name):
            raise ConfigurationError(
                f"queue name {self.name!r} holds characters that would break the broker's keys; "
                "use letters, digits, '-' and '_'"
            )
        if self.concurrency < 1:
            raise ConfigurationError(f"queue {self.name!r}: concurrency is {self.concurrency}; give at least 1")
        if self.processes is not None and self.processes < 1:
            raise ConfigurationError(f"queue {self.name!r}: processes is {self.processes}; give at least 1, or None")
        if self.shutdown_grace_period_s is not None and self.shutdown_grace_period_s < 0:
            raise ConfigurationError(
                f"queue {self.name!r}: shutdown_grace_period_s is {self.shutdown_grace_period_s}; give 0 or more"
            )
        for name in ("keep_complete", "keep_failed"):
            if (kept := getattr(self, name)) < 1:
                raise ConfigurationError(
                    f"queue {self.name!r}: {name} is {kept}; give at least 1, or nobody could read a result"
                )
        ours = {"name", "concurrency", "shutdown_grace_period_s", "metadata", "tasks"}
        stock = StockQueueConfig(dsn="redis://")
        for field, default in vars(stock).items():
            if field.startswith("_") or field in ours or field == "dsn":
                continue
            if getattr(self, field) != default and getattr(self, field) not in (None, [], {}):
                raise ConfigurationError(
                    f"queue {self.name!r}: {field} has no effect here; "
                    "brokers, tasks and schedules are set on TasksConfig and on the registry"
                )
        if self.dsn is not None:
            raise ConfigurationError(f"queue {self.name!r}: set the broker with TasksConfig(broker_url=…), not dsn")
