"""The schedules of a registry: declared in code, and operated while the app runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import InvalidScheduleError, PayloadError, UnknownTaskError
from litestar_tasks.handle import JobHandle
from litestar_tasks.schedule import Schedule, ScheduleOptions, ScheduleState, schedule_fields
from litestar_tasks.task import AnyTask

if TYPE_CHECKING:
    from litestar_tasks.attachment import Attachments

__all__ = ("Recurring", "encode_kwargs", "make_schedule")


class Recurring:
    """The part of a registry that is about schedules."""

    name: str
    _tasks: dict[str, AnyTask]
    _schedules: dict[str, Schedule]
    _attachments: Attachments

    # In code

    def schedule(self, task: AnyTask, *, id: str | None = None, **options: Unpack[ScheduleOptions]) -> Schedule:
        """Let a task recur, for a further time or one that was declared elsewhere.

        Args:
            task: A task of this registry.
            id: Names the schedule. Defaults to the task's name, which is taken if the task has one already.
            options: See ``ScheduleOptions``.

        Raises:
            InvalidScheduleError: It cannot work, or its id is taken.
            ConfigurationError: An unknown option.
        """
        self._check_own(task)
        schedule = make_schedule(task, id or task.name, options)
        if (other := self._schedules.get(schedule.id)) is not None and other != schedule:
            raise InvalidScheduleError(f"schedule {schedule.id!r} exists already ({other}); give this one another id=")
        self._schedules[schedule.id] = schedule
        return schedule

    def get_schedules(self) -> list[Schedule]:
        """Every schedule that is declared in code, in the order of declaration."""
        return list(self._schedules.values())

    # While the app runs

    async def schedules(self) -> list[ScheduleState]:
        """How every schedule stands, the declared ones first.

        Raises:
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.states())

    async def schedule_state(self, id: str) -> ScheduleState:
        """How a schedule stands.

        Raises:
            ScheduleNotFoundError: There is none of this id; names the nearest ones.
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.state(id))

    async def pause_schedule(self, id: str, *, by: str | None = None) -> ScheduleState:
        """Let a schedule not fire until it is resumed; firings in between are left out. It survives deploys.

        Args:
            id: The schedule. One that is paused already stays as it is.
            by: Who does it, for those who look. Defaults to None.

        Raises:
            ScheduleNotFoundError: There is none of this id; names the nearest ones.
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.pause(id, by))

    async def resume_schedule(self, id: str, *, by: str | None = None) -> ScheduleState:
        """Let a paused schedule fire again, from its next firing on; see ``pause_schedule``."""
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.resume(id, by))

    async def run_schedule(self, id: str, *, by: str | None = None) -> JobHandle[Any]:
        """Enqueue a schedule's job now; its next firing stays as it is. It does so for a paused one, too.

        Unless ``overlap`` is "allow", a job of it that has not ended is returned instead, ``deduplicated``; so is one
        that stands for all that are alike, where the task is ``unique`` or the like.

        Args:
            id: The schedule.
            by: Who does it; kept with the job, as ``meta["by"]``. Defaults to None.

        Raises:
            ScheduleNotFoundError: There is none of this id; names the nearest ones.
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        attachment = self._attachments.find()
        label, key, known = await attachment.on_loop(attachment.schedules.run(id, by))
        return JobHandle(attachment.queue(label), key, deduplicated=known)

    async def change_schedule(
        self,
        id: str,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        timezone: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        by: str | None = None,
    ) -> ScheduleState:
        """Put another rhythm, or other arguments, over what is declared. It survives deploys, until ``reset_schedule``.

        Args:
            id: The schedule.
            cron: Another expression, or one instead of an interval. Defaults to None: as it is.
            every: Another interval, or one instead of an expression. Defaults to None: as it is.
            timezone: Another time zone. Defaults to None: as it is.
            kwargs: Other arguments, all of them. Defaults to None: as they are.
            by: Who does it, for those who look. Defaults to None.

        Raises:
            InvalidScheduleError: It cannot work like that; nothing was changed.
            ScheduleNotFoundError: There is none of this id; names the nearest ones.
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        given = {"cron": cron, "every": every, "timezone": timezone, "kwargs": kwargs}
        fields = {name: value for name, value in given.items() if value is not None}
        if not fields:
            raise InvalidScheduleError(f"schedule {id!r}: nothing to change; give cron, every, timezone or kwargs")
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.change(id, fields, by))

    async def reset_schedule(self, id: str, *, by: str | None = None) -> ScheduleState:
        """Take back what ``change_schedule`` did: what is declared, or was added, is in force again."""
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.reset(id, by))

    async def add_schedule(
        self, id: str, *, task: AnyTask | str, by: str | None = None, **options: Unpack[ScheduleOptions]
    ) -> ScheduleState:
        """Let a task recur from now on, without a deploy. Deploys leave it alone.

        Args:
            id: Names the schedule.
            task: A task of this registry, or its name.
            by: Who does it; for the log. Defaults to None.
            options: See ``ScheduleOptions``.

        Raises:
            InvalidScheduleError: It cannot work, or its id is taken; nothing was added.
            UnknownTaskError: There is no such task; names the nearest ones.
            UnknownQueueError: There is no such queue; names those that exist.
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        found = self._tasks.get(task) if isinstance(task, str) else task
        if found is None:
            raise UnknownTaskError(str(task), self._tasks, registry=self.name)
        self._check_own(found)
        schedule = make_schedule(found, id, options)
        if id in self._schedules:
            raise InvalidScheduleError(f"schedule {id!r} is declared in code; give this one another id, or change that")
        attachment = self._attachments.find()
        return await attachment.on_loop(attachment.schedules.add(schedule, by))

    async def remove_schedule(self, id: str, *, by: str | None = None) -> None:
        """Remove a schedule that ``add_schedule`` added. Jobs that it has enqueued stay.

        Args:
            id: The schedule.
            by: Who does it; for the log. Defaults to None.

        Raises:
            InvalidScheduleError: It is declared in code, and would come back.
            ScheduleNotFoundError: There is none of this id; names the nearest ones.
            NotAttachedError: No app is running.
            QueueUnavailableError: The broker did not answer.
        """
        attachment = self._attachments.find()
        await attachment.on_loop(attachment.schedules.remove(id, by))

    def _check_own(self, task: Any) -> None:
        if not isinstance(task, AnyTask) or self._tasks.get(task.name) is not task:
            raise InvalidScheduleError(f"{task!r} does not belong to registry {self.name!r}; schedule it where it does")


def make_schedule(task: AnyTask, id: str, options: Mapping[str, Any]) -> Schedule:
    """A schedule of a task.

    Raises:
        InvalidScheduleError: It cannot work.
        ConfigurationError: An unknown option.
    """
    fields = schedule_fields(options, subject=f"schedule {id!r}")
    fields.setdefault("queue", task.option("queue"))
    timeout: Any = fields.get("timeout", task.option("timeout"))
    if isinstance(timeout, timedelta):
        timeout = seconds(timeout)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
        raise InvalidScheduleError(
            f"schedule {id!r}: timeout is {timeout!r}; give more than 0 seconds, or None for no limit"
        )
    fields["timeout"] = timeout
    schedule = Schedule(id=id, task=task.name, **fields)
    if task.resolved:  # else its kwargs are checked when the app starts and the signature is known
        encode_kwargs(task, id, schedule.kwargs)
    return schedule


def encode_kwargs(task: AnyTask, id: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments of a schedule in JSON's own types.

    Raises:
        InvalidScheduleError: They do not fit the signature.
        DeclarationError: The signature cannot be resolved.
    """
    try:
        return task.payload.encode((), kwargs)
    except PayloadError as error:
        raise InvalidScheduleError(f"schedule {id!r}: its kwargs do not fit: {error}") from error
