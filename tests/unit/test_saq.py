"""SAQ's and litestar-saq's code that ours stands on is the code that we know.

The classes of this package that inherit from theirs replace some of their methods and use the others as they are. Both
rest on how those are written, and not on what is documented of them. So the digest of every one is kept beside this
file; comments, docstrings and line breaks do not count. After reading what changed, and adapting what is ours::

    .venv/bin/python -m tests.unit.test_saq --write
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import io
import itertools
import json
import pkgutil
import sys
import tokenize
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import litestar_saq
import pytest
import saq.utils

import litestar_tasks

KNOWN = Path(__file__).with_name("saq.json")
DISTRIBUTIONS = {"saq": "saq", "litestar_saq": "litestar-saq"}
"""The distributions in question, by the package that each installs."""
USED_AS_THEY_ARE = (litestar_saq.TaskQueues, saq.utils.now, saq.utils.uuid1)
"""What is called or filled without a class of ours in between."""
SIGNS = {"COMMENT": "", "NL": "", "NEWLINE": ";", "INDENT": "{", "DEDENT": "}"}
"""What stands for tokens that differ in their text and not in what they mean."""


@functools.cache
def ours() -> list[type]:
    """The classes of this package that inherit from theirs."""
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(litestar_tasks.__path__, "litestar_tasks."):
        for candidate in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(candidate) and is_ours(candidate) and any(map(is_theirs, candidate.__mro__)):
                found[name_of(candidate)] = candidate
    return [found[name] for name in sorted(found)]


def is_ours(what: Any) -> bool:
    return what.__module__.partition(".")[0] == "litestar_tasks"


def is_theirs(what: Any) -> bool:
    return what.__module__.partition(".")[0] in DISTRIBUTIONS


def name_of(what: Any) -> str:
    return f"{what.__module__}.{what.__qualname__}"


def digests() -> dict[str, str]:
    """The digest of everything of theirs that ours stands on, by its name."""
    found: dict[str, str] = {}
    for stock in {base: None for one in ours() for base in one.__mro__ if is_theirs(base)}:
        found |= dict(parts_of(stock))
    for thing in USED_AS_THEY_ARE:
        found |= dict(parts_of(thing)) if inspect.isclass(thing) else {name_of(thing): digest(normalised(thing))}
    return dict(sorted(found.items()))


def parts_of(stock: type) -> Iterator[tuple[str, str]]:
    """The methods that a class writes itself, and the fields of a dataclass, each with its digest."""
    if dataclasses.is_dataclass(stock):
        fields = [(field.name, default_of(field)) for field in dataclasses.fields(stock)]
        yield f"{name_of(stock)} (fields)", digest(repr(fields))
    for name, value in vars(stock).items():
        for function in functions_of(value):
            # What a dataclass or a protocol generates has no source.
            if function.__code__.co_filename == inspect.getsourcefile(stock):
                yield f"{name_of(stock)}.{name}", digest(normalised(function))


def functions_of(value: Any) -> list[Any]:
    if isinstance(value, property):
        return [value.fget]
    value = inspect.unwrap(getattr(value, "__func__", getattr(value, "func", value)))
    return [value] if inspect.isfunction(value) else []


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"{getattr(field.default_factory, '__name__', '')}()"
    if field.default is dataclasses.MISSING:
        return "required"
    return repr(field.default.value if isinstance(field.default, Enum) else field.default)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def normalised(function: Callable[..., Any]) -> str:
    """The source without what does not run, the same on every version of Python.

    Not by way of a syntax tree, whose printed form changes between versions; nor by the tokens alone, since newer
    versions take f-strings apart.
    """
    source = inspect.getsource(function)
    if source[0].isspace():
        source = "if True:\n" + source  # a method, as it is indented
    lines = source.splitlines(keepends=True)
    words: list[str] = []
    depth = 0
    begin = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind.endswith("STRING_START"):
            begin, depth = (begin if depth else token.start), depth + 1
        if not depth:
            words.append(
                {"COMMENT": "", "NL": "", "NEWLINE": ";", "INDENT": "{", "DEDENT": "}"}.get(kind, token.string)
            )
        if kind.endswith("STRING_END"):
            depth -= 1
            if not depth:
                words.append(between(lines, begin, token.end))
    words = [word for word in words if word]
    code: list[str] = []
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        begins = bool(code) and code[-1] in {";", "{"}
        # A string that is a whole statement is a docstring.
        if not (begins and (word == ";" or (word[-1] in "\"'" and after == ";"))):
            code.append(word)
    return " ".join(code)


def between(lines: list[str], begin: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = begin, end
    if first == last:
        return lines[first - 1][left:right]
    return "".join((lines[first - 1][left:], *lines[first : last - 1], lines[last - 1][:right]))


def versions() -> dict[str, str]:
    return {name: version(name) for name in DISTRIBUTIONS.values()}


def overrides(name: str) -> list[str]:
    """Where a method of theirs, by its whole name, is replaced by ours."""
    stock, _, method = name.rpartition(".")
    found: dict[str, None] = {}
    for one in ours():
        nearest = [base for base in one.__mro__ if method in vars(base)]
        if stock in map(name_of, one.__mro__) and nearest and is_ours(nearest[0]):
            found[f"{name_of(nearest[0])}.{method}"] = None
    return list(found)


def changes(before: dict[str, Any], now: dict[str, str]) -> list[str]:
    """What is another than it was, in words."""
    told: list[str] = []
    for name in sorted(before["digests"].keys() | now.keys()):
        old, new = before["digests"].get(name), now.get(name)
        if old == new:
            continue
        distribution = DISTRIBUTIONS[name.partition(".")[0]]
        what = "is new" if old is None else "is gone" if new is None else "has changed"
        replaced = overrides(name)
        told.append(
            f"{name} {what} ({distribution} {before['versions'][distribution]} -> {versions()[distribution]}); "
            + (f"replaced by {', '.join(replaced)}" if replaced else "used as it is")
        )
    return told


def test_what_we_replace_or_use_of_saq_is_what_we_know() -> None:
    """The digests are kept for one version; another one fails here only where it differs in what matters to us."""
    told = changes(json.loads(KNOWN.read_text()), digests())
    assert not told, "\n".join(
        (
            "SAQ is not what this package was written for:",
            *told,
            "Read each change and adapt what is ours; then run: .venv/bin/python -m tests.unit.test_saq --write",
        )
    )


def test_a_change_is_told_with_both_versions_and_what_of_ours_it_concerns() -> None:
    known: dict[str, Any] = json.loads(KNOWN.read_text())
    known["versions"] = {"saq": "0.1", "litestar-saq": "0.2"}
    known["digests"]["saq.queue.redis.RedisQueue.sweep"] = "another"
    known["digests"]["saq.worker.Worker.vanished"] = "gone"
    get = name_of(litestar_saq.TaskQueues.get)
    del known["digests"][get]
    told = changes(known, digests())
    now, ours_of_it = versions(), "litestar_tasks.queues.served.ServedQueue.sweep"
    assert told == [
        f"{get} is new (litestar-saq 0.2 -> {now['litestar-saq']}); used as it is",
        f"saq.queue.redis.RedisQueue.sweep has changed (saq 0.1 -> {now['saq']}); replaced by {ours_of_it}",
        f"saq.worker.Worker.vanished is gone (saq 0.1 -> {now['saq']}); used as it is",
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f(a):\n    return a\n", "def f( a ):  # why\n\n    '''Say.'''\n    return a\n", True),
        ("def f(a):\n    return a\n", "def f(a):\n    return a or 1\n", False),
        ("def f(a):\n    if a:\n        a()\n    a()\n", "def f(a):\n    if a:\n        a()\n        a()\n", False),
        ("def f(a):\n    return f'{a!r:>{a}} {{}}'\n", "def f(a):\n    return f'{a!s:>{a}} {{}}'\n", False),
        ("def f(a):\n    return f'{a!r:>{a}} {{}}'\n", "def f(a):\n    return f'{a!r:>{a}} {{}}' # {}\n", True),
    ],
)
def test_only_what_runs_counts(one: str, other: str, same: bool, tmp_path: Path) -> None:
    assert (normalised(load(tmp_path / "one.py", one)) == normalised(load(tmp_path / "other.py", other))) is same


def load(path: Path, source: str) -> Callable[..., Any]:
    path.write_text(source)
    names: dict[str, Any] = {}
    exec(compile(source, path, "exec"), names)
    function: Callable[..., Any] = names["f"]
    return function


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("to write what is installed as what is known: python -m tests.unit.test_saq --write")
    KNOWN.write_text(json.dumps({"versions": versions(), "digests": digests()}, indent=2) + "\n")
