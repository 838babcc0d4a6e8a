"""The public surface as type checkers see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WRONG = HERE / "wrong_calls.py"


def expected() -> set[int]:
    return {number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if "# wrong: " in line}


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.timeout(300)
def test_mypy_refuses_every_wrong_call_and_nothing_else() -> None:
    output = run("mypy", "--no-error-summary", "--show-error-codes", str(WRONG))
    found = {int(line.split(":")[1]) for line in output.splitlines() if "wrong_calls.py" in line and "error:" in line}
    assert found == expected(), output


@pytest.mark.timeout(300)
def test_pyright_refuses_every_wrong_call_and_nothing_else() -> None:
    report = json.loads(run("pyright", "--outputjson", str(WRONG)))
    found = {
        diagnostic["range"]["start"]["line"] + 1
        for diagnostic in report["generalDiagnostics"]
        if diagnostic["severity"] == "error"
    }
    assert found == expected(), report["generalDiagnostics"]
