from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import formataddr
from typing import Final

from saq.types import Context
from sqlalchemy.ext.asyncio import AsyncSession

from app.mailbox import DRY_RUN, Mailbox
from app.queue.registry import scheduled_task, task
from app.users.models import User, UserStatus
from app.users.services import UserService
from litestar_tasks import INJECTED

__all__ = ("cleanup_old_records", "send_welcome_email", "update_user_status")

HISTORY_IS_KEPT: Final = timedelta(days=90)


@task(max_attempts=5)
async def send_welcome_email(
    ctx: Context, *, user_id: int, users: UserService | None = None, mailbox: Mailbox = DRY_RUN
) -> dict[str, str]:
    """Welcome somebody who has just signed up.

    The worker supplies ``users`` and ``mailbox``. Called by hand without them, as in a unit test, this is a dry run:
    it composes a mail to a sample user, and sends nothing.
    """
    if users is None:
        user: User | None = User(id=user_id, name="Sample User", email="sample@example.com")
    else:
        user = await users.get_one_or_none(id=user_id)
    if user is None:
        return {"status": "skipped", "reason": "user_not_found"}
    await mailbox.send(
        f"welcome-{user_id}",
        to=formataddr((user.name, user.email)),
        subject=f"Welcome, {user.name}!",
        body=f"Hello {user.name},\n\nit is good to have you here.\n",
    )
    return {"status": "sent", "to": user.email}


@task
async def update_user_status(
    ctx: Context, *, user_id: int, status: UserStatus, db_session: AsyncSession
) -> dict[str, int]:
    """Change a user's status. The session is this attempt's own: it commits if this returns, and rolls back if not."""
    user = await UserService(session=db_session).set_status(user_id, status)
    return {"updated": user.id}


@scheduled_task(cron="0 2 * * *", timezone="Europe/Berlin", timeout=900, kwargs={"batch_size": 100})
async def cleanup_old_records(
    ctx: Context, *, batch_size: int = 50, db_session: AsyncSession = INJECTED
) -> dict[str, int]:
    """Every night: forget how users' statuses changed long ago, in batches that hold no lock for long."""
    before = datetime.now(UTC) - HISTORY_IS_KEPT
    users = UserService(session=db_session)
    deleted = 0
    while count := await users.delete_status_changes(before=before, limit=batch_size):
        await db_session.commit()
        deleted += count
    return {"deleted": deleted}
