"""The database's upkeep: `python -m app.manage migrate|seed|prepare`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from advanced_alchemy.extensions.litestar import AlembicCommands
from sqlalchemy.engine import make_url

from app.campaigns.services import CampaignService
from app.db import database_config
from app.settings import Settings, SettingsError
from app.users.services import UserService

__all__ = ("main", "migrate", "prepare", "seed")

DEMO_USERS = {"Grace Hopper": "grace@example.com", "Alan Turing": "alan@example.com", "Mary Shaw": "mary@example.com"}
DEMO_CAMPAIGN = "Hello world"

WHAT_TO_TRY = """\
The API is described at http://localhost:{port}/schema, the jobs are at http://localhost:{port}/saq. To try:

  curl -s http://localhost:{port}/users -H 'content-type: application/json' \\
    -d '{{"name": "Ada Lovelace", "email": "ada@example.com"}}'
  curl -s http://localhost:{port}/jobs/<the job_id of its answer>
  curl -s -X POST http://localhost:{port}/campaigns/{campaign_id}/send

The mails are in {mailbox}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name."""
    commands = {"migrate": migrate, "seed": seed, "prepare": prepare}
    parser = argparse.ArgumentParser(prog="python -m app.manage", description="Looks after the database.")
    parser.add_argument(
        "command",
        choices=commands,
        help="migrate: create or update the tables; seed: add demo data where it is missing; prepare: both, and say "
        "what to try",
    )
    command = commands[parser.parse_args(arguments).command]
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        sys.exit(str(error))
    command(settings)


def migrate(settings: Settings) -> None:
    """Bring the database's tables to the newest revision; create an SQLite database that does not exist."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    AlembicCommands(database_config(settings)).upgrade()


def seed(settings: Settings) -> int:
    """Add demo users and a campaign for them, where they are missing.

    Returns:
        The campaign's id.
    """
    return asyncio.run(_seed(settings))


def prepare(settings: Settings) -> None:
    """Migrate and seed, and say what to try."""
    migrate(settings)
    campaign_id = seed(settings)
    sys.stdout.write(WHAT_TO_TRY.format(port=settings.port, campaign_id=campaign_id, mailbox=settings.mailbox))


async def _seed(settings: Settings) -> int:
    config = database_config(settings)
    try:
        async with config.get_session() as session:
            users, campaigns = UserService(session=session), CampaignService(session=session)
            for name, email in DEMO_USERS.items():
                if not await users.exists(email=email):
                    await users.sign_up(name, email)
            campaign = await campaigns.get_one_or_none(name=DEMO_CAMPAIGN)
            if campaign is None:
                campaign = await campaigns.draft(DEMO_CAMPAIGN, "Hello from a job", "This mail came from a worker.")
            await session.commit()
            return campaign.id
    finally:
        await config.get_engine().dispose()


if __name__ == "__main__":
    main()
