"""docker-compose.yml and the Dockerfile keep the promises that the library makes of a deployment."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from litestar_tasks.cli import children
from litestar_tasks.queue_config import QueueConfig

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LASTING = ("redis", "postgres", "web", "worker")


def command_of(service: str) -> str:
    command = SERVICES[service]["command"]
    return command if isinstance(command, str) else " ".join(command)


def seconds(duration: str) -> int:
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, f"{duration!r} is not in seconds"
    return int(match[1])


def test_the_services_are_a_broker_a_database_migrations_a_web_process_and_a_worker() -> None:
    assert set(SERVICES) == {"redis", "postgres", "migrate", "web", "worker"}


@pytest.mark.parametrize("service", LASTING)
def test_every_lasting_service_has_a_health_check_and_is_restarted(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert len(SERVICES[service]["healthcheck"]["test"]) > 1
    assert SERVICES[service]["restart"] == "unless-stopped"


def test_docker_waits_longer_for_the_worker_than_the_worker_waits_for_its_jobs() -> None:
    """Even one that uses up its grace, and all its time to hand jobs back, stops by itself."""
    grace = QueueConfig().shutdown_grace_period_s
    assert grace is not None
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > grace + children._AFTER_THE_GRACE


def test_docker_waits_longer_for_the_web_process_than_it_waits_for_its_requests() -> None:
    limit = re.search(r'"--timeout-graceful-shutdown", "(\d+)"', DOCKERFILE)
    assert limit
    assert seconds(SERVICES["web"]["stop_grace_period"]) > int(limit[1])


def test_redis_keeps_jobs_on_a_volume_and_never_evicts_them() -> None:
    command = command_of("redis")
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


def test_the_servers_behind_the_app_publish_no_port() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]


@pytest.mark.parametrize("service", ["web", "worker"])
def test_web_and_worker_wait_for_healthy_servers_and_for_the_migrations(service: str) -> None:
    conditions = {name: needed["condition"] for name, needed in SERVICES[service]["depends_on"].items()}
    assert conditions == {
        "redis": "service_healthy",
        "postgres": "service_healthy",
        "migrate": "service_completed_successfully",
    }


def test_migrations_run_once_against_a_healthy_database() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["migrate"]["restart"] == "no"
    assert command_of("migrate") == "python -m app.manage migrate"


@pytest.mark.parametrize("service", ["migrate", "web", "worker"])
def test_all_processes_of_the_app_share_their_settings(service: str) -> None:
    environment = SERVICES[service]["environment"]
    assert environment == SERVICES["web"]["environment"]
    assert environment["TASKS_BROKER_URL"].startswith("redis://")
    assert environment["DATABASE_URL"].startswith("postgresql+psycopg://")
    assert environment["DEBUG"] == "0"


def test_the_app_can_use_its_settings() -> None:
    values = {name: re.sub(r"\$\{.*?\}", "secret", value) for name, value in SERVICES["web"]["environment"].items()}
    settings = Settings.from_env(values)
    assert settings.environment == "production"
    assert settings.debug is False
    assert SERVICES["worker"]["volumes"] == [f"mailbox:{settings.mailbox}"]


def test_the_worker_is_started_by_our_command() -> None:
    assert command_of("worker") == "litestar --app app.asgi:create_app workers run --health-port 9000"
    assert "http://127.0.0.1:9000/live" in SERVICES["worker"]["healthcheck"]["test"][-1]


def test_no_password_is_written_down() -> None:
    for variable in re.findall(r"\$\{([^}]*PASSWORD[^}]*)\}", COMPOSE):
        assert ":?" in variable, f"{variable} has a default"
    for line in COMPOSE.splitlines():
        if "PASSWORD" in line and not line.lstrip().startswith("#"):
            assert "${" in line


def test_the_image_is_stopped_by_sigterm_runs_as_nobody_special_and_needs_no_shell() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"^STOPSIGNAL SIGTERM$", final, re.MULTILINE)
    assert re.search(r"^USER (?!root)\w+$", final, re.MULTILINE)
    assert re.search(r'^CMD \["', final, re.MULTILINE)
    assert "constraints.txt" in DOCKERFILE
    assert "dev" not in re.search(r"\.\[(.*?)\]", DOCKERFILE)[1].split(",")  # type: ignore[index]
