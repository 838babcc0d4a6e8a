"""How the results of a task are stored and restored."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from litestar_tasks.codec import Codec, Hooks, UnstorableTypeError, json_size, split_path, unstorable
from litestar_tasks.exceptions import InvalidTaskError
from litestar_tasks.secret import Secrets, secrets_of

if TYPE_CHECKING:
    from litestar_tasks.task.declaration import Declaration

__all__ = ("Result",)


class Result:
    """The result of one task, compiled from its return annotation.

    Args:
        task: The task.
        annotation: What it returns.
        hooks: How the app stores types that msgspec does not know.

    Attributes:
        secrets: Which parts of it are stored encrypted; None where there are none.

    Raises:
        InvalidTaskError: It cannot be stored.
    """

    def __init__(self, task: Declaration, annotation: Any, hooks: Hooks) -> None:
        self._task = task
        self._annotation = annotation
        self._limit: int = task.option("result_limit")
        try:
            if (foreign := unstorable(annotation, hooks)) is not None:
                raise UnstorableTypeError(f"an object of the class {foreign.__name__} cannot be stored")
            self._codec: Codec[Any] = Codec(annotation, hooks)
            self.secrets = secrets_of(annotation)
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(
                f"task {task.name!r} ({task.source}): its result cannot be stored: {error}; return data that JSON can "
                "hold, such as an id"
            ) from error

    def encode(self, value: Any) -> Any:
        """What a queue stores of a result.

        Raises:
            ValueError, TypeError, RecursionError: It does not fit the return annotation, cannot be stored, or is too
                large.
        """
        secrets = self.secrets
        stored, size = _quoting_nothing(self._measured, value, secrets) if secrets else self._measured(value)
        if size > self._limit:
            raise ValueError(
                f"it has {size:,} bytes as JSON, and {self._limit:,} are allowed; store it elsewhere and return its "
                "id, or raise the task's result_limit"
            )
        return secrets.seal(stored, self._task.keyring()) if secrets else stored

    def problem(self, error: Exception) -> str:
        """What is wrong with a result, by the error of ``encode``."""
        message, path = split_path(error)
        if path:
            message += f" (at {path})"
        if message.startswith("expected "):
            message += f"; the task is annotated '-> {inspect.formatannotation(self._annotation)}'"
        return message

    def decode(self, stored: Any) -> Any:
        """What the task returned, restored from what ``encode`` made of it.

        Raises:
            ValueError, TypeError: It does not fit the return annotation of this release, or cannot be decrypted.
        """
        if self.secrets is None:
            return self._codec.decode(stored)
        return _quoting_nothing(self._codec.decode, self.secrets.open(stored, self._task.keyring()), self.secrets)

    def _measured(self, value: Any) -> tuple[Any, int]:
        stored = self._codec.encode_unchecked(value)
        return stored, 0 if stored is None else json_size(stored)


def _quoting_nothing(work: Callable[[Any], Any], value: Any, secrets: Secrets) -> Any:
    """Encode or decode a value, with errors that do not quote its secrets."""
    problem = ""
    try:
        return work(value)
    except Exception as error:  # also what the value's own classes raise
        message, path = secrets.problem(error)
        problem = f"{message} - at `{path}`" if path else message
    raise ValueError(problem)  # outside, so that the error that quotes them is no part of it
