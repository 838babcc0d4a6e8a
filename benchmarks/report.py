"""Medians, ratios and tables."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks import contestants
from benchmarks.processes import PEERS, ROOT

Series = Mapping[str, Sequence[Mapping[str, float]]]
"""For each contestant what each repetition measured; the same repetition of two contestants makes a pair."""


def median(series: Series, name: str, row: str) -> float | None:
    """The median of a number over the repetitions, None where it was never measured."""
    values = [numbers[row] for numbers in series.get(name, ()) if row in numbers and not math.isnan(numbers[row])]
    return statistics.median(values) if values else None


def ratios(series: Series, name: str, row: str, base: str = contestants.STOCK) -> list[float]:
    """A contestant's number over the base's, for each pair, in order of size."""
    pairs = zip(series.get(name, ()), series.get(base, ()), strict=False)
    return sorted(
        one[row] / other[row] for one, other in pairs if one.get(row) is not None and other.get(row, 0) not in (0, None)
    )


def cell(series: Series, name: str, row: str) -> str:
    """A number, and as a ratio to stock SAQ with the range of that: ``21,400 · 12.1× (10.8–13.0)``."""
    value = median(series, name, row)
    if value is None:
        return "–"
    text = number(value)
    if name != contestants.STOCK and (found := ratios(series, name, row)):
        spread = f" ({number(found[0])}–{number(found[-1])})" if len(found) > 1 else ""
        text += f" · {number(statistics.median(found))}×{spread}"
    return text


def number(value: float) -> str:
    """Three significant digits, as far as they matter."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it can be read as it is."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    rows = [head, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def machine(server: str) -> str:
    """What it was measured on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} × {processor}, {platform.system()}; {server}; Python {platform.python_version()}; "
        f"load average before the start {load}"
    )


def versions(names: Sequence[str]) -> str:
    """The versions of what each contestant is made of."""
    return "; ".join(f"{contestants.load(name).LABEL}: {_versions(name)}" for name in names)


def _versions(name: str) -> str:
    contestant = contestants.load(name)
    version: Callable[[str], str | None] = _installed
    if contestant.REQUIREMENTS:
        found = _frozen(name)
        version = found.get
    return ", ".join(f"{package} {version(package) or 'absent'}" for package in (*contestant.PACKAGES, "uvloop"))


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _frozen(name: str) -> dict[str, str]:
    script = "from importlib import metadata as m; [print(d.name.lower(), d.version) for d in m.distributions()]"
    done = subprocess.run([PEERS / name / "bin" / "python", "-c", script], capture_output=True, text=True, cwd=ROOT)
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
