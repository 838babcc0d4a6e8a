"""The documents, and what stands in them: code blocks, links, code spans, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sybil.document import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

ROOT: Final = Path(__file__).resolve().parents[2]
NAMES: Final = (
    "README.md",
    "QUEUE_SETUP.md",
    "TASKS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "tests/README.md",
)
SHELL: Final = ("sh", "bash", "shell", "console")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block."""

    document: str
    line: int
    language: str
    source: str
    answer: Answer | None
    """The block right behind it, which shows what comes of it."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True, slots=True)
class Answer:
    language: str
    text: str

    def matches(self, actual: str) -> bool:
        """Whether this is what came: white space aside, and ``…`` stands for anything."""
        pattern = ".*?".join(re.escape(part.strip()) for part in squeezed(self.text).split("…"))
        return re.fullmatch(pattern.replace(r"\ ", r"\s*"), squeezed(actual), re.DOTALL) is not None


def squeezed(text: str) -> str:
    return " ".join(text.split())


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def blocks_of(name: str) -> tuple[Block, ...]:
    """Every fenced block of a document, in order."""
    document = Document.parse(str(ROOT / name), FencedCodeBlockLexer(language=r"[\w-]*"))
    examples = list(document.examples())
    found: list[Block] = []
    for index, example in enumerate(examples):
        language, source = (str(example.region.lexemes[name]) for name in ("language", "source"))
        answer = None
        if index + 1 < len(examples):
            following = examples[index + 1]
            if not document.text[example.end : following.start].strip():
                answer = Answer(*(str(following.region.lexemes[part]) for part in ("language", "source")))
        found.append(Block(name, example.line, language, source, answer))
    return tuple(found)


def blocks(*languages: str, documents: tuple[str, ...] = NAMES) -> list[Block]:
    return [block for name in documents for block in blocks_of(name) if block.language in languages]


def prose_of(name: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", text_of(name), flags=re.MULTILINE | re.DOTALL)


def code_spans(name: str) -> Iterator[str]:
    """What stands between backticks in the prose."""
    for _, code in re.findall(r"(`+)(.+?)\1", prose_of(name)):
        yield code.strip()


def headings(name: str) -> list[str]:
    return re.findall(r"^#{1,6} (.+?) *$", prose_of(name), re.MULTILINE)


def anchors(name: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found: list[str] = []
    for heading in headings(name):
        plain = anchor_of(heading)
        found.append(plain if plain not in found else f"{plain}-{found.count(plain)}")
    return set(found)


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives to a heading, where no other one before is alike."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def links(name: str) -> list[str]:
    return links_in(prose_of(name))


def links_in(prose: str) -> list[str]:
    return re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", prose)


def table_below(name: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    _, found, rest = prose_of(name).partition(f"# {heading}\n")
    assert found, f"{name} has no heading {heading!r}"
    lines = rest.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
    return rows
