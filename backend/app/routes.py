"""All routes of the app. The dashboard at /saq and the API's description at /schema come with plugins."""

from __future__ import annotations

from typing import Final

from litestar.types import ControllerRouterHandler

from app.campaigns.routes import CampaignController
from app.health import health
from app.jobs.routes import JobController
from app.payments.routes import PaymentController
from app.users.routes import UserController

__all__ = ("handlers",)

handlers: Final[list[ControllerRouterHandler]] = [
    UserController,
    PaymentController,
    CampaignController,
    JobController,
    health,
]
