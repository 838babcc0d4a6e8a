"""The tables of the documents that are written from the code: `python -m tests.docs.tables` writes them anew.

Each stands between `<!-- table: name -->` and `<!-- end of table -->`. What a row says is the docstring of the option.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from types import ModuleType
from typing import Any, Final

import click
from litestar.plugins import CLIPlugin

from app import settings
from litestar_tasks import Registry, TasksConfig, TasksPlugin, config, options, queue_config, registry, schedule
from tests.docs.documents import ROOT, text_of

START: Final = "<!-- table: {} -->\n"
END: Final = "<!-- end of table -->"
LEVELS: Final = ("registry", "task", "schedule", "call", "config")


@dataclass(frozen=True, slots=True)
class Option:
    """An option as its class declares it."""

    name: str
    type: str
    text: str

    @property
    def meaning(self) -> str:
        """What it does, without its default."""
        return re.sub(r"\s*Defaults to .*$", "", self.text)

    @property
    def default(self) -> str:
        """What its docstring says behind "Defaults to"; "none" where the docstring says nothing of it."""
        found = re.search(r"Defaults to (.+)\.$", self.text)
        return found[1] if found else "none"


def declared(module: ModuleType, name: str) -> list[Option]:
    """The annotated attributes of a class, with their docstrings."""
    body = next(
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ).body
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            found.append(Option(node.target.id, ast.unparse(node.annotation), text))
    return found


def arguments(function: Callable[..., Any]) -> Iterator[Option]:
    """The keyword-only arguments of a function, with what its docstring says of them."""
    source = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(source, ast.FunctionDef)
    text = inspect.getdoc(function) or ""
    section = text.partition("Args:\n")[2].partition("\n\n")[0]
    said = {
        found[1]: " ".join(found[2].split())
        for found in re.finditer(r"^    (\w+): (.*(?:\n     .*)*)", section, re.MULTILINE)
    }
    for argument in source.args.kwonlyargs:
        assert argument.annotation is not None
        yield Option(argument.arg, ast.unparse(argument.annotation), said[argument.arg])


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """Source in a table's cell."""
    return f"`{text}`".replace("|", r"\|")


def prose(text: str) -> str:
    """A docstring in a table's cell."""
    return text.replace("``", "`").replace("|", r"\|")


def options_by_level() -> str:
    """Every option of tasks, schedules, calls and queues, with the levels that take it."""
    shared = declared(options, "SharedOptions")
    of_registries = declared(options, "RegistryOptions")
    of_tasks, of_calls = declared(options, "TaskOptions"), declared(options, "EnqueueOptions")
    of_both = declared(options, "FollowUpOptions")
    of_schedules = [*arguments(Registry.schedule), *declared(schedule, "RecurrenceOptions")]
    both = {option.name for option in declared(schedule, "ScheduleOptions")}
    names = {option.name for option in declared(registry, "QueueOptions")}
    of_queues = [option for option in declared(queue_config, "QueueConfig") if option.name in names]
    levels = {
        "registry": [*shared, *of_registries],
        "task": [*shared, *of_registries, *of_tasks, *of_both],
        "schedule": [*of_schedules, *(option for option in shared if option.name in both)],
        "call": [*shared, *of_calls, *of_both],
        "config": of_queues,
    }
    rows = []
    for option in (*of_tasks, *shared, *of_registries, *of_both, *of_calls, *of_schedules, *of_queues):
        marks = ["yes" if option in levels[level] else "" for level in LEVELS]
        rows.append([code(option.name), code(option.type), prose(option.default), *marks, prose(option.meaning)])
    return markdown(["option", "type", "default", *LEVELS, "what it says"], rows)


def fields_of(module: ModuleType, name: str) -> str:
    rows = [
        [
            code(option.name),
            code(option.type),
            prose(option.default) if "Defaults" in option.text else "required",
            prose(option.meaning),
        ]
        for option in declared(module, name)
    ]
    return markdown(["field", "type", "default", "what it says"], rows)


def schedule_state() -> str:
    """How a schedule stands."""
    rows = [[code(one.name), code(one.type), prose(one.text)] for one in declared(schedule, "ScheduleState")]
    return markdown(["field", "type", "what it says"], rows)


def environment() -> str:
    """The variables that the reference app reads."""
    defaults = {field.name: field.default for field in fields(settings.Settings)}
    rows = []
    for option in declared(settings, "Settings"):
        default = defaults[option.name]
        assert default is not MISSING
        shown = (
            {None: "not set", False: "0", True: "1"}.get(default, default)
            if not isinstance(default, int) or isinstance(default, bool)
            else default
        )
        rows.append(
            [code(option.name.upper()), code(str(shown)) if default is not None else "not set", prose(option.text)]
        )
    return markdown(["variable", "default", "what it says"], rows)


def command(*path: str) -> click.Command:
    """A command of ours, as it hangs in Litestar's command line."""
    group = click.Group()
    plugin: CLIPlugin = TasksPlugin(TasksConfig(registry=Registry()))
    plugin.on_cli_init(group)
    found: click.Command = group
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


def options_of(*path: str) -> str:
    """The options of a command."""
    rows = []
    for parameter in command(*path).params:
        assert isinstance(parameter, click.Option)
        spelling = parameter.opts[0]
        if not parameter.is_flag:
            spelling += f" {parameter.metavar or parameter.type.name.upper().removesuffix(' RANGE')}"
        default = str(parameter.default) if isinstance(parameter.default, str | int) else ""
        if parameter.is_flag or parameter.multiple:
            default = ""
        rows.append([code(spelling), default, prose(parameter.help or "")])
    return markdown(["option", "default", "what it does"], rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "options": options_by_level,
    "ScheduleState": schedule_state,
    "TasksConfig": lambda: fields_of(config, "TasksConfig"),
    "HistoryConfig": lambda: fields_of(config, "HistoryConfig"),
    "OutboxConfig": lambda: fields_of(config, "OutboxConfig"),
    "DashboardConfig": lambda: fields_of(config, "DashboardConfig"),
    "environment": environment,
    "workers run": lambda: options_of("workers", "run"),
    "tasks dev": lambda: options_of("tasks", "dev"),
    "tasks outbox": lambda: options_of("tasks", "outbox"),
    "tasks history": lambda: options_of("tasks", "history"),
}


def written_anew(text: str) -> str:
    """A document with its tables as the code wants them."""
    for name, table in TABLES.items():
        start = START.format(name)
        if start in text:
            head, _, rest = text.partition(start)
            _, end, tail = rest.partition(END)
            assert end, f"table {name!r} has no end"
            text = f"{head}{start}\n{table()}\n{end}{tail}"
    return text


def main() -> None:
    for name in ("README.md", "QUEUE_SETUP.md", "TASKS.md"):
        if (wanted := written_anew(text_of(name))) != text_of(name):
            (ROOT / name).write_text(wanted, encoding="utf-8")
            sys.stdout.write(f"{name} is written anew\n")


if __name__ == "__main__":
    main()
