"""Runs the shell blocks of a document in one shell, as one reader would who types them in."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.docs.documents import ROOT, Answer

BIN: Final = Path(sys.executable).parent
END: Final = "-- end of block --"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What a reader's shell knows in a fresh checkout: no setting of ours, and the programs of the environment."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(folder), "PATH": path, "PYTHONPATH": str(ROOT / "backend"), **more}


class Shell:
    """A shell that keeps its variables from one block to the next."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str) -> tuple[int, str]:
        """Run lines, and return the status of the last one and what they printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{\n{script}\n}} </dev/null\nprintf '\\n%s %d\\n' '{END}' $?\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(END):
                return int(line.removeprefix(END)), "".join(lines).strip()
            lines.append(line)
        raise AssertionError(f"the shell has ended:\n{''.join(lines)}")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=10)


class Server:
    """The reference app with a worker, as `make dev` starts it, in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.env = environment(folder, PORT=str(port), DEBUG="1")
        prepare = [BIN / "python", "-m", "app.manage", "prepare"]
        subprocess.run(prepare, cwd=folder, env=self.env, check=True, capture_output=True, text=True)
        self._log = folder / "dev.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [BIN / "litestar", "--app", "app.asgi:create_app", "tasks", "dev", "--no-reload"],
                cwd=folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until(lambda: "Ctrl-C stops everything" in self.log)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not come true in {seconds} s:\n{self.log}"
            assert self._process.poll() is None, f"the app has ended:\n{self.log}"
            time.sleep(0.05)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def compare(answer: Answer, printed: str) -> None:
    """Hold what a block prints against what the document shows of it.

    JSON is compared by its fields, of which the document may leave out some; ``…`` stands for any text, within JSON and
    elsewhere.
    """
    if answer.language == "json":
        differs = difference(json.loads(answer.text), json.loads(printed))
        assert differs is None, f"{differs}; what came is {printed}"
    else:
        assert answer.matches(printed), f"the document says\n{answer.text}\nbut what came is\n{printed}"


def difference(shown: Any, actual: Any, where: str = "answer") -> str | None:
    """The first place at which the document is wrong, or None."""
    if isinstance(shown, dict) and isinstance(actual, dict):
        for name, value in shown.items():
            if name not in actual:
                return f"{where} has no {name!r}"
            if (found := difference(value, actual[name], f"{where}.{name}")) is not None:
                return found
        return None
    if isinstance(shown, str) and isinstance(actual, str) and Answer("text", shown).matches(actual):
        return None
    return None if shown == actual else f"{where} is {actual!r}, and not {shown!r}"


def commands(script: str) -> list[list[str]]:
    """The commands of a script as words, those behind ``&&`` and ``|`` too. Variables are set aside."""
    joined = script.replace("\\\n", " ")
    found: list[list[str]] = []
    for line in joined.splitlines():
        line = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line)  # what a variable is set to is a command, too
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            split = [*lexer]
        except ValueError:  # quotes within quotes, in $(…): good enough to tell which program it is
            split = line.split()
        for word in [*split, ";"]:
            if word in ("|", "||", "&&", ";", "&"):
                while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.DOTALL):
                    words.pop(0)
                if words and words[0] != "sudo":
                    found.append(words)
                elif words:
                    found.append(words[1:])
                words = []
            else:
                words.append(word)
    return found


def on_path(program: str) -> bool:
    return shutil.which(program) is not None
