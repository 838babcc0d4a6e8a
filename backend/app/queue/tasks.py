"""Tasks that belong to no domain."""

from __future__ import annotations

import hashlib
from uuid import uuid4

from saq.types import Context

from app.mailbox import DRY_RUN, Mailbox
from app.queue.registry import task

__all__ = ("checksum", "ping", "send_email")


@task
async def ping() -> str:
    """The least a task can do: is there a worker?"""
    return "pong"


@task
def checksum(*, text: str) -> str:
    """The SHA-256 of a text. A plain function runs in a thread, where it keeps nobody waiting."""
    return hashlib.sha256(text.encode()).hexdigest()


@task(queue="emails", max_attempts=5)
async def send_email(
    ctx: Context, *, to: str, subject: str, body: str = "", mailbox: Mailbox = DRY_RUN
) -> dict[str, bool]:
    """Send one mail. The worker supplies ``mailbox``; called by hand without it, this is a dry run."""
    job = ctx.get("job")
    await mailbox.send(f"email-{job.key if job else uuid4()}", to=to, subject=subject, body=body)
    return {"sent": True}
