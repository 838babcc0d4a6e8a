from __future__ import annotations

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.status_codes import HTTP_202_ACCEPTED
from sqlalchemy.ext.asyncio import AsyncSession

from app.jobs.schemas import Enqueued
from app.schemas import PathId
from app.users.schemas import ChangeStatus, SignedUp, SignUp, UserView
from app.users.services import UserService
from app.users.tasks import send_welcome_email
from litestar_tasks import TaskQueues

__all__ = ("UserController",)


class UserController(Controller):
    path = "/users"
    tags = ("Users",)

    @post(summary="Sign up")
    async def sign_up(
        self, data: JSONBody[SignUp], users: NamedDependency[UserService], db_session: NamedDependency[AsyncSession]
    ) -> SignedUp:
        """Add a user, and send a mail to welcome them."""
        user = await users.sign_up(data.name, data.email)
        # Commit, then enqueue: a worker may start the job at once, and finds only rows that are committed. The other
        # way round it could also welcome somebody whose sign-up was rolled back. The price: if the broker is away just
        # now, the client gets 503, and the user is there without a mail.
        await db_session.commit()
        job = await send_welcome_email.enqueue(user_id=user.id)
        return SignedUp(id=user.id, name=user.name, email=user.email, status=user.status, job_id=job.id)

    @get("/{user_id:int}", summary="Get a user")
    async def get_user(self, user_id: PathId, users: NamedDependency[UserService]) -> UserView:
        return users.to_schema(await users.get(user_id), schema_type=UserView)

    @post("/{user_id:int}/status", summary="Change a user's status", status_code=HTTP_202_ACCEPTED)
    async def change_status(
        self,
        user_id: PathId,
        data: JSONBody[ChangeStatus],
        users: NamedDependency[UserService],
        task_queues: NamedDependency[TaskQueues],
    ) -> Enqueued:
        """Change it in the background, by a job that is enqueued by its task's name."""
        await users.get(user_id)
        job = await task_queues.get("default").enqueue("update_user_status", user_id=user_id, status=data.status)
        return Enqueued(job_id=job.id)
