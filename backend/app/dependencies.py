"""What routes and tasks get by the name of a parameter, beside Advanced Alchemy's `db_session`."""

from __future__ import annotations

from litestar.di import Provide

from app.campaigns.services import provide_campaigns
from app.mailbox import Mailbox
from app.payments.services import provide_payments
from app.settings import Settings
from app.users.services import provide_users

__all__ = ("dependencies",)


def dependencies(settings: Settings) -> dict[str, Provide]:
    """For ``Litestar(dependencies=…)``."""
    mailbox = Mailbox(settings.mailbox)

    def provide_mailbox() -> Mailbox:
        return mailbox

    return {
        "users": Provide(provide_users, sync_to_thread=False),
        "payments": Provide(provide_payments, sync_to_thread=False),
        "campaigns": Provide(provide_campaigns, sync_to_thread=False),
        "mailbox": Provide(provide_mailbox, sync_to_thread=False),
    }
