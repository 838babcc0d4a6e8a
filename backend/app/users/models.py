from __future__ import annotations

from typing import Literal

from advanced_alchemy.base import IdentityAuditBase
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

__all__ = ("StatusChange", "User", "UserStatus")

UserStatus = Literal["pending", "active", "suspended"]


class User(IdentityAuditBase):
    __tablename__ = "users"

    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(254), unique=True)
    status: Mapped[UserStatus] = mapped_column(String(20), default="pending")


class StatusChange(IdentityAuditBase):
    """The history of users' statuses, of which only the recent part is kept: see ``cleanup_old_records``."""

    __tablename__ = "user_status_changes"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    status: Mapped[UserStatus] = mapped_column(String(20))
