"""What ``litestar tasks migrate`` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import psycopg

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.postgres.connection import Endpoint
from litestar_tasks.queues.postgres.schema import LEDGER, STEPS, VERSION, done

__all__ = ("migrate",)

_LOCK: Final = 7_413_102_866
"""Of two that migrate at the same time, one waits."""


def migrate(url: str, say: Callable[[str], None]) -> None:
    """Bring the tables of a database to this release's version, one transaction for each step.

    Args:
        url: The database.
        say: Called with each line of what is done.

    Raises:
        BrokerError: The server cannot be reached, or refuses a statement.
        ConfigurationError: The URL cannot be read.
    """
    endpoint = Endpoint(url)
    say(f"Postgres at {endpoint.address}:")
    try:
        with psycopg.connect(endpoint.conninfo, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            connection.execute(LEDGER.encode())
            found = connection.execute("SELECT coalesce(max(version), 0) FROM litestar_tasks_schema").fetchone()
            version = int(found[0]) if found else 0
            for number, (what, statements) in enumerate(STEPS[version:], start=version + 1):
                with connection.transaction():
                    connection.execute(statements.encode())
                    connection.execute(done(number).encode())
                say(f"  version {number}: created {what}")
            if version > VERSION:
                say(f"  the tables are at version {version}, of a newer release; this one needs {VERSION}")
            elif version == VERSION:
                say(f"  the tables are at version {version} already")
    except psycopg.Error as error:
        raise BrokerError(f"Postgres at {endpoint.address} cannot be migrated: {str(error).strip()}") from error
