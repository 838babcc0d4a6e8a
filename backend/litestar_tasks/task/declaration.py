"""What a task is declared as: its function, its options, and how its calls and results are stored."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from litestar.di import Provide

from litestar_tasks.attachment import Attachment
from litestar_tasks.codec import Hooks, json_size, split_path
from litestar_tasks.current import CurrentJob
from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import ConfigurationError, PayloadError
from litestar_tasks.follow_ups import FOLLOW_UPS, stored_follow_ups
from litestar_tasks.job import JobSpec
from litestar_tasks.middleware import EnqueueHook, Middleware
from litestar_tasks.option_checks import check_options, check_together
from litestar_tasks.options import DEFAULTS, EnqueueOptions
from litestar_tasks.payload import Payload
from litestar_tasks.retry import stored_policies
from litestar_tasks.signature import Kind, read_parameters
from litestar_tasks.task.executor import check_executor
from litestar_tasks.task.result import Result
from litestar_tasks.uniqueness import bonds_of, check_by

if TYPE_CHECKING:
    from litestar_tasks.keyring import Keyring

__all__ = ("Declaration", "Home", "no_keys")

_VARYING: Final = ("expires", "unique", "exclusive", "debounce", "throttle", "on_success", "on_failure")
"""Options by which calls of a task are stored differently."""


class Home(Protocol):
    """What a task needs of the registry it belongs to."""

    name: str

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Options of every task that does not set them itself, checked."""
        ...

    def attachment(self) -> Attachment:
        """The running app that an enqueue from here goes to."""
        ...


class Declaration:
    """A function and its options, and what follows from them.

    Attributes:
        name: The name by which it is enqueued and stored.
        fn: The function.
        registry: The registry that it belongs to.
        executor: Where it runs if it is sync: "thread" or "process"; None for an async one.
        options: The options that the decorator was given, checked, durations in seconds.
    """

    def __init__(self, fn: Callable[..., Any], registry: Home, options: Mapping[str, Any]) -> None:
        self.fn = fn
        self.registry = registry
        self.name: str = options.get("name", fn.__name__)
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
        self._payload: Payload | None = None
        self._result: Result | None = None
        self.parameters, self._returns = read_parameters(
            fn, name=self.name, job_type=CurrentJob, supplied=self.dependencies.keys()
        )
        if self.resolved:
            self.compile({}, Hooks())

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
        self._result = Result(self, self._returns, hooks)
        self._check_follow_ups(self._levels)
        check_executor(self)

    @property
    def resolved(self) -> bool:
        """Whether every annotation is known, or some name is still to come from the app."""
        return all(parameter.kind is not Kind.UNRESOLVED for parameter in self.parameters)

    @property
    def payload(self) -> Payload:
        """The payload, compiled from the signature; at the first use, if the app has not done it yet."""
        if self._payload is None:
            self.compile({}, Hooks())
        return cast("Payload", self._payload)

    @property
    def result(self) -> Result:
        """How the task's results are stored and restored, by its return annotation."""
        if self._result is None:
            self.compile({}, Hooks())
        return cast("Result", self._result)

    def opened(self, stored: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A stored payload with its secrets readable.

        Raises:
            PayloadError: One is not encrypted, or with a key that is not there.
        """
        secrets = self.payload.secrets
        if secrets is None:
            return stored or {}
        try:
            opened: Mapping[str, Any] = secrets.open(stored or {}, self.keyring())
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
        return secrets.seal(payload, self.keyring()) if secrets else payload

    def identified(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """A payload of JSON's own types in which equal secrets are equal, and none can be read.

        Raises:
            ConfigurationError: The app has no keys.
        """
        secrets = self.payload.secrets
        return secrets.identified(payload, self.keyring().identity_key) if secrets else payload

    @property
    def has_secrets(self) -> bool:
        """Whether arguments or the result hold secrets."""
        return self.payload.secrets is not None or self.result.secrets is not None

    def keyring(self) -> Keyring:
        """The keys of the app that a call from here goes to.

        Raises:
            ConfigurationError: It has none.
        """
        keyring = self.registry.attachment().keyring
        if keyring is None:
            raise no_keys(self)
        return keyring

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
        levels = self.options_with(merged)
        check_together(levels, f"task {self.name!r}")
        if self._payload is not None:
            check_by(levels, self._payload.names, f"task {self.name!r}")
        return merged

    def stored_spec(
        self,
        payload: Mapping[str, Any],
        options: Mapping[str, Any],
        arguments: Callable[[Sequence[str] | None], Mapping[str, Any]] | None = None,
    ) -> JobSpec:
        """What a queue stores of a call.

        Args:
            payload: Its arguments, encoded and not encrypted yet.
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
        key = self.keyring().identity_key if self.payload.secrets else b""
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

    def _check_size(self, follow_ups: Any) -> None:
        limit = self._levels["payload_limit"]
        if follow_ups and (size := json_size(follow_ups)) > limit:
            raise PayloadError(
                self.name,
                f"the calls of on_success and on_failure have {size:,} bytes as JSON, with their own follow-ups, and "
                f"{limit:,} are allowed; let them take ids of data that is stored elsewhere, or raise the task's "
                "payload_limit",
            )

    def _check_follow_ups(self, options: Mapping[str, Any]) -> None:
        """Refuse placeholders that cannot be filled with what this task's jobs have when they end."""
        for call in options.get("on_success", ()):
            call.check_takes("on_success", "result", self._returns, f"what task {self.name!r} returns")
        for call in options.get("on_failure", ()):
            call.check_takes("on_failure", "error", str, "the error, which is a text,")


def no_keys(task: Declaration) -> ConfigurationError:
    """The error of a task that has secrets in an app that has no keys."""
    return ConfigurationError(
        f"task {task.name!r} ({task.source}) has a Secret, and there is no key to encrypt it with; set "
        "TasksConfig(secret_keys=[…]), and install litestar-tasks[secrets]"
    )


def _both(option: str, registry: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[Any, ...]:
    """An option of which a task has its registry's and its own."""
    return (*registry.get(option, ()), *task.get(option, ()))


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
