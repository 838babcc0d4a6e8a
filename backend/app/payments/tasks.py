from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import formataddr
from typing import Final

from msgspec import Struct
from saq.types import Context

from app.mailbox import Mailbox
from app.payments.models import Currency
from app.payments.services import PaymentService
from app.queue.registry import scheduled_task, task
from litestar_tasks import INJECTED

__all__ = ("Receipt", "send_receipt", "weekly_report")

REPORT_TO: Final = "team@example.com"


class Receipt(Struct):
    """What `await job.result()` gives back, as this class."""

    payment_id: int
    sent_to: str
    amount: Decimal
    currency: Currency


@task(queue="emails", timeout=30, max_attempts=5)
async def send_receipt(*, payment_id: int, payments: PaymentService = INJECTED, mailbox: Mailbox = INJECTED) -> Receipt:
    """Mail the receipt for a payment."""
    payment = await payments.get(payment_id)
    user = await payments.get_payer(payment)
    await mailbox.send(
        f"receipt-{payment_id}",
        to=formataddr((user.name, user.email)),
        subject=f"Your receipt, no. {payment_id}",
        body=f"Hello {user.name},\n\nwe received {payment.amount} {payment.currency}. Thank you!\n",
    )
    return Receipt(payment_id=payment_id, sent_to=user.email, amount=payment.amount, currency=payment.currency)


@scheduled_task(cron="0 9 * * 1", timezone="Europe/Berlin", timeout=1800)
async def weekly_report(
    ctx: Context, *, payments: PaymentService = INJECTED, mailbox: Mailbox = INJECTED
) -> dict[str, int]:
    """Every Monday: mail the team what was paid in the last seven days."""
    now = datetime.now(UTC)
    totals = await payments.totals(since=now - timedelta(days=7))
    lines = [f"{total} {currency}" for currency, total in totals.items()] or ["nothing"]
    await mailbox.send(
        f"weekly-report-{now:%G-W%V}",
        to=REPORT_TO,
        subject=f"Payments until {now:%d %B %Y}",
        body="Received in the last seven days:\n\n" + "\n".join(lines) + "\n",
    )
    return {"sent": 1}
