from __future__ import annotations

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.status_codes import HTTP_202_ACCEPTED
from sqlalchemy.ext.asyncio import AsyncSession

from app.campaigns.models import Campaign
from app.campaigns.schemas import CampaignView, DraftCampaign
from app.campaigns.services import CampaignService
from app.campaigns.tasks import send_campaign
from app.jobs.schemas import Enqueued
from app.schemas import PathId

__all__ = ("CampaignController",)


class CampaignController(Controller):
    path = "/campaigns"
    tags = ("Campaigns",)

    @post(summary="Draft a campaign")
    async def draft(
        self,
        data: JSONBody[DraftCampaign],
        campaigns: NamedDependency[CampaignService],
        db_session: NamedDependency[AsyncSession],
    ) -> CampaignView:
        """Its recipients are all users there are now, but for suspended ones."""
        campaign = await campaigns.draft(data.name, data.subject, data.body)
        await db_session.commit()
        return await _view(campaign, campaigns)

    @get("/{campaign_id:int}", summary="Get a campaign")
    async def get_campaign(self, campaign_id: PathId, campaigns: NamedDependency[CampaignService]) -> CampaignView:
        return await _view(await campaigns.get(campaign_id), campaigns)

    @post("/{campaign_id:int}/send", summary="Send a campaign", status_code=HTTP_202_ACCEPTED)
    async def send(self, campaign_id: PathId, campaigns: NamedDependency[CampaignService]) -> Enqueued:
        """Mail all recipients who have not got their mail yet. While that goes on, a second call changes nothing."""
        await campaigns.get(campaign_id)
        job = await send_campaign.using(key=f"campaign-{campaign_id}").enqueue(campaign_id=campaign_id)
        return Enqueued(job_id=job.id)


async def _view(campaign: Campaign, campaigns: CampaignService) -> CampaignView:
    recipients, sent = await campaigns.counts(campaign.id)
    return CampaignView(id=campaign.id, name=campaign.name, recipients=recipients, sent=sent)
