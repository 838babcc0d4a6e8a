"""A task with arguments and options: a call that can be enqueued, alone or with others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Generic, Self, get_args, get_origin

from typing_extensions import ParamSpec, TypeVar, Unpack

from litestar_tasks.attachment import Attachment
from litestar_tasks.codec import could_become
from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import ConfigurationError, PayloadError
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import JobQueue, JobSpec, Submission
from litestar_tasks.options import EnqueueOptions
from litestar_tasks.secret import secrets_of
from litestar_tasks.uniqueness import bonds_of

if TYPE_CHECKING:
    from litestar_tasks.task.declaration import Declaration

__all__ = ("Call", "Enqueuer", "enqueue_many")

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_AT_ONCE = 2_000
"""For so many calls of `enqueue_many` there are records at the same time; of the others only calls or handles."""


class Enqueuer(Generic[P, R]):
    """A task with options for its next calls. Made by ``using``."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: Declaration, options: Mapping[str, Any]) -> None:
        self._task = task
        self._options = dict(options)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue a call with these options; see ``Task.enqueue``."""
        return await self.bind(*args, **kwargs).enqueue()

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """A call with these options; see ``Task.bind``."""
        return Call(self._task, *self._task.payload.bind(args, kwargs), self._options)

    def using(self, **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]:
        """The same with further options; the later ones win."""
        return Enqueuer(self._task, self._task.call_options(self._options, options))


class Call(Generic[R_co]):
    """A task with its arguments and options, validated and not enqueued yet. Made by ``bind``."""

    __slots__ = ("_options", "_payload", "_takes", "_task")

    def __init__(
        self, task: Declaration, payload: Mapping[str, Any], takes: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        self._task = task
        self._payload = payload
        self._takes = takes
        self._options = options

    async def enqueue(self) -> JobHandle[R_co]:
        """Enqueue the call; see ``Task.enqueue``."""
        attachment = self._task.registry.attachment()
        session = self.session(attachment)
        if session is None:
            return await self._enqueue_at(attachment)
        (submission,) = await attachment.write(session, [(self.queue, self.spec())])
        return self.handle(attachment.queue(self.queue), submission)

    def enqueue_sync(self) -> JobHandle[R_co]:
        """Enqueue from a thread without an event loop: a sync route, a sync task.

        Raises:
            ConfigurationError: The call has a ``session``, which belongs to its event loop.
            RuntimeError: Called on an event loop, which it would block.
        """
        if self._options.get("session") is not None:
            raise ConfigurationError(
                f"task {self._task.name!r}: a session cannot be used from a thread; await enqueue() on its event loop"
            )
        attachment = self._task.registry.attachment()
        return attachment.run(self._enqueue_at(attachment))

    def using(self, **options: Unpack[EnqueueOptions]) -> Self:
        """The same call with further options; the later ones win."""
        return type(self)(self._task, self._payload, self._takes, self._task.call_options(self._options, options))

    def spec(self) -> JobSpec:
        """What a queue stores of it.

        Raises:
            PayloadError: It has a placeholder among its arguments, or more follow-ups than its payload may have bytes.
        """
        if self._takes:
            name, what = next(iter(self._takes.items()))
            raise PayloadError(
                self._task.name,
                f"{what.upper()} stands for the {what} of a job that this one follows; attach the call to that one: "
                "other_task.using(on_success=…) or on_failure",
                path=name,
            )
        return self._task.stored_spec(self._payload, self._options)

    def session(self, attachment: Attachment) -> object | None:
        """The session whose transaction it is part of, if any."""
        return self._options["session"] if "session" in self._options else attachment.session()

    def handle(self, queue: JobQueue, submission: Submission) -> JobHandle[R_co]:
        """The handle of what came of it."""
        return JobHandle(
            queue, submission.job.key, decode=self._task.result.decode, deduplicated=submission.deduplicated
        )

    def follow_up(self) -> dict[str, Any]:
        """The call as it is stored with the job that it follows."""
        option = functools.partial(self._task.option, given=self._options)
        later = {name: value for name, value in self._options.items() if name not in ("delay", "run_at")}
        spec = self._task.stored_spec(self._payload, {**later, "expires": None}, self._known_arguments)
        debounce = option("debounce")
        delay = seconds(debounce.delay) if debounce else self._options.get("delay")
        run_at = self._options.get("run_at")
        stored = {
            "takes": dict(self._takes),
            "key": spec.key,
            "delay": delay,
            "lock": spec.lock and asdict(spec.lock),
            "group": spec.group,
            "put_off": debounce and debounce.max_wait and seconds(debounce.max_wait),
            "run_at": run_at and run_at.timestamp(),
            "expires": option("expires"),
            "meta": spec.meta,
        }
        return {
            "task": self._task.name,
            "queue": self.queue,
            "kwargs": spec.kwargs,
            "timeout": spec.timeout,
            "max_attempts": spec.max_attempts,
            "ttl": spec.ttl,
            "priority": spec.priority,
            **{name: value for name, value in stored.items() if value},
        }

    def _known_arguments(self, needed: Sequence[str] | None) -> Mapping[str, Any]:
        if missing := [name for name in self._takes if needed is None or name in needed]:
            raise ConfigurationError(
                f"task {self._task.name!r}: unique, exclusive, debounce and throttle cannot tell calls apart by "
                f"{', '.join(missing)}, still to come from the job that is followed; name other arguments, as in "
                "by=(…), or none, by=(), and all calls are alike"
            )
        return self._task.payload.complete(self._payload, without=frozenset(self._takes))

    def check_takes(self, option: str, known: str, annotation: Any, what: str) -> None:
        """Refuse placeholders that cannot be filled.

        Args:
            option: What the call was given for.
            known: Which placeholder can be filled there.
            annotation: The type of what it stands for.
            what: That, in words.

        Raises:
            ConfigurationError: Another placeholder, or an argument that can take no such value.
        """
        if self._takes:
            bonds_of(self._task.name, self._task.options_with(self._options), self._known_arguments)
        for name, placeholder in self._takes.items():
            where = f"{option}: {self._task.name}.bind({name}={placeholder.upper()})"
            if placeholder != known:
                raise ConfigurationError(f"{where}: there is no {placeholder} then; it may take {known.upper()}")
            if not could_become(annotation, wanted := self._task.payload.annotation(name)):
                raise ConfigurationError(f"{where}: {what} is {_shown(annotation)}; {name!r} takes {_shown(wanted)}")

    @property
    def queue(self) -> str:
        """The label of the queue that it goes to."""
        label: str = self._task.option("queue", self._options)
        return label

    @property
    def task(self) -> Declaration:
        """The task."""
        return self._task

    async def _enqueue_at(self, attachment: Attachment) -> JobHandle[R_co]:
        queue = attachment.queue(self.queue)
        return self.handle(queue, await queue.submit(self.spec()))


async def enqueue_many(calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
    """Enqueue many calls, of one task or of several, with one round trip per queue and batch.

    Each queue's calls are stored in order. Across queues it is not one step: where one queue fails, what went to
    another one before stays. Those with a ``session`` are part of its transaction.

    Returns:
        A handle for each call, in the order of the calls.

    Raises:
        NotAttachedError: No app is running whose queues they could go to.
        QueueUnavailableError: The broker did not answer in time.
    """
    calls = list(calls)
    handles: dict[int, JobHandle[R]] = {}
    for attachment, session, members in _together(calls):
        for start in range(0, len(members), _AT_ONCE):
            part = members[start : start + _AT_ONCE]
            queue = attachment.queue(calls[part[0]].queue)
            if session is None:
                submissions = await queue.submit_many([calls[index].spec() for index in part])
            else:
                submissions = await attachment.write(
                    session, [(calls[index].queue, calls[index].spec()) for index in part]
                )
            for index, submission in zip(part, submissions, strict=True):
                if session is not None:
                    queue = attachment.queue(calls[index].queue)
                handles[index] = calls[index].handle(queue, submission)
    return [handles[index] for index in range(len(calls))]


def _together(calls: Sequence[Call[Any]]) -> Iterator[tuple[Attachment, object | None, list[int]]]:
    """The places of calls that are stored together: those of one transaction, and of the others those of one queue."""
    groups: dict[tuple[int, str | int], tuple[Attachment, object | None, list[int]]] = {}
    attachments: dict[int, Attachment] = {}
    for index, call in enumerate(calls):
        home = id(call.task.registry)
        if home not in attachments:
            attachments[home] = call.task.registry.attachment()
        session = call.session(attachments[home])
        group = (home, call.queue if session is None else id(session))
        groups.setdefault(group, (attachments[home], session, []))[2].append(index)
    yield from groups.values()


def _shown(annotation: Any) -> str:
    if get_origin(annotation) is Annotated and (found := secrets_of(annotation)) and found.whole:
        return f"Secret[{_shown(get_args(annotation)[0])}]"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
