"""What README and QUEUE_SETUP tell their readers to type works, and answers what they show."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from typing import Any, Final

import click
import litestar.cli.main
import pytest
import yaml
from advanced_alchemy.extensions.litestar.cli import database_group
from packaging.requirements import Requirement

from tests.docs.documents import NAMES, ROOT, SHELL, Block, blocks, code_spans
from tests.docs.shells import Server, Shell, commands, compare, on_path
from tests.docs.tables import command

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SERVICES: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]

# What is not run here, why, and what is looked at instead.
NOT_RUN: Final[tuple[tuple[str, str], ...]] = (
    ("make ", "would install and run everything; tests/integration/test_make_dev.py does. The target exists"),
    (
        "pip install ",
        "changes the environment; tests/integration/test_packaging.py does it in one of its own. The extras exist",
    ),
    ("litestar --app app:app ", "the app of README; tests/integration/test_packaging.py runs it. The options exist"),
    ("docker ", "needs a Docker daemon; tests/unit/test_compose.py reads the file. The services exist"),
)


def reason_not_to_run(words: list[str]) -> str | None:
    return next((why for start, why in NOT_RUN if " ".join(words).startswith(start)), None)


def is_run(block: Block) -> bool:
    return not any(map(reason_not_to_run, commands(block.source)))


def stays(block: Block) -> bool:
    """Whether it runs until it is stopped."""
    return any(
        words[0] == "litestar" and "run" in words and "check" not in words and "--drain" not in words
        for words in commands(block.source)
    )


SHELL_BLOCKS: Final = blocks(*SHELL, documents=("README.md", "QUEUE_SETUP.md"))


@pytest.mark.parametrize("block", [one for one in SHELL_BLOCKS if is_run(one) and not stays(one)], ids=str)
def test_a_shell_block_does_what_the_document_shows(
    block: Block, server: Server, shell: Callable[[str], Shell]
) -> None:
    for words in commands(block.source):
        if not on_path(words[0]) and words[0] in ("curl", "redis-cli") and "CI" not in os.environ:
            pytest.skip(f"no {words[0]} here")
    script = block.source.replace("localhost:8000", f"localhost:{server.port}")
    only_asks = not re.search(r"\s(-d|-X)\s", script)
    deadline = time.monotonic() + (20 if only_asks else 0)
    while True:
        status, printed = shell(block.document).run(script)
        assert status == 0, printed
        if block.answer is None or block.answer.language not in ("json", "text"):
            return None
        try:
            return compare(block.answer, printed)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@pytest.mark.parametrize("block", [one for one in SHELL_BLOCKS if is_run(one) and stays(one)], ids=str)
def test_a_command_that_stays_comes_up_and_stops_cleanly(block: Block, server: Server) -> None:
    (words,) = commands(block.source)
    process = subprocess.Popen(
        words,
        cwd=server.folder,
        env=server.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        read = []
        for line in process.stdout:
            read.append(line)
            if " is up (pid " in line:
                break
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, "".join(read) + rest
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_three_commands_of_the_tour_are_run() -> None:
    tour = [
        words
        for block in SHELL_BLOCKS
        if block.document == "README.md" and is_run(block)
        for words in commands(block.source)
    ]
    assert len([words for words in tour if "curl" in " ".join(words)]) == 3


# ------------------------------------------------------------------------------------ commands, wherever they stand


def all_commands() -> list[tuple[str, list[str]]]:
    """Every command of a program that is ours to know, in blocks and between backticks."""
    found = [(str(block), words) for block in blocks(*SHELL) for words in commands(block.source)]
    for name in NAMES:
        for span in code_spans(name):
            if re.match(r"(make|litestar|docker compose|python -m|pip install) ?", span) and "\n" not in span:
                found += [(name, words) for words in commands(span)]
    return found


COMMANDS: Final = [pytest.param(where, words, id=f"{where} {' '.join(words)}"[:90]) for where, words in all_commands()]


@pytest.mark.parametrize(("where", "words"), COMMANDS)
def test_a_command_that_is_named_exists(where: str, words: list[str]) -> None:
    check = CHECKS.get(words[0])
    if check is not None:
        check(words[1:])


def check_make(words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target, "VENV=.venv"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        if word.startswith("-"):
            continue
        requirement = Requirement(word.removeprefix("./"))
        assert requirement.name == PROJECT["project"]["name"]
        assert requirement.extras <= set(PROJECT["project"]["optional-dependencies"])


def check_docker(words: list[str]) -> None:
    assert words[0] == "compose"
    # Words that follow the verb are services, as are the names in --scale.
    named = {word.partition("=")[0] for word in words[2:] if not word.startswith("-")}
    assert named <= set(SERVICES), f"no such services: {named - set(SERVICES)}"


def check_litestar(words: list[str]) -> None:
    if words[:1] == ["--app"]:
        assert words[1] in ("app.asgi:create_app", "app:app")
        words = words[2:]
    if not words or "…" in words:
        return
    if words[0] in ("workers", "tasks"):
        target, rest = command(*words[:2]) if len(words) > 1 else command(words[0]), words[2:]
    elif words[0] == "database":
        group: click.Group = database_group
        target, rest = group.commands[words[1]], words[2:]
    else:
        known: Any = litestar.cli.main.litestar_group.commands
        target, rest = known[words[0]], words[1:]
    # Reads the options and runs nothing.
    click.Command.make_context(target, words[0], list(rest), resilient_parsing=False)


def check_python(words: list[str]) -> None:
    if words[:1] != ["-m"]:
        return
    if words[1] == "app.manage":
        assert words[2] in {"migrate", "seed", "prepare"}
    elif words[1].startswith("tests."):
        assert (ROOT / f"{words[1].replace('.', '/')}.py").exists()


CHECKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "make": check_make,
    "pip": check_pip,
    "docker": check_docker,
    "litestar": check_litestar,
    "python": check_python,
    ".venv/bin/python": check_python,
}
