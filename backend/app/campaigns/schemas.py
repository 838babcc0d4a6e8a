from __future__ import annotations

from msgspec import Struct

from app.schemas import Line, Text

__all__ = ("CampaignView", "DraftCampaign")


class DraftCampaign(Struct, forbid_unknown_fields=True):
    name: Line
    subject: Line
    body: Text


class CampaignView(Struct):
    id: int
    name: str
    recipients: int
    sent: int
    """How many of the recipients have got their mail."""
