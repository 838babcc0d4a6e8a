from __future__ import annotations

from decimal import Decimal
from typing import Literal

from advanced_alchemy.base import IdentityAuditBase
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

__all__ = ("Currency", "Payment")

Currency = Literal["EUR", "GBP", "USD"]
"""Currencies of a hundred cents each."""


class Payment(IdentityAuditBase):
    __tablename__ = "payments"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    # Whole cents: exact in every database. SQLite has no decimal numbers.
    cents: Mapped[int]
    currency: Mapped[Currency] = mapped_column(String(3))

    @property
    def amount(self) -> Decimal:
        return Decimal(self.cents).scaleb(-2)
