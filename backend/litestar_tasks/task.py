"""One declared function: what it takes, how it is called, and how its calls are enqueued."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Concatenate,
    Generic,
    Protocol,
    Self,
    TypeAlias,
    cast,
    get_args,
    get_origin,
)

from litestar.di import Provide
from saq.types import Context
from typing_extensions import ParamSpec, TypeVar, Unpack

from litestar_tasks.attachment import Attachment
from litestar_tasks.codec import Codec, Hooks, UnstorableTypeError, could_become, json_size, split_path, unstorable
from litestar_tasks.current import CurrentJob
from litestar_tasks.exceptions import (
    ConfigurationError,
    DeclarationError,
    DependencyError,
    InvalidTaskError,
    PayloadError,
)
from litestar_tasks.follow_ups import FOLLOW_UPS, stored_follow_ups
from litestar_tasks.job import JobHandle, JobQueue, JobSpec, Submission
from litestar_tasks.middleware import EnqueueHook, Middleware
from litestar_tasks.options import DEFAULTS, EnqueueOptions, check_options, check_together, seconds
from litestar_tasks.payload import INJECTED, Kind, Payload, read_parameters
from litestar_tasks.retry import stored_policies
from litestar_tasks.secret import Secrets, secrets_of
from litestar_tasks.uniqueness import bonds_of, check_by

__all__ = (
    "AnyTask",
    "Call",
    "ContextTask",
    "Enqueuer",
    "SyncContextTask",
    "Task",
    "enqueue_many",
    "no_keys",
    "refuse_unnameable",
)

if TYPE_CHECKING:
    from litestar_tasks.keyring import Keyring

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
CallR = TypeVar("CallR", default=Coroutine[Any, Any, R])
Async: TypeAlias = Callable[Concatenate[Context, P], Coroutine[Any, Any, R]]
Sync: TypeAlias = Callable[Concatenate[Context, P], R]
AsyncF_co = TypeVar("AsyncF_co", bound=Callable[Concatenate[Context, ...], Coroutine[Any, Any, Any]], covariant=True)
SyncF_co = TypeVar("SyncF_co", bound=Callable[Concatenate[Context, ...], Any], covariant=True)

_NO_HOOKS = Hooks(encoders={}, decoders=())
_SUPPLIED = (Kind.CONTEXT, Kind.JOB, Kind.INJECTED)
_VARYING = ("expires", "unique", "exclusive", "debounce", "throttle", "on_success", "on_failure")
"""Options by which calls of a task are stored differently."""
_AT_ONCE = 2_000
"""For so many calls of `enqueue_many` there are records at the same time; of the others only calls or handles."""


class Home(Protocol):
    """What a task needs of the registry it belongs to."""

    name: str

    @property
    def defaults(self) -> Mapping[str, Any]: ...

    def attachment(self) -> Attachment: ...


class AnyTask:
    """A declared function and its options.

    It is called like the function: ``await my_task(ctx, user_id=1)`` runs it here and now. ``__name__`` and
    ``__qualname__`` are the task's name, which SAQ and its tools go by; the function itself is ``fn``.

    This is the one class that exists at run time. Type checkers see ``Task``, ``ContextTask`` or
    ``SyncContextTask`` instead, which differ in what a call looks like.

    Attributes:
        name: The name by which it is enqueued and stored.
        fn: The function.
        registry: The registry that it belongs to.
        executor: Where it runs if it is sync: "thread" or "process"; None for an async one.
        options: The options that the decorator was given, checked, durations in seconds.
    """

    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[..., Any], registry: Home, options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.registry = registry
        self.name: str = options.get("name", fn.__name__)
        self.__name__ = self.__qualname__ = self.name
        self.options = {name: value for name, value in options.items() if name != "name"}
        self._levels: Mapping[str, Any] = {**DEFAULTS, **registry.defaults, **self.options}
        # What every call without options of its own stores; None where that differs from call to call.
        varies = any(self._levels[name] not in (None, ()) for name in _VARYING)
        self._plain = None if varies else _stored_options(self._levels)
        check_together(self._levels, f"task {self.name!r}")
        self.dependencies: Mapping[str, Provide] = {
            **registry.defaults.get("dependencies", {}),
            **self.options.get("dependencies", {}),
        }
        self.middleware: tuple[Middleware, ...] = _both("middleware", registry.defaults, self.options)
        self.on_enqueue: tuple[EnqueueHook, ...] = _both("on_enqueue", registry.defaults, self.options)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.executor: str | None = None if self.is_async else self._levels["executor"]
        if self.is_async:
            _mark_as_coroutine_function(self)
        self._payload: Payload | None = None
        self._result: Codec[Any] | None = None
        self._result_secrets: Secrets | None = None
        self.parameters, self._returns = read_parameters(
            fn, name=self.name, job_type=CurrentJob, supplied=self.dependencies.keys()
        )
        if self.resolved:
            self.compile({}, _NO_HOOKS)

    def compile(self, namespace: Mapping[str, Any], hooks: Hooks) -> None:
        """Resolve the signature with what only a running app knows, and compile the payload.

        Args:
            namespace: Names for annotations beside those of the function's module.
            hooks: How the app stores types that msgspec does not know.

        Raises:
            DeclarationError: The signature cannot be stored or resolved.
        """
        self.parameters, self._returns = read_parameters(
            self.fn,
            name=self.name,
            job_type=CurrentJob,
            supplied=self.dependencies.keys(),
            namespace=namespace,
            hooks=hooks,
        )
        self._payload = Payload(self.name, self.parameters, hooks, limit=self._levels["payload_limit"])
        check_by(self._levels, self._payload.names, f"task {self.name!r}")
        self.takes_context = any(parameter.kind is Kind.CONTEXT for parameter in self.parameters)
        self.job_parameters = [parameter.name for parameter in self.parameters if parameter.kind is Kind.JOB]
        self._result = self._compile_result(hooks)
        self._check_follow_ups(self._levels)
        self._check_executor()

    @property
    def resolved(self) -> bool:
        """Whether every annotation is known, or some name is still to come from the app."""
        return all(parameter.kind is not Kind.UNRESOLVED for parameter in self.parameters)

    @property
    def payload(self) -> Payload:
        """The payload, compiled from the signature; at the first use, if the app has not done it yet."""
        if self._payload is None:
            self.compile({}, _NO_HOOKS)
        return cast("Payload", self._payload)

    @property
    def result(self) -> Codec[Any]:
        """How the task's results are stored and restored, by its return annotation."""
        if self._result is None:
            self.compile({}, _NO_HOOKS)
        return cast("Codec[Any]", self._result)

    def encode_result(self, value: Any) -> Any:
        """What a queue stores of a result.

        Raises:
            ValueError, TypeError, RecursionError: It does not fit the return annotation, cannot be stored, or is too
                large.
        """
        secrets = self._result_secrets
        stored, size = _quoting_nothing(self._measured, value, secrets) if secrets else self._measured(value)
        if size > self._levels["result_limit"]:
            raise ValueError(
                f"it has {size:,} bytes as JSON, and {self._levels['result_limit']:,} are allowed; store it elsewhere "
                "and return its id, or raise the task's result_limit"
            )
        return secrets.seal(stored, self._keyring()) if secrets else stored

    def result_problem(self, error: Exception) -> str:
        """What is wrong with a result, by the error of ``encode_result``."""
        message, path = split_path(error)
        if path:
            message += f" (at {path})"
        if message.startswith("expected "):
            message += f"; the task is annotated '-> {inspect.formatannotation(self._returns)}'"
        return message

    def decode_result(self, stored: Any) -> Any:
        """What the task returned, restored from what ``encode_result`` made of it.

        Raises:
            ValueError, TypeError: It does not fit the return annotation of this release, or cannot be decrypted.
        """
        codec = self.result
        if self._result_secrets is None:
            return codec.decode(stored)
        return _quoting_nothing(codec.decode, self._result_secrets.open(stored, self._keyring()), self._result_secrets)

    def opened(self, stored: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A stored payload with its secrets readable.

        Raises:
            PayloadError: One is not encrypted, or with a key that is not there.
        """
        secrets = self.payload.secrets
        if secrets is None:
            return stored or {}
        try:
            opened: Mapping[str, Any] = secrets.open(stored or {}, self._keyring())
        except ValueError as error:
            message, path = split_path(error)
            raise PayloadError(self.name, message, path=path) from None
        return opened

    def sealed(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """A payload of JSON's own types with its secrets encrypted.

        Raises:
            ConfigurationError: The app has no keys.
        """
        secrets = self.payload.secrets
        return secrets.seal(payload, self._keyring()) if secrets else payload

    def identified(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """A payload of JSON's own types in which equal secrets are equal, and none can be read.

        Raises:
            ConfigurationError: The app has no keys.
        """
        secrets = self.payload.secrets
        return secrets.identified(payload, self._keyring().identity_key) if secrets else payload

    @property
    def has_secrets(self) -> bool:
        """Whether arguments or the result hold secrets."""
        return self.payload.secrets is not None or self._result_secrets is not None

    @property
    def source(self) -> str:
        """Where the function was written: ``app/users/tasks.py:12``."""
        code = inspect.unwrap(self.fn).__code__
        path = Path(code.co_filename)
        try:
            path = path.relative_to(Path.cwd())
        except ValueError:
            pass
        return f"{path}:{code.co_firstlineno}"

    def option(self, name: str, given: Mapping[str, Any] | None = None) -> Any:
        """The value of an option that holds for a call: call > task > registry > built-in."""
        return (given if given and name in given else self._levels)[name]

    def options_with(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of all options that hold for a call with these of its own."""
        return {**self._levels, **given}

    def spec(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> JobSpec:
        """What a queue stores of a call.

        Args:
            args: Positional arguments, without the context.
            kwargs: Arguments by name.
            options: Checked options of the call, durations in seconds. Defaults to none.

        Raises:
            PayloadError: The arguments do not fit.
        """
        return self.stored_spec(self.payload.encode(tuple(args), kwargs), options or {})

    def stored_spec(
        self,
        payload: Mapping[str, Any],
        options: Mapping[str, Any],
        arguments: Callable[[Sequence[str] | None], Mapping[str, Any]] | None = None,
    ) -> JobSpec:
        """``spec`` for a payload that is encoded already, and not encrypted yet.

        Args:
            payload: The payload.
            options: Checked options of the call.
            arguments: Returns all arguments, for options that go by them; see ``bonds_of``. Defaults to those of the
                payload.
        """
        if not options and self._plain is not None:
            return JobSpec(task=self.name, kwargs=self.sealed(payload), **self._plain)
        run_at = options.get("run_at")
        levels = {**self._levels, **options}
        delay = seconds(levels["debounce"].delay) if levels["debounce"] else options.get("delay")
        if delay:
            run_at = datetime.now(UTC) + timedelta(seconds=delay)
        # What is made of secrets is stored, too: nobody without the key may find them by trying.
        key = self._keyring().identity_key if self.payload.secrets else b""
        known = arguments or (lambda _: self.payload.complete(payload))
        lock, group = bonds_of(self.name, levels, known, key=key)
        stored = _stored_options(levels, run_at)
        stored["meta"].update(stored_policies(options))
        self._check_size(stored["meta"].get(FOLLOW_UPS))
        return JobSpec(
            task=self.name,
            kwargs=self.sealed(payload),
            key=options.get("key"),
            run_at=run_at,
            lock=lock,
            group=group,
            **stored,
        )

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse checked options of a call that make no sense together, or for this task.

        Raises:
            ConfigurationError: Says what does not go together.
        """
        levels = {**self._levels, **options}
        check_together(levels, f"task {self.name!r}")
        if self._payload is not None:
            check_by(levels, self._payload.names, f"task {self.name!r}")

    def using(self, **options: Unpack[EnqueueOptions]) -> Enqueuer[..., Any]:
        """The task with options for one or more calls: ``my_task.using(delay=60).enqueue(user_id=1)``.

        Args:
            options: See ``EnqueueOptions``.

        Raises:
            ConfigurationError: An unknown option, or a value that cannot work.
        """
        return Enqueuer(self, self.call_options({}, options))

    def call_options(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Checked options of a call, and further ones that win over them.

        Raises:
            ConfigurationError: An unknown option, or a value that cannot work.
        """
        arguments = self._payload.names if self._payload is not None else ()
        checked = check_options(new, EnqueueOptions, subject=f"task {self.name!r}", arguments=arguments)
        if "on_success" in checked or "on_failure" in checked:
            self._check_follow_ups(checked)
        # delay and run_at are two spellings of one option: the later one replaces the earlier, however it was spelt.
        replaced: set[str] = {"delay", "run_at"} if checked.keys() & {"delay", "run_at"} else set()
        merged = {**{name: value for name, value in old.items() if name not in replaced}, **checked}
        self.check(merged)
        return merged

    def bind(self, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """A call that is validated now and enqueued later, alone or with others by ``enqueue_many``.

        Raises:
            PayloadError: The arguments do not fit the signature.
        """
        return Call(self, *self.payload.bind(args, kwargs), {})

    async def enqueue(self, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Enqueue a call of the task. Once this has returned, the job will run.

        Args:
            args: The function's positional arguments, without the context.
            kwargs: Its arguments by name.

        Raises:
            PayloadError: The arguments do not fit the signature; nothing was stored.
            NotAttachedError: No app is running whose queue it could go to.
            QueueUnavailableError: The broker did not answer in time.
        """
        return await self.bind(*args, **kwargs).enqueue()

    def job(self, id: str) -> JobHandle[Any]:
        """The handle of a job of this task, by its id.

        Raises:
            JobNotFoundError: The id is not one of this broker's.
        """
        attachment = self.registry.attachment()
        label, key = attachment.locate(id)
        return JobHandle(attachment.queue(label), key, decode=self.decode_result)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now; the context, if it takes one, comes first.

        Raises:
            DependencyError: A parameter that a worker would supply was left out.
        """
        if any(parameter.kind in _SUPPLIED for parameter in self.parameters):
            self._refuse_unfilled(args, kwargs)
        return self.fn(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        """A task is no method: found on a class it is itself."""
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} from {self.source}>"

    def __reduce__(self) -> tuple[Callable[..., AnyTask], tuple[str, str, str]]:
        """Pickle by reference, so that a spawned process finds its own registry's task."""
        return load, (self.fn.__module__, self.fn.__qualname__, self.name)

    def _check_size(self, follow_ups: Any) -> None:
        limit = self._levels["payload_limit"]
        if follow_ups and (size := json_size(follow_ups)) > limit:
            raise PayloadError(
                self.name,
                f"the calls of on_success and on_failure have {size:,} bytes as JSON, with their own follow-ups, and "
                f"{limit:,} are allowed; let them take ids of data that is stored elsewhere, or raise the task's "
                "payload_limit",
            )

    def _compile_result(self, hooks: Hooks) -> Codec[Any]:
        try:
            if (foreign := unstorable(self._returns, hooks)) is not None:
                raise UnstorableTypeError(f"an object of the class {foreign.__name__} cannot be stored")
            codec: Codec[Any] = Codec(self._returns, hooks)
            self._result_secrets = secrets_of(self._returns)
            return codec
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(
                f"task {self.name!r} ({self.source}): its result cannot be stored: {error}; return data that JSON can "
                "hold, such as an id"
            ) from error

    def _check_follow_ups(self, options: Mapping[str, Any]) -> None:
        """Refuse placeholders that cannot be filled with what this task's jobs have when they end."""
        for call in options.get("on_success", ()):
            call.check_takes("on_success", "result", self._returns, f"what task {self.name!r} returns")
        for call in options.get("on_failure", ()):
            call.check_takes("on_failure", "error", str, "the error, which is a text,")

    def _check_executor(self) -> None:
        """Refuse what could not run where its executor says."""
        where = f"task {self.name!r} ({self.source}): executor={self._levels['executor']!r}"
        if self.is_async and "executor" in self.options:
            raise InvalidTaskError(f"{where} is for sync functions, and this one is async; write def, or leave it out")
        if self.executor != "process":
            return
        if self.fn.__module__ == "__main__" or "<locals>" in self.fn.__qualname__:
            raise InvalidTaskError(
                f"{where} needs a function that another process can import, and {self.fn.__qualname__!r} is part of "
                f"{'the program' if self.fn.__module__ == '__main__' else 'another function'}; move it to a module"
            )
        try:
            # As that process will see it: there is no app there.
            parameters, _ = read_parameters(
                self.fn, name=self.name, job_type=CurrentJob, supplied=self.dependencies.keys(), namespace={}
            )
            self._compile_result(_NO_HOOKS)
        except DeclarationError as error:
            raise InvalidTaskError(f"{where}: its types have to be known without the app: {error}") from error
        if self.has_secrets:
            raise InvalidTaskError(f"{where}: secrets are not handed to another process; use executor='thread'")
        for parameter in parameters:
            if parameter.kind in _SUPPLIED:
                raise InvalidTaskError(
                    f"{where}: parameter {parameter.name!r} is supplied by the worker, and does not exist in another "
                    "process; take it out, and do what needs it in an async task that awaits this one, or use "
                    "executor='thread'"
                )

    def _measured(self, result: Any) -> tuple[Any, int]:
        stored = self.result.encode_unchecked(result)
        return stored, 0 if stored is None else json_size(stored)

    def _keyring(self) -> Keyring:
        keyring = self.registry.attachment().keyring
        if keyring is None:
            raise no_keys(self)
        return keyring

    def _refuse_unfilled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = inspect.signature(self.fn).bind_partial(*args, **kwargs)
        given.apply_defaults()
        for parameter in self.parameters:
            name = parameter.name
            if parameter.kind not in _SUPPLIED or given.arguments.get(name, INJECTED) is not INJECTED:
                continue
            if parameter.kind is Kind.CONTEXT:
                raise DependencyError(
                    f"task {self.name!r} was called directly without its context, which only a worker supplies; pass a "
                    f"mapping with what it reads of it first: {self.name}({{}}, …)"
                )
            what = "the running job" if parameter.kind is Kind.JOB else "its dependency"
            raise DependencyError(
                f"task {self.name!r} was called directly without {what} {name!r}, which only a worker supplies; pass "
                f"it: {self.name}(…, {name}=…)"
            )


class Enqueuer(Generic[P, R]):
    """A task with options for its next calls. Made by ``using``."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: AnyTask, options: Mapping[str, Any]) -> None:
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
        self, task: AnyTask, payload: Mapping[str, Any], takes: Mapping[str, str], options: Mapping[str, Any]
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
            queue, submission.job.key, decode=self._task.decode_result, deduplicated=submission.deduplicated
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
    def task(self) -> AnyTask:
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


def no_keys(task: AnyTask) -> ConfigurationError:
    """The error of a task that has secrets in an app that has no keys."""
    return ConfigurationError(
        f"task {task.name!r} ({task.source}) has a Secret, and there is no key to encrypt it with; set "
        "TasksConfig(secret_keys=[…]), and install litestar-tasks[secrets]"
    )


def _quoting_nothing(work: Callable[[Any], Any], value: Any, secrets: Secrets) -> Any:
    """Encode or decode a value, with errors that do not quote its secrets."""
    problem = ""
    try:
        return work(value)
    except Exception as error:  # also what the value's own classes raise
        message, path = secrets.problem(error)
        problem = f"{message} - at `{path}`" if path else message
    raise ValueError(problem)  # outside, so that the error that quotes them is no part of it


def _both(option: str, registry: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[Any, ...]:
    """An option of which a task has its registry's and its own."""
    return (*registry.get(option, ()), *task.get(option, ()))


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


def _stored_options(levels: Mapping[str, Any], run_at: datetime | None = None) -> dict[str, Any]:
    """Options as a job's record holds them; for a call that starts at ``run_at``, or now."""
    ttl = levels["ttl"]
    # Those for which SAQ's record has no field travel in its meta, where they are not the default.
    beside = ("at_most_once", "max_losses", "failed_ttl", "tag")
    meta = {name: levels[name] for name in beside if levels[name] != DEFAULTS[name]}
    if levels["on_success"] or levels["on_failure"]:
        meta.update(stored_follow_ups(levels["on_success"], levels["on_failure"]))
    if levels["expires"] is not None:
        meta["expires"] = round(max(time.time(), run_at.timestamp() if run_at else 0) + levels["expires"], 3)
    return {
        "timeout": levels["timeout"] or 0,
        "max_attempts": levels["max_attempts"],
        # SAQ stores 0 for "for ever" and -1 for "not at all".
        "ttl": 0 if ttl is None else int(ttl) or -1,
        "priority": levels["priority"],
        "meta": meta,
    }


def _shown(annotation: Any) -> str:
    if get_origin(annotation) is Annotated and (found := secrets_of(annotation)) and found.whole:
        return f"Secret[{_shown(get_args(annotation)[0])}]"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def refuse_unnameable(fn: object, *, allow_local: bool) -> None:
    """Refuse what a worker in another process could not find again by its name.

    Raises:
        InvalidTaskError: Says what it is, and what to write instead.
    """
    if isinstance(fn, AnyTask):
        raise InvalidTaskError(
            f"{fn.name!r} ({fn.source}) is a task already; a further schedule is registry.schedule(task, cron=…)"
        )
    if isinstance(fn, staticmethod | classmethod):
        raise InvalidTaskError(f"{fn!r}: put @task below @{type(fn).__name__}")
    if isinstance(fn, functools.partial):
        raise InvalidTaskError(f"{fn!r} is a partial, which has no name of its own; write a function that calls it")
    if inspect.ismethod(fn):
        raise InvalidTaskError(f"{fn!r} is bound to an object, which cannot be stored; write a function that calls it")
    if not inspect.isfunction(fn):
        raise InvalidTaskError(f"{fn!r} is not a function; write a function that calls it")
    if "<lambda>" in fn.__qualname__:
        raise InvalidTaskError(
            f"a lambda ({fn.__code__.co_filename}:{fn.__code__.co_firstlineno}) has no name; use def"
        )
    if "<locals>" in fn.__qualname__ and not allow_local:
        raise InvalidTaskError(
            f"{fn.__qualname__!r} ({fn.__code__.co_filename}:{fn.__code__.co_firstlineno}) is local to a function, so "
            "a worker cannot import it; move it to module level (a decorator below @task: use functools.wraps; in "
            "tests: Registry(allow_local=True))"
        )
    if _is_method(fn):
        raise InvalidTaskError(
            f"{fn.__qualname__!r} ({fn.__code__.co_filename}:{fn.__code__.co_firstlineno}) is a method, and its object "
            "cannot be stored; write a function"
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidTaskError(f"{fn.__qualname__!r} is a generator; a task returns its result")


def _is_method(fn: FunctionType) -> bool:
    """Whether a function stands in a class, and takes the object or the class first."""
    in_class = "." in fn.__qualname__.rpartition("<locals>.")[2]
    return in_class and next(iter(inspect.signature(fn).parameters), None) in ("self", "cls")


def load(module: str, qualname: str, name: str) -> AnyTask:
    """Find a pickled task again: by its module attribute, or else as ``alias = task(function)``.

    Raises:
        LookupError: The module does not hold it any more.
    """
    namespace = importlib.import_module(module)
    found: Any = namespace
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, AnyTask) and found.name == name:
        return found
    for value in vars(namespace).values():
        if isinstance(value, AnyTask) and value.name == name:
            return value
        find = getattr(type(value), "find_task", None)  # a Registry that the module uses
        if find is not None and (task := find(value, name)) is not None:
            return cast("AnyTask", task)
    raise LookupError(f"task {name!r} was not found in module {module!r}; bind it to a name at module level")


def _mark_as_coroutine_function(task: AnyTask) -> None:
    # asyncio.iscoroutinefunction looks for this up to Python 3.13, inspect's from 3.12 on for its own mark.
    task._is_coroutine = _ASYNCIO_MARK  # type: ignore[attr-defined]  # asyncio's protocol, not ours
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(task)


_ASYNCIO_MARK = getattr(asyncio.coroutines, "_is_coroutine", True)


if TYPE_CHECKING:
    # What type checkers see of a task: three faces of AnyTask that differ in how a call is written. Which one a
    # function gets is chosen by the overloads of TaskDecorator.

    class Task(AnyTask, Generic[P, R, CallR]):
        """A task without context; ``CallR`` is what a direct call returns."""

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> CallR: ...
        async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
        def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
        def using(self, **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]: ...
        def job(self, id: str) -> JobHandle[R]: ...

    class ContextTask(AnyTask, Generic[AsyncF_co]):
        """An async task with the context first; a direct call takes any mapping for it."""

        def __call__(
            self: ContextTask[Async[P, R]], ctx: Mapping[str, Any], /, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...
        async def enqueue(self: ContextTask[Async[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
        def bind(self: ContextTask[Async[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
        def using(self: ContextTask[Async[P, R]], **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]: ...
        def job(self: ContextTask[Async[..., R]], id: str) -> JobHandle[R]: ...

    class SyncContextTask(AnyTask, Generic[SyncF_co]):
        """A sync task with the context first."""

        def __call__(
            self: SyncContextTask[Sync[P, R]], ctx: Mapping[str, Any], /, *args: P.args, **kwargs: P.kwargs
        ) -> R: ...
        async def enqueue(self: SyncContextTask[Sync[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
        def bind(self: SyncContextTask[Sync[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
        def using(self: SyncContextTask[Sync[P, R]], **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]: ...
        def job(self: SyncContextTask[Sync[..., R]], id: str) -> JobHandle[R]: ...

else:

    class Task(AnyTask):
        """The class of every task at run time; see ``AnyTask``."""

        def __class_getitem__(cls, parameters: object) -> type[Task]:
            """``Task[..., Any]`` in annotations that are evaluated."""
            return cls

    ContextTask = SyncContextTask = Task
