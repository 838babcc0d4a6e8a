"""What the reference application reads from its environment, and what it says of a value that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.asgi import create_app
from app.settings import Settings, SettingsError


def test_without_any_variable_all_that_is_written_is_in_one_folder() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.tasks_broker_url is None
    assert settings.port == 8000
    assert not settings.debug
    assert settings.database_url == "sqlite+aiosqlite:///.litestar-tasks/app.sqlite3"
    assert settings.mailbox == Path(".litestar-tasks/mailbox")
    assert settings.embedded_dir == Path(".litestar-tasks/broker")


def test_every_setting_has_its_variable() -> None:
    settings = Settings.from_env(
        {
            "ENVIRONMENT": "production-2",
            "DEBUG": "1",
            "PORT": "8080",
            "TASKS_BROKER_URL": "redis://:secret@redis:6379/0",
            "EMBEDDED_DIR": "/srv/broker",
            "DATABASE_URL": "postgresql+psycopg://app:secret@postgres:5432/app",
            "MAILBOX": "/srv/mailbox",
            "HOME": "/root",
        }
    )
    assert settings == Settings(
        environment="production-2",
        debug=True,
        port=8080,
        tasks_broker_url="redis://:secret@redis:6379/0",
        embedded_dir=Path("/srv/broker"),
        database_url="postgresql+psycopg://app:secret@postgres:5432/app",
        mailbox=Path("/srv/mailbox"),
    )
    assert "secret" not in repr(settings)


def test_an_empty_variable_is_none() -> None:
    assert Settings.from_env({"TASKS_BROKER_URL": "", "PORT": " ", "DEBUG": ""}) == Settings()


@pytest.mark.parametrize(("value", "debug"), [("1", True), ("True", True), ("on", True), ("0", False), ("no", False)])
def test_debug_is_read_as_people_write_it(value: str, debug: bool) -> None:
    assert Settings.from_env({"DEBUG": value}).debug is debug


@pytest.mark.parametrize(
    ("variable", "value", "shown", "expected"),
    [
        ("DEBUG", "maybe", "maybe", "1 or 0"),
        ("PORT", "http", "http", "from 1 to 65535"),
        ("PORT", "0", "0", "from 1 to 65535"),
        ("PORT", "65536", "65536", "from 1 to 65535"),
        ("PORT", "²", "²", "from 1 to 65535"),
        ("ENVIRONMENT", "my.env", "my.env", "letters, digits"),
        ("TASKS_BROKER_URL", "localhost:6379", "localhost:6379", "redis://localhost:6379/0"),
        ("TASKS_BROKER_URL", "amqp://u:secret@mq/?key=secret", "amqp://***@mq/", "redis://"),
        ("TASKS_BROKER_URL", "u:secret@mq", "***@mq", "redis://"),
        ("DATABASE_URL", "app.sqlite3", "app.sqlite3", "sqlite+aiosqlite:///file"),
        ("DATABASE_URL", "sqlite:///app.sqlite3", "sqlite:///app.sqlite3", "pysqlite is a synchronous one"),
        ("DATABASE_URL", "postgres://app:sec/ret@db/app", "postgres://***@db/app", "postgresql+psycopg://"),
        ("DATABASE_URL", "postgresql+psycopg2://app:secret@db/app", "***@db/app", "psycopg2 is a synchronous one"),
    ],
)
def test_a_bad_value_is_named_with_what_is_expected(variable: str, value: str, shown: str, expected: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({variable: value})
    message = str(raised.value)
    assert message.startswith(f"{variable} is '")
    assert f"{shown}'; expected " in message
    assert expected in message
    assert "secret" not in message
    assert "sec/ret" not in message


def test_all_bad_values_are_named_together() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({"PORT": "x", "DEBUG": "x"})
    assert [line.partition(" ")[0] for line in str(raised.value).splitlines()] == ["DEBUG", "PORT"]


def test_nothing_is_read_or_written_when_the_app_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import app.asgi, app.manage"],
        cwd=tmp_path,
        env={"PORT": "not a port", "DATABASE_URL": "not a URL", "TASKS_BROKER_URL": "not a URL"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_app_reads_the_environment_when_it_is_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "not a port")
    with pytest.raises(SettingsError, match="PORT is 'not a port'"):
        create_app()
    assert list(tmp_path.iterdir()) == []
