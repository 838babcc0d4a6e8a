"""Traces that go on from a request to its jobs, and from a job to its child jobs, with OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from litestar_tasks.correlation import CORRELATION
from litestar_tasks.current import CurrentJob
from litestar_tasks.job import JobSpec
from litestar_tasks.middleware import CallNext
from litestar_tasks.redaction import masked_end
from litestar_tasks.retry import Discard, Retry, Snooze

try:
    from opentelemetry.context import Context, get_current
    from opentelemetry.trace import SpanKind, StatusCode, TracerProvider, get_tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        f"litestar_tasks.telemetry needs OpenTelemetry's API, which cannot be loaded ({error}); "
        "install litestar-tasks[opentelemetry]"
    ) from error

__all__ = ("Tracing",)

_W3C: Final = TraceContextTextMapPropagator()
"""Not the propagator that is set globally: its headers are for requests, and baggage has no place in a stored job."""
_FIELDS: Final = ("traceparent", "tracestate")
"""What a job's ``meta`` carries of its trace."""
_LONGEST: Final = 1_000
"""Characters of an error's message that a span keeps."""


class Tracing:
    """A span for every enqueue and every attempt.

    Both halves belong into ``TasksConfig``, or onto a registry or a task::

        tracing = Tracing()
        TasksConfig(registry=registry, middleware=[tracing.attempt], on_enqueue=[tracing.enqueue])

    An enqueue is a child of the span that is current where it happens, such as the request's that litestar's
    OpenTelemetry plugin began. Its ``traceparent`` travels in the job's ``meta``, and every attempt is a child of it,
    in whichever process it runs; what the task enqueues is a child of the attempt.

    Args:
        tracer_provider: Where spans are made. Defaults to None: the provider that is set globally, now or later.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer("litestar_tasks", version("litestar-tasks"), tracer_provider)

    def enqueue(self, spec: JobSpec) -> None:
        """For ``on_enqueue``: make a span of a call, and let it travel with the job.

        It ends before the call is stored, which may fail; that is an error of the span around it.
        """
        with self._tracer.start_as_current_span(
            f"enqueue {spec.task}",
            # A call that has a trace of its own, since it was prepared elsewhere, goes on with that.
            context=_W3C.extract(_carried(spec.meta), get_current()),
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": "litestar_tasks",
                "messaging.operation.name": "enqueue",
                "messaging.operation.type": "create",
                "litestar_tasks.task": spec.task,
            },
        ):
            carrier: dict[str, str] = {}
            _W3C.inject(carrier)
        if carrier:
            spec.meta = {**spec.meta, **carrier}

    async def attempt(self, job: CurrentJob, call_next: CallNext) -> Any:
        """For ``middleware``: make a span of an attempt.

        An exception is noted with its type and its message, masked as in the job's record. ``Retry``, ``Snooze`` and
        ``Discard`` are no errors; nor is an abort.
        """
        meta = job.meta
        attributes: dict[str, str | int] = {
            "messaging.system": "litestar_tasks",
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.message.id": job.id,
            "litestar_tasks.task": job.task,
            "litestar_tasks.attempt": job.attempt,
        }
        if isinstance(correlation := meta.get(CORRELATION), str):
            attributes["messaging.message.conversation_id"] = correlation
        with self._tracer.start_as_current_span(
            f"run {job.task}",
            # Where the job has no trace, it begins one: what is current in the worker is none of its business.
            context=_W3C.extract(_carried(meta), Context()),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await call_next()
            except (Retry, Snooze, Discard):
                raise
            except Exception as error:
                kind, message = type(error).__qualname__, masked_end(str(error), _LONGEST)
                span.set_attribute("error.type", kind)
                span.add_event("exception", {"exception.type": kind, "exception.message": message})
                span.set_status(StatusCode.ERROR, f"{kind}: {message}")
                raise


def _carried(meta: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name in _FIELDS if isinstance(text := meta.get(name), str)}
