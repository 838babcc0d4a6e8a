from __future__ import annotations

from decimal import Decimal
from typing import Final

from msgspec import Struct

from app.payments.models import Currency
from app.schemas import Id

__all__ = ("Paid", "Pay", "PaymentView")

MOST: Final = Decimal(1_000_000)


class Pay(Struct, forbid_unknown_fields=True):
    user_id: Id
    amount: Decimal
    """As a text, such as "12.50": JSON's numbers are binary fractions in most languages."""
    currency: Currency

    def __post_init__(self) -> None:
        """Check what the type alone does not say."""
        if not (self.amount.is_finite() and 0 < self.amount <= MOST and self.amount == round(self.amount, 2)):
            raise ValueError(f"amount has to be more than 0, at most {MOST}, and in whole cents")


class PaymentView(Struct):
    id: int
    user_id: int
    amount: Decimal
    currency: Currency


class Paid(PaymentView):
    """A payment, and the job that sends its receipt."""

    job_id: str
