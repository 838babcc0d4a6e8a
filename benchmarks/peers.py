"""``make bench-peers``: each other library in an environment of its own, so that none constrains another's versions."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import contestants
from benchmarks.processes import PEERS, python_of


def main() -> None:
    """Install what is not installed yet. A library that cannot be is said, and left out of the benchmarks."""
    for name in dict.fromkeys((*contestants.NAMES, *contestants.ON_POSTGRES)):
        contestant = contestants.load(name)
        if not contestant.REQUIREMENTS:
            continue
        if python_of(name) is None:
            print(f"{contestant.LABEL}: installing {', '.join(contestant.REQUIREMENTS)}", flush=True)
            folder = PEERS / name
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            if subprocess.run([*pip, "uvloop", *contestant.REQUIREMENTS], check=False).returncode:
                (folder / "bin" / "python").unlink()
                print(f"{contestant.LABEL}: cannot be installed here", flush=True)
                continue
        print(f"{contestant.LABEL}: installed", flush=True)
