"""What nobody has set is what does least harm."""

from __future__ import annotations

from litestar_tasks import QueueConfig, Registry, TasksConfig
from litestar_tasks.queues.retention import Limits


def test_a_stop_gives_running_jobs_time_to_end() -> None:
    grace = QueueConfig().shutdown_grace_period_s
    assert grace is not None
    assert grace >= 10


def test_an_attempt_may_take_minutes_and_a_failure_is_remembered_longer_than_a_success() -> None:
    registry = Registry("test", allow_local=True)

    @registry.task
    async def job() -> None: ...

    spec = job.spec((), {})
    assert spec.timeout >= 60
    assert spec.max_attempts == 1
    assert Limits().failed_ttl > spec.ttl > 3600


def test_a_request_waits_seconds_for_its_enqueue_and_not_for_ever() -> None:
    assert TasksConfig(registry=Registry("test")).enqueue_timeout <= 2
