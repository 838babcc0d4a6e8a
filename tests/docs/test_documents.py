"""What the documents say of files, settings, words and messages is so."""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
import tomllib
from functools import cache
from typing import Final

import pytest
import yaml

import litestar_tasks
from litestar_tasks import exceptions
from tests.docs import tables
from tests.docs.documents import (
    NAMES,
    ROOT,
    Block,
    anchor_of,
    anchors,
    blocks,
    blocks_of,
    code_spans,
    headings,
    links,
    links_in,
    prose_of,
    table_below,
    text_of,
)
from tests.servers import RedisServer

BACKEND: Final = ROOT / "backend"
LANGUAGES: Final = {"python", "sh", "json", "text", "ini", "conf", "toml", "yaml", "makefile"}


# ------------------------------------------------------------------------------------------------ blocks


@pytest.mark.parametrize("name", NAMES)
def test_every_block_names_a_language_that_is_looked_at(name: str) -> None:
    assert {block.language for block in blocks_of(name)} <= LANGUAGES


@pytest.mark.parametrize("block", blocks("json", "toml", "yaml", "ini"), ids=str)
def test_data_can_be_read(block: Block) -> None:
    match block.language:
        case "json":
            json.loads(block.source)
        case "toml":
            tomllib.loads(block.source)
        case "yaml":
            yaml.safe_load(block.source)
        case _:
            reader = configparser.ConfigParser(interpolation=None)
            reader.read_string(block.source)
            assert reader.sections()


@pytest.mark.parametrize("block", blocks("conf"), ids=str)
def test_redis_takes_the_settings(block: Block) -> None:
    settings = dict(line.split(" ", 1) for line in block.source.splitlines())
    server = RedisServer(*(word for name, value in settings.items() for word in (f"--{name}", value)))
    try:
        for name, value in settings.items():
            assert server.client.config_get(name) == {name: value}
    finally:
        server.close()


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", ["README.md", "QUEUE_SETUP.md", "TASKS.md"])
def test_the_tables_say_what_the_code_says(name: str) -> None:
    """`python -m tests.docs.tables` writes them anew."""
    assert tables.written_anew(text_of(name)) == text_of(name)


def test_every_table_that_can_be_written_is_shown() -> None:
    shown = set(re.findall(r"^<!-- table: (.+?) -->", "".join(map(text_of, NAMES)), re.MULTILINE))
    assert shown == set(tables.TABLES)


def test_the_tree_of_errors_is_the_code_s() -> None:
    drawn = inspect.cleandoc(exceptions.__doc__ or "").partition("::\n\n")[2]
    tree = "\n".join(line.removeprefix("    ") for line in drawn.splitlines()).partition("\n\n")[0]
    assert tree.strip() in [block.source.strip() for block in blocks_of("TASKS.md")]


def test_the_glossary_has_each_word_once() -> None:
    words = [row[0] for row in table_below("TASKS.md", "Words")]
    assert len(words) == len(set(words))
    assert {"task", "call", "job", "attempt", "queue", "worker", "schedule", "payload", "dependency", "outcome"} <= set(
        words
    )
    assert {"lease", "claim", "settle", "fencing token", "quarantine", "loss", "capacity", "firing"} <= set(words)


# ------------------------------------------------------------------------------------------------ links and files


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in links(name):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if anchor:
            known = anchors(str(target.resolve().relative_to(ROOT)))
            assert anchor in known, f"{name}: {link}; known: {sorted(known)}"


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    for span in code_spans(name):
        if re.fullmatch(r"\.?(backend|tests|docs|benchmarks|\.ci|ci)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{name} names {span}"
        elif re.fullmatch(r"[\w/]+/[\w]+\.(py|md|toml|yml)", span):
            assert (ROOT / span).exists() or (BACKEND / span).exists(), f"{name} names {span}"


@pytest.mark.parametrize("name", ["QUEUE_SETUP.md", "TASKS.md"])
def test_contents_lead_to_every_section(name: str) -> None:
    contents, *_ = prose_of(name).partition("\n## ")
    assert {anchor_of(section) for section in re.findall(r"^## (.+)$", prose_of(name), re.MULTILINE)} <= {
        link.removeprefix("#") for link in links_in(contents)
    }


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 150_000, picture


# ------------------------------------------------------------------------------------------------ names and messages


def test_names_of_the_library_that_are_written_exist() -> None:
    """`JobFailedError`, `TasksConfig(…)`: a class that is named is one that can be imported."""
    known = {*litestar_tasks.__all__, "TimeoutError", "CronJob", "SAQPlugin", "SAQConfig"}
    for name in NAMES:
        for span in code_spans(name):
            found = re.match(
                r"(?:litestar_tasks\.)?((?:Tasks|Queue|Job|Dashboard|Payload|Unknown|Startup|NotAttached)[A-Z]\w*)\b",
                span,
            )
            if found:
                assert found[1] in known, f"{name} names {found[1]}"


def test_the_first_page_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {row[0].strip("`") for row in table_below("README.md", "Extras")}
    assert named == set(project["optional-dependencies"]) - {"app", "dev"}  # which are for a checkout


def test_every_public_name_is_told_of() -> None:
    told = "".join(map(text_of, NAMES))
    missing = [name for name in litestar_tasks.__all__ if not re.search(rf"\b{name}\b", told)]
    # Faces that type checkers see, and bases that nobody names.
    assert set(missing) <= {
        "AnyTask",
        "Call",
        "ContextTask",
        "Enqueuer",
        "SyncContextTask",
        "Task",
        "EnqueueOptions",
        "JobStatus",
        "RegistryOptions",
        "Schedule",
        "TaskOptions",
    }


@cache
def texts() -> tuple[str, ...]:
    """For each module its texts, with … for what is filled in."""
    found: list[str] = []
    for path in BACKEND.rglob("*.py"):
        said: list[str] = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(re.sub(r"%(?:\.\d+)?[a-z]", "…", node.value))
        found.append("\n".join(said))
    return tuple(found)


def stands_in_the_code(message: str) -> bool:
    """Whether all that is fixed in a message, between one … and the next, is text of one module."""
    pieces = [piece.strip() for piece in message.replace("\\|", "|").split("…")]
    return any(all(piece in text for piece in pieces) for text in texts())


MESSAGES: Final = [
    row[0].strip("`")
    for heading in headings("QUEUE_SETUP.md")[headings("QUEUE_SETUP.md").index("Troubleshooting") + 1 :]
    for row in table_below("QUEUE_SETUP.md", heading)
    if row[0].startswith("`")
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_in_troubleshooting_is_one_of_the_code(message: str) -> None:
    assert stands_in_the_code(message), message


# ------------------------------------------------------------------------------------------------ changes, tests


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found = re.findall(r"^## \[(.+?)\] - (.+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert found, "CHANGELOG.md names no version"
    assert found[0][0] == version
    assert all(re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", date) for _, date in found)


def test_the_tests_that_hold_a_trap_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(?:\w+::)?(\w+)`", text_of("tests/README.md"))
    assert named
    for file, function in named:
        path = ROOT / "tests" / file
        assert path.exists(), file
        assert re.search(rf"^\s*(?:async )?def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE), function
