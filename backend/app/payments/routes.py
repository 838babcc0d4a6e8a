from __future__ import annotations

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from sqlalchemy.ext.asyncio import AsyncSession

from app.payments.schemas import Paid, Pay, PaymentView
from app.payments.services import PaymentService
from app.payments.tasks import send_receipt
from app.schemas import PathId

__all__ = ("PaymentController",)


class PaymentController(Controller):
    path = "/payments"
    tags = ("Payments",)

    @post(summary="Record a payment")
    async def pay(
        self,
        data: JSONBody[Pay],
        payments: NamedDependency[PaymentService],
        db_session: NamedDependency[AsyncSession],
    ) -> Paid:
        """Record it, and mail the receipt."""
        payment = await payments.record(data.user_id, data.amount, data.currency)
        # Part of the payment's transaction: there is no payment without a receipt, whatever process or server dies, and
        # no receipt for a payment that was rolled back. While the broker is away the job waits in the database.
        job = await send_receipt.using(session=db_session).enqueue(payment_id=payment.id)
        await db_session.commit()
        return Paid(
            id=payment.id,
            user_id=payment.user_id,
            amount=payment.amount,
            currency=payment.currency,
            job_id=job.id,
        )

    @get("/{payment_id:int}", summary="Get a payment")
    async def get_payment(self, payment_id: PathId, payments: NamedDependency[PaymentService]) -> PaymentView:
        payment = await payments.get(payment_id)
        return PaymentView(id=payment.id, user_id=payment.user_id, amount=payment.amount, currency=payment.currency)
