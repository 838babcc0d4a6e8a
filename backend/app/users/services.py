from __future__ import annotations

from datetime import datetime

from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from litestar.di import NamedDependency
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.models import StatusChange, User, UserStatus

__all__ = ("UserService", "provide_users")


class UserRepository(SQLAlchemyAsyncRepository[User]):
    model_type = User


class UserService(SQLAlchemyAsyncRepositoryService[User, UserRepository]):
    """What can be done with users. Nothing is committed here: the caller says when."""

    repository_type = UserRepository

    async def sign_up(self, name: str, email: str) -> User:
        """Add a user.

        Raises:
            DuplicateKeyError: Somebody signed up with this address.
        """
        return await self.create(
            {"name": name, "email": email.lower(), "status": "pending"},
            error_messages={"duplicate_key": f"Somebody signed up as {email} already."},
        )

    async def set_status(self, user_id: int, status: UserStatus) -> User:
        """Change a user's status, and note the change.

        Raises:
            NotFoundError: There is no such user.
        """
        user = await self.update({"status": status}, item_id=user_id)
        self.repository.session.add(StatusChange(user_id=user_id, status=status))
        return user

    async def delete_status_changes(self, *, before: datetime, limit: int) -> int:
        """Delete the oldest notes of status changes, and return how many there were to delete."""
        session = self.repository.session
        oldest = select(StatusChange.id).where(StatusChange.created_at < before).order_by(StatusChange.id).limit(limit)
        ids = (await session.scalars(oldest)).all()
        await session.execute(delete(StatusChange).where(StatusChange.id.in_(ids)))
        return len(ids)


def provide_users(db_session: NamedDependency[AsyncSession]) -> UserService:
    return UserService(session=db_session)
