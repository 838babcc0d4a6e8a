"""Who may import whom: the contracts stand in pyproject.toml, under tool.importlinter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LOADED_BY_US = """
import sys

# litestar itself imports them where Advanced Alchemy is installed.
for name in ("advanced_alchemy", "sqlalchemy"):
    sys.modules[name] = None

import litestar

before = set(sys.modules)
import litestar_tasks

print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_imports_go_from_top_to_bottom_only() -> None:
    # A process of its own: import-linter sets up logging for all of the process that it runs in.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_importing_the_library_loads_no_command_line_pages_or_database() -> None:
    """`import litestar_tasks` costs what it says; the rest is loaded by whoever uses it."""
    done = subprocess.run([sys.executable, "-c", LOADED_BY_US], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"alembic", "click", "jinja2", "rich", "rich_click", "uvicorn"} & set(done.stdout.split())
