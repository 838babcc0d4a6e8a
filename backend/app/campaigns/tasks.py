from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import formataddr

from saq.types import Context
from sqlalchemy.ext.asyncio import AsyncSession

from app.campaigns.services import CampaignService
from app.mailbox import Mailbox
from app.queue.registry import task
from litestar_tasks import INJECTED, CurrentJob, JobError, JobHandle, enqueue_many

__all__ = ("send_campaign", "send_campaign_mail")


@task(timeout=3600)
async def send_campaign(
    ctx: Context,
    *,
    campaign_id: int,
    batch_size: int = 100,
    job: CurrentJob = INJECTED,
    db_session: AsyncSession = INJECTED,
) -> dict[str, int]:
    """Send a campaign's mails by a job for each recipient, a batch at a time, and say how far it has come.

    It can be run again at any time, and sends what has not been sent.
    """
    recipients = await CampaignService(session=db_session).unsent(campaign_id)
    await db_session.commit()  # gives the connection back: what follows takes long, and reads nothing
    sent = 0
    for start in range(0, len(recipients), batch_size):
        batch = recipients[start : start + batch_size]
        # The key lets no recipient have two of these jobs at the same time.
        mails = await enqueue_many(
            send_campaign_mail.using(key=f"campaign-mail-{recipient_id}").bind(recipient_id=recipient_id)
            for recipient_id in batch
        )
        sent += sum(await asyncio.gather(*(_succeeds(mail) for mail in mails)))
        await job.set_progress((start + len(batch)) / len(recipients))
    return {"sent": sent, "failed": len(recipients) - sent}


@task(queue="emails", timeout=30, max_attempts=5)
async def send_campaign_mail(
    *, recipient_id: int, campaigns: CampaignService = INJECTED, mailbox: Mailbox = INJECTED
) -> None:
    """Send one recipient's mail, and note that it was sent."""
    recipient, campaign, user = await campaigns.get_mail(recipient_id)
    await mailbox.send(
        f"campaign-{campaign.id}-{user.id}",
        to=formataddr((user.name, user.email)),
        subject=campaign.subject,
        body=f"Hello {user.name},\n\n{campaign.body}\n",
    )
    recipient.sent_at = datetime.now(UTC)


async def _succeeds(mail: JobHandle[None]) -> bool:
    try:
        await mail.result()
    except JobError:  # it failed, was aborted, or its record is gone: the other mails go on
        return False
    return True
