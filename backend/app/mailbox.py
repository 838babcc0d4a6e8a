"""Where mails go: a folder of ``.eml`` files. Give this class another inside to send them for real."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, formataddr
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import uuid4

__all__ = ("DRY_RUN", "Mailbox")

SENDER: Final = formataddr(("Litestar Tasks", "app@example.com"))


class Mailbox:
    """Writes each mail into a file of its own.

    Args:
        folder: Where; it is created with the first mail. None: mails are composed and thrown away.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    async def send(self, name: str, *, to: str, subject: str, body: str) -> None:
        """Send a mail once, however often this is called.

        A job can run twice (its worker may die after the mail and before the end), so the mail's name has to follow
        from what it is about, such as ``welcome-7``: the second one takes the place of the first. With a mail service
        it would be the idempotency key.

        Args:
            name: Names the mail and its file.
            to: The recipient, as in a ``To:`` line.
            subject: The subject.
            body: The text.
        """
        mail = EmailMessage()
        mail["From"] = SENDER
        mail["To"] = _line(to)
        mail["Subject"] = _line(subject)
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail.set_content(body)
        if self._folder is not None:
            await asyncio.to_thread(_write, self._folder / f"{quote(name, safe='')}.eml", bytes(mail))


DRY_RUN: Final = Mailbox(None)
"""A mailbox that sends nothing, for tasks that are called by hand."""


def _line(text: str) -> str:
    """A text without line breaks, which would begin another header."""
    return " ".join(text.split())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{uuid4().hex}")
    draft.write_bytes(content)
    draft.replace(path)  # in one step: nobody sees half a mail
