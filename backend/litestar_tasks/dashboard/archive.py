"""Asking the history: within a deadline, and with errors that say no more than people should read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from litestar.exceptions import HTTPException, ServiceUnavailableException

from litestar_tasks.dashboard.explained import Explained
from litestar_tasks.dashboard.redaction import printable
from litestar_tasks.exceptions import (
    ConfigurationError,
    JobError,
    JobNotFoundError,
    PayloadError,
    QueueUnavailableError,
    UnknownTaskError,
)
from litestar_tasks.redaction import masked_text

if TYPE_CHECKING:
    from litestar_tasks.outbox.history import JobHistory

__all__ = ("Archive",)

logger = logging.getLogger("litestar_tasks.dashboard")

_DEADLINE: Final = 5.0
_AWAY: Final = "The history's database does not answer"


class Archive:
    """The app's history, for who looks at the dashboard.

    Args:
        get: Hands out the history of the app that runs.
    """

    def __init__(self, get: Callable[[], JobHistory]) -> None:
        self._get = get
        self._away = False

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[JobHistory, None]:
        """The history, bounded in time; says what went wrong without saying more than that.

        Raises:
            Explained: The database did not answer, or not in time; or nothing is recorded of that job.
            HTTPException: Status 409: what was asked for cannot be done as things are.
            ServiceUnavailableException: The broker did not answer.
            PayloadError, ConfigurationError: What was given does not fit.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                yield self._get()
        except (HTTPException, PayloadError, ConfigurationError):
            raise
        except JobNotFoundError as error:
            raise Explained(
                f"Nothing is recorded of job {printable(error.job_id)!r}.",
                status_code=404,
                title="The history does not know it",
                hint="A job is recorded half a second after it was enqueued, one that was enqueued in a transaction "
                "from its first attempt on. What is older than the history's keep is removed.",
            ) from error
        except (JobError, UnknownTaskError) as error:
            raise HTTPException(f"{str(error)[:1].upper()}{str(error)[1:]}.", status_code=409) from error
        except QueueUnavailableError as error:
            raise ServiceUnavailableException(
                "The broker did not answer, so nothing was enqueued. Is it running? The server's log says more."
            ) from error
        except TimeoutError as error:
            raise Explained(
                f"It gave no answer within {_DEADLINE:.0f} seconds.",
                status_code=503,
                title=f"{_AWAY} in time",
                hint="If it is only slow, narrow the search by a task, a status, a tag or a time: those have indexes, "
                "a text has none. Jobs do not wait for it.",
            ) from error
        except Exception as error:  # the database's own, of a library that is not known here
            self._say(error)
            raise Explained(
                "It is away, or its tables are missing. The server's log says which.",
                status_code=503,
                title=_AWAY,
                hint="Jobs go on without it, and what happens to them is recorded when it is back; what comes to be "
                "too much meanwhile is counted as a gap. The other pages work, and this one tries again by itself.",
            ) from error
        else:
            self._away = False

    def _say(self, error: Exception) -> None:
        """Log an outage once, however often the page of somebody asks again."""
        if not self._away:
            from litestar_tasks.outbox.database import reason_of  # loaded already where there is a history

            logger.warning("the history's database does not answer: %s", masked_text(reason_of(error)))
        self._away = True
