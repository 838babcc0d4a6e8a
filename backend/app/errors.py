"""What clients get for the errors that services and tasks raise."""

from __future__ import annotations

from typing import Any, Final

from advanced_alchemy.exceptions import DuplicateKeyError, ForeignKeyError, NotFoundError
from litestar import Request, Response
from litestar.status_codes import HTTP_404_NOT_FOUND, HTTP_409_CONFLICT, HTTP_422_UNPROCESSABLE_ENTITY
from litestar.types import ExceptionHandlersMap

from litestar_tasks import JobNotFoundError

__all__ = ("exception_handlers",)

Handled = Response[dict[str, Any]]


def not_found(_: Request[Any, Any, Any], error: NotFoundError) -> Handled:
    return _answer(HTTP_404_NOT_FOUND, error.detail)


def conflict(_: Request[Any, Any, Any], error: DuplicateKeyError) -> Handled:
    return _answer(HTTP_409_CONFLICT, error.detail)


def bad_reference(_: Request[Any, Any, Any], error: ForeignKeyError) -> Handled:
    return _answer(HTTP_422_UNPROCESSABLE_ENTITY, error.detail)


def job_not_found(_: Request[Any, Any, Any], error: JobNotFoundError) -> Handled:
    return _answer(HTTP_404_NOT_FOUND, str(error))


exception_handlers: Final[ExceptionHandlersMap] = {
    NotFoundError: not_found,
    DuplicateKeyError: conflict,
    ForeignKeyError: bad_reference,
    JobNotFoundError: job_not_found,
}
"""For ``Litestar(exception_handlers=…)``. A broker that is away is answered with 503 by ``TasksPlugin``."""


def _answer(status_code: int, detail: str) -> Handled:
    return Response({"status_code": status_code, "detail": detail}, status_code=status_code)
