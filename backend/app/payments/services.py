from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from litestar.di import NamedDependency
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.payments.models import Currency, Payment
from app.users.models import User

__all__ = ("PaymentService", "provide_payments")


class PaymentRepository(SQLAlchemyAsyncRepository[Payment]):
    model_type = Payment


class PaymentService(SQLAlchemyAsyncRepositoryService[Payment, PaymentRepository]):
    """What can be done with payments. Nothing is committed here: the caller says when."""

    repository_type = PaymentRepository

    async def record(self, user_id: int, amount: Decimal, currency: Currency) -> Payment:
        """Add a payment.

        Raises:
            ForeignKeyError: There is no such user.
        """
        return await self.create(
            {"user_id": user_id, "cents": int(amount * 100), "currency": currency},
            error_messages={"foreign_key": f"There is no user {user_id}."},
        )

    async def get_payer(self, payment: Payment) -> User:
        return await self.repository.session.get_one(User, payment.user_id)

    async def totals(self, *, since: datetime) -> dict[str, Decimal]:
        """What was paid since a moment, by currency."""
        paid = select(Payment.currency, func.sum(Payment.cents)).where(Payment.created_at >= since)
        rows = await self.repository.session.execute(paid.group_by(Payment.currency).order_by(Payment.currency))
        return {currency: Decimal(cents).scaleb(-2) for currency, cents in rows}


def provide_payments(db_session: NamedDependency[AsyncSession]) -> PaymentService:
    return PaymentService(session=db_session)
