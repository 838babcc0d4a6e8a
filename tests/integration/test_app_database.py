"""The reference application's tables and the commands that keep them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from advanced_alchemy.extensions.litestar import AlembicCommands
from sqlalchemy.engine import make_url

from app import manage
from app.db import database_config
from app.manage import migrate, prepare, seed
from app.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}", port=8123)


def tables(settings: Settings) -> set[str]:
    connection = sqlite3.connect(make_url(settings.database_url).database or "")
    try:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def test_the_migrations_make_the_tables_of_the_models(settings: Settings) -> None:
    migrate(settings)
    AlembicCommands(database_config(settings)).check()  # raises where autogenerate finds a difference


def test_the_migrations_can_be_taken_back(settings: Settings) -> None:
    migrate(settings)
    assert {"users", "payments", "campaigns"} < tables(settings)
    AlembicCommands(database_config(settings)).downgrade("base")
    assert tables(settings) == {"alembic_versions"}
    migrate(settings)
    assert {"users", "payments", "campaigns"} < tables(settings)


def test_a_new_revision_can_be_generated(settings: Settings, tmp_path: Path) -> None:
    """With the template that stands beside the migrations, here in a copy of their folder."""
    migrate(settings)
    config = database_config(settings)
    shutil.copytree(config.alembic_config.script_location, tmp_path / "migrations")
    config.alembic_config.script_location = str(tmp_path / "migrations")
    AlembicCommands(config).revision("a change", autogenerate=True)
    (revision,) = (tmp_path / "migrations" / "versions").glob("*_a_change.py")
    compile(revision.read_text(), str(revision), "exec")


def test_web_and_worker_share_a_database_file(settings: Settings) -> None:
    migrate(settings)
    connection = sqlite3.connect(make_url(settings.database_url).database or "")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_preparing_twice_is_preparing_once(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(settings)
    first = capsys.readouterr().out
    prepare(settings)
    assert capsys.readouterr().out == first
    connection = sqlite3.connect(make_url(settings.database_url).database or "")
    counts = [
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        for table in ("users", "campaigns", "campaign_recipients")
    ]
    connection.close()
    assert counts == [(3,), (1,), (3,)]


def test_what_to_try_names_the_port(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(settings)
    out = capsys.readouterr().out
    assert "http://localhost:8123/schema" in out
    commands = [line.strip() for line in out.splitlines() if line.strip().startswith("curl")]
    assert len(commands) == 3
    assert all("http://localhost:8123/" in command for command in commands)


def test_seeding_names_the_campaign(settings: Settings) -> None:
    migrate(settings)
    assert seed(settings) == seed(settings) == 1


def test_the_commands_run_wherever_the_app_and_its_data_are(tmp_path: Path) -> None:
    """Neither has to be in the working directory, and a folder may be named as it likes."""
    code, place = tmp_path / "50% of %(here)s", tmp_path / "100%s data"
    shutil.copytree(Path(manage.__file__).parent, code / "app")
    place.mkdir()
    command = [sys.executable, "-m", "app.manage", "prepare"]
    done = subprocess.run(
        command, cwd=place, env={"PORT": "8123", "PYTHONPATH": str(code)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in place.iterdir()] == [".litestar-tasks"]
    assert (place / ".litestar-tasks" / "app.sqlite3").exists()
    assert "http://localhost:8123/users" in done.stdout


def test_a_bad_setting_is_said_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.manage", "migrate"]
    done = subprocess.run(command, cwd=tmp_path, env={"PORT": "no"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr == "PORT is 'no'; expected a whole number from 1 to 65535\n"
