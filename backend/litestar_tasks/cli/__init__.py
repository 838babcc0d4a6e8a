"""``litestar workers …`` and ``litestar tasks …``.

Child processes start here, too (``process``), and have no use for click: it is loaded with the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from click import Group

__all__ = ("add_commands",)


def add_commands(cli: Group) -> None:
    """Add the groups ``workers`` and ``tasks`` to Litestar's command line."""
    from litestar_tasks.cli.tasks import add_tasks
    from litestar_tasks.cli.workers import add_workers

    add_workers(cli)
    add_tasks(cli)
