from __future__ import annotations

from collections.abc import Sequence

from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from litestar.di import NamedDependency
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.campaigns.models import Campaign, Recipient
from app.users.models import User

__all__ = ("CampaignService", "provide_campaigns")


class CampaignRepository(SQLAlchemyAsyncRepository[Campaign]):
    model_type = Campaign


class CampaignService(SQLAlchemyAsyncRepositoryService[Campaign, CampaignRepository]):
    """What can be done with campaigns. Nothing is committed here: the caller says when."""

    repository_type = CampaignRepository

    async def draft(self, name: str, subject: str, body: str) -> Campaign:
        """Add a campaign for all users there are now, but for suspended ones.

        Raises:
            DuplicateKeyError: There is a campaign of this name.
        """
        campaign = await self.create(
            {"name": name, "subject": subject, "body": body},
            error_messages={"duplicate_key": f"There is a campaign named {name} already."},
        )
        users = await self.repository.session.scalars(select(User.id).where(User.status != "suspended"))
        self.repository.session.add_all(Recipient(campaign_id=campaign.id, user_id=user_id) for user_id in users)
        await self.repository.session.flush()
        return campaign

    async def unsent(self, campaign_id: int) -> Sequence[int]:
        """The ids of the recipients who have not got their mail yet."""
        waiting = select(Recipient.id).where(Recipient.campaign_id == campaign_id, Recipient.sent_at.is_(None))
        return (await self.repository.session.scalars(waiting.order_by(Recipient.id))).all()

    async def counts(self, campaign_id: int) -> tuple[int, int]:
        """How many recipients there are, and how many of them have got their mail."""
        counts = select(func.count(), func.count(Recipient.sent_at)).where(Recipient.campaign_id == campaign_id)
        recipients, sent = (await self.repository.session.execute(counts)).one()
        return recipients, sent

    async def get_mail(self, recipient_id: int) -> tuple[Recipient, Campaign, User]:
        """All that a recipient's mail is made of.

        Raises:
            NoResultFound: The recipient was deleted.
        """
        mail = (
            select(Recipient, Campaign, User)
            .join(Campaign, Campaign.id == Recipient.campaign_id)
            .join(User, User.id == Recipient.user_id)
            .where(Recipient.id == recipient_id)
        )
        recipient, campaign, user = (await self.repository.session.execute(mail)).one()
        return recipient, campaign, user


def provide_campaigns(db_session: NamedDependency[AsyncSession]) -> CampaignService:
    return CampaignService(session=db_session)
