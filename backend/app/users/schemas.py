from __future__ import annotations

from msgspec import Struct

from app.schemas import Email, Line
from app.users.models import UserStatus

__all__ = ("ChangeStatus", "SignUp", "SignedUp", "UserView")


class SignUp(Struct, forbid_unknown_fields=True):
    name: Line
    email: Email


class ChangeStatus(Struct, forbid_unknown_fields=True):
    status: UserStatus


class UserView(Struct):
    id: int
    name: str
    email: str
    status: UserStatus


class SignedUp(UserView):
    """A new user, and the job that welcomes them."""

    job_id: str
