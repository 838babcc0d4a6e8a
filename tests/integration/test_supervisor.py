"""The supervisor, with real processes, real signals and real edits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import litestar_tasks
from litestar_tasks.worker import supervised

LINUX = sys.platform == "linux"
SOON = 40.0

# The supervisor needs nothing of the package but its own modules. Without the others it starts in no time, and there
# are many to start here.
BOSS = f"""
import json, logging, os, sys, types
from pathlib import Path

for name in ("litestar_tasks", "litestar_tasks.worker"):
    sys.modules[name] = bare = types.ModuleType(name)
    bare.__path__ = [os.path.join({str(Path(litestar_tasks.__file__).parents[1])!r}, *name.split("."))]
from litestar_tasks.worker import supervisor

spec = json.loads(sys.argv[1])
logging.basicConfig(level=logging.INFO, format="%(message)s")
for name, value in spec["settings"].items():
    setattr(supervisor, name, value)
if spec["terminal"]:
    os.open(os.ttyname(0), os.O_RDWR)  # What the leader of a session opens becomes its controlling terminal.
boss = supervisor.Supervisor(
    [supervisor.Program(**program) for program in spec["programs"]],
    reload_paths=[Path(path) for path in spec["reload"]],
    on_ready=lambda: print("all are up", file=sys.stderr, flush=True),
)
raise SystemExit(boss.run())
"""

# The same for the children's half of the agreement.
CHILD = f"""
import os, signal, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(supervised.__file__).parent)!r})
from supervised import report_ready, watch_parent

watch_parent()
EVENTS = os.open("events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
terms = []

def tell(word):
    os.write(EVENTS, f"{{sys.argv[1]}} {{os.getpid()}} {{word}}\\n".encode())

def on_term(*_):
    terms.append(1)
    tell("term")

def until(condition):
    while not condition():
        time.sleep(0.01)

def lives():
    lines = Path("events").read_text().splitlines()
    return sum(line.startswith(sys.argv[1] + " ") and line.endswith(" start") for line in lines)

signal.signal(signal.SIGTERM, on_term)
signal.signal(signal.SIGINT, lambda *_: tell("int"))
tell("start")
"""

STAY = "tell('up'); report_ready(); until(lambda: terms); tell('end')"
PATIENT = "tell('up'); report_ready(); until(lambda: len(terms) > 1 or terms and Path('finish').exists()); tell('end')"
DEAF = "tell('up'); report_ready(); until(lambda: False)"


class Stage:
    """A folder with programs, and a supervisor that runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[dict[str, Any]] = []
        self.settings: dict[str, float] = {}
        self.reload: list[str] = []
        self.boss: subprocess.Popen[bytes]

    def program(self, name: str, body: str, **options: Any) -> None:
        self.write(f"{name}.py", body)
        argv = [sys.executable, str(self.folder / f"{name}.py"), name]
        self.programs.append({"name": name, "argv": argv, **options})

    def write(self, file: str, body: str) -> None:
        """As editors do it: never half a file."""
        draft = self.folder / f"{file}.new"
        draft.write_text(CHILD + body)
        draft.rename(self.folder / file)

    def start(self, *wrapper: str, terminal: int | None = None) -> None:
        spec = {
            "programs": self.programs,
            "settings": self.settings,
            "reload": self.reload,
            "terminal": terminal is not None,
        }
        with (self.folder / "log").open("wb") as log:
            self.boss = subprocess.Popen(
                [*wrapper, sys.executable, "-c", BOSS, json.dumps(spec)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_and_wait(self, *wrapper: str) -> None:
        self.start(*wrapper)
        self.wait_for_log("all are up")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, name: str = "", word: str = "") -> list[tuple[str, int, str]]:
        try:
            lines = (self.folder / "events").read_text().splitlines()
        except FileNotFoundError:
            return []
        parts = [line.split() for line in lines]
        return [(who, int(pid), what) for who, pid, what in parts if name in ("", who) and word in ("", what)]

    def pids(self, name: str, word: str = "up") -> list[int]:
        return [pid for _, pid, _ in self.events(name, word)]

    def wait_for(self, what: Callable[[], Any], seconds: float = SOON) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := what()):
            assert time.monotonic() < deadline, f"nothing after {seconds} s\n{self.events()}\n{self.log}"
            time.sleep(0.01)
        return value

    def wait_for_log(self, pattern: str, seconds: float = SOON) -> None:
        self.wait_for(lambda: re.search(pattern, self.log), seconds)

    def signal(self, number: signal.Signals) -> None:
        self.boss.send_signal(number)

    def status(self, seconds: float = SOON) -> int:
        self.wait_for(lambda: self.boss.poll() is not None, seconds)
        return self.boss.returncode

    def tear_down(self) -> None:
        """Leave nothing running, however the test went."""
        with suppress(ProcessLookupError):
            os.killpg(self.boss.pid, signal.SIGKILL)
        self.boss.wait()
        for _, pid, _ in self.events():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.tear_down()


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return state(pid) != "Z"
    return False


def state(pid: int) -> str:
    if not LINUX:
        return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout[:1] or "Z"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def children_of(pid: int) -> dict[int, str]:
    """The children of a process and their states."""
    listing = subprocess.run(["ps", "-A", "-o", "ppid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return {int(own): stat for parent, own, stat in rows if int(parent) == pid}


# ------------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_every_child_exactly_once_as_sigterm_and_the_supervisor_exits_with_0(
    stage: Stage, number: signal.Signals
) -> None:
    names = ["one", "two", "three"]
    for name in names:
        stage.program(name, STAY)
    stage.start_and_wait()
    stage.signal(number)
    assert stage.status() == 0
    for name in names:
        assert [word for *_, word in stage.events(name)] == ["start", "up", "term", "end"]
        assert not alive(stage.pids(name)[0])


def test_ctrl_c_in_a_terminal_reaches_every_child_exactly_once(stage: Stage) -> None:
    stage.program("one", STAY)
    stage.program("two", STAY)
    keyboard, terminal = os.openpty()
    try:
        stage.start(terminal=terminal)
        stage.wait_for_log("all are up")
        os.write(keyboard, b"\x03")
        assert stage.status() == 0
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert [word for *_, word in stage.events("one")] == ["start", "up", "term", "end"]
    assert [word for *_, word in stage.events("two")] == ["start", "up", "term", "end"]


def test_it_waits_for_children_that_finish_their_work(stage: Stage) -> None:
    stage.program("quick", STAY)
    stage.program("slow", PATIENT)
    stage.start_and_wait()
    stage.signal(signal.SIGTERM)
    stage.wait_for(lambda: stage.events("quick", "end"))
    with pytest.raises(subprocess.TimeoutExpired):
        stage.boss.wait(0.3)
    (stage.folder / "finish").touch()
    assert stage.status() == 0
    assert len(stage.events("slow", "term")) == 1


def test_a_signal_that_arrives_twice_at_once_hurries_nobody(stage: Stage) -> None:
    """As `timeout` sends it: to its program, and then to all of its group."""
    stage.settings = {"ONE_SIGNAL": 1000}
    stage.program("slow", PATIENT)
    stage.start_and_wait()
    stage.signal(signal.SIGTERM)
    stage.wait_for(lambda: stage.events(word="term"))
    stage.signal(signal.SIGTERM)
    (stage.folder / "finish").touch()
    assert stage.status() == 0
    assert len(stage.events(word="term")) == 1
    assert "again" not in stage.log


def test_a_second_signal_sends_a_second_one_to_each_child(stage: Stage) -> None:
    stage.settings = {"ONE_SIGNAL": 0}
    stage.program("one", PATIENT)
    stage.program("two", PATIENT)
    stage.start_and_wait()
    stage.signal(signal.SIGINT)
    stage.wait_for(lambda: len(stage.events(word="term")) == 2)
    stage.signal(signal.SIGINT)
    assert stage.status() == 0
    assert [len(stage.events(name, "term")) for name in ("one", "two")] == [2, 2]


def test_children_that_do_not_mind_the_second_signal_are_killed_soon_after(stage: Stage) -> None:
    stage.settings = {"ONE_SIGNAL": 0, "HURRY": 0.3}
    stage.program("deaf", DEAF)
    stage.start_and_wait()
    stage.signal(signal.SIGTERM)
    stage.wait_for(lambda: stage.events(word="term"))
    stage.signal(signal.SIGTERM)
    assert stage.status() == 1
    assert len(stage.events(word="term")) == 2
    assert re.search(r"deaf \(pid \d+\) does not stop; killing it", stage.log)


def test_a_third_signal_kills_at_once(stage: Stage) -> None:
    stage.settings = {"ONE_SIGNAL": 0, "HURRY": 1000}
    stage.program("deaf", DEAF)
    stage.start_and_wait()
    for count in (1, 2):
        stage.signal(signal.SIGTERM)
        stage.wait_for(lambda count=count: len(stage.events(word="term")) == count)
    stage.signal(signal.SIGTERM)
    assert stage.status() == 1


def test_a_terminal_that_closes_and_says_so_twice_hurries_nobody(stage: Stage) -> None:
    stage.settings = {"ONE_SIGNAL": 0}
    stage.program("slow", PATIENT)
    stage.start_and_wait()
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        stage.signal(number)
        if number == signal.SIGHUP:
            stage.wait_for(lambda: stage.events(word="term"))
    stage.wait_for_log("SIGTERM again")
    assert stage.status() == 0
    assert len(stage.events(word="term")) == 2, "the first SIGHUP and the SIGTERM"


def test_under_nohup_the_end_of_the_terminal_stops_nothing(stage: Stage) -> None:
    stage.program("worker", STAY)
    stage.start_and_wait("nohup")
    stage.signal(signal.SIGHUP)
    stage.signal(signal.SIGTERM)
    assert stage.status() == 0
    assert "SIGTERM: stopping worker" in stage.log
    assert "SIGHUP" not in stage.log


def test_a_child_that_outstays_its_grace_is_killed(stage: Stage) -> None:
    stage.program("deaf", DEAF, grace=0.3)
    stage.program("fine", STAY)
    stage.start_and_wait()
    stage.signal(signal.SIGTERM)
    assert stage.status() == 1
    assert "does not stop; killing it" in stage.log
    assert len(stage.events("deaf", "term")) == 1


def test_a_child_that_fails_while_it_stops_is_told_in_the_log_and_by_the_exit_code(stage: Stage) -> None:
    stage.program("bad", "report_ready(); until(lambda: terms); sys.exit(9)")
    stage.start_and_wait()
    stage.signal(signal.SIGTERM)
    assert stage.status() == 1
    assert re.search(r"bad \(pid \d+\) exited with code 9 while it stopped", stage.log)


def test_a_stop_during_the_start_is_a_clean_one(stage: Stage) -> None:
    stage.program("starting", "until(lambda: terms); sys.exit(1)")
    stage.start()
    stage.wait_for(lambda: stage.events(word="start"))
    stage.signal(signal.SIGTERM)
    assert stage.status() == 0


# ---------------------------------------------------------------------------------------------- restarting


def test_a_child_that_is_killed_is_restarted_and_said_in_one_line(stage: Stage) -> None:
    stage.program("worker", STAY)
    stage.program("other", STAY)
    stage.start_and_wait()
    (first,) = stage.pids("worker")
    os.kill(first, signal.SIGKILL)
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    lines = [line for line in stage.log.splitlines() if str(first) in line and "up" not in line]
    assert lines == [f"worker (pid {first}) was killed by SIGKILL; restarting in 0.5 s"]
    assert len(stage.pids("other")) == 1, "the others are left alone"
    assert state(first) == "Z", "and it is not there any more"
    assert first not in children_of(stage.boss.pid), "not even as a zombie"
    stage.signal(signal.SIGTERM)
    assert stage.status() == 0


def test_a_child_that_keeps_dying_is_restarted_ever_more_slowly(stage: Stage) -> None:
    stage.settings = {"FIRST_DELAY": 0.05, "LONGEST_DELAY": 0.25}
    stage.program("worker", "report_ready()\nif lives() < 6: sys.exit(3)\n" + STAY)
    stage.start()
    stage.wait_for(lambda: stage.pids("worker"))
    delays = re.findall(r"worker \(pid \d+\) exited with code 3; restarting in (\S+) s", stage.log)
    assert delays == ["0.05", "0.1", "0.2", "0.25", "0.25"]


def test_a_child_that_lived_long_enough_starts_with_the_first_delay_again(stage: Stage) -> None:
    stage.settings = {"FIRST_DELAY": 0.05, "STEADY": 0.4}
    stage.program("worker", "report_ready()\nif lives() == 3: time.sleep(0.5)\nif lives() < 5: sys.exit(3)\n" + STAY)
    stage.start()
    stage.wait_for(lambda: stage.pids("worker"))
    assert re.findall(r"restarting in (\S+) s", stage.log) == ["0.05", "0.1", "0.05", "0.1"]


def test_a_restart_that_fails_before_it_is_up_is_tried_again(stage: Stage) -> None:
    stage.settings = {"FIRST_DELAY": 0.05}
    stage.program("worker", "if lives() in (2, 3): sys.exit(4)\nif lives() == 1: report_ready(); sys.exit(5)\n" + STAY)
    stage.start()
    stage.wait_for(lambda: stage.pids("worker"))
    assert len(stage.events("worker", "start")) == 4
    assert len(re.findall(r"exited with code 4 before it was up; restarting in", stage.log)) == 2
    assert stage.boss.poll() is None


def test_what_a_dead_child_left_in_its_group_ends_with_it(stage: Stage) -> None:
    """A pool's processes, say: their work will be done again elsewhere, and not twice."""
    stage.program("worker", "helper = subprocess.Popen(['sleep', '1000']); tell(f'helper={helper.pid}')\n" + STAY)
    stage.start_and_wait()
    (first,) = stage.pids("worker")
    (helper,) = [int(word.partition("=")[2]) for *_, word in stage.events() if "helper=" in word]
    assert alive(helper)
    os.kill(first, signal.SIGKILL)
    stage.wait_for(lambda: not alive(helper))


def test_descriptors_do_not_pile_up_over_restarts(stage: Stage) -> None:
    stage.settings = {"FIRST_DELAY": 0.0}
    stage.program("worker", "report_ready()\nif 1 < lives() < 20: sys.exit(3)\n" + STAY)
    stage.start_and_wait()
    (first,) = stage.wait_for(lambda: stage.pids("worker"))
    count = descriptors(stage.boss.pid)
    os.kill(first, signal.SIGKILL)
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    assert descriptors(stage.boss.pid) == count


def descriptors(pid: int) -> int:
    if not LINUX:
        pytest.skip("counts descriptors in /proc")
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# ------------------------------------------------------------------------------------------------ starting


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("sys.exit(7)", 7, "exited with code 7"),
        ("sys.exit(0)", 1, "exited with code 0"),
        ("raise ImportError", 1, "exited with code 1"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was killed by SIGKILL"),
    ],
)
def test_a_child_that_fails_at_its_first_start_stops_everything(
    stage: Stage, body: str, status: int, told: str
) -> None:
    stage.program("fine", STAY)
    stage.program("broken", f"until(lambda: 'fine' in Path('events').read_text())\n{body}")
    stage.start()
    assert stage.status() == status
    assert re.search(rf"broken \(pid \d+\) {told} before it was up; stopping", stage.log)
    assert all(not alive(pid) for _, pid, _ in stage.events())
    assert len(stage.events("broken", "start")) == 1


def test_a_program_that_is_not_there_stops_everything(stage: Stage) -> None:
    stage.program("fine", STAY)
    stage.programs.append({"name": "absent", "argv": [str(stage.folder / "nowhere")]})
    stage.start()
    assert stage.status() == 1
    assert "absent cannot be started" in stage.log


def test_a_child_is_up_when_it_says_so_and_not_before(stage: Stage) -> None:
    stage.program("one", STAY)
    stage.program("two", f"until(lambda: Path('finish').exists())\n{STAY}")
    stage.start()
    stage.wait_for_log(r"one is up \(pid \d+\)")
    assert "all are up" not in stage.log
    (stage.folder / "finish").touch()
    stage.wait_for_log("all are up")
    assert stage.log.index("two is up") < stage.log.index("all are up")


def test_a_child_leads_a_group_of_its_own_reads_from_nowhere_and_passes_nothing_on(stage: Stage) -> None:
    stage.program(
        "worker",
        "tell(f'group={os.getpgrp() == os.getpid()}'); tell(f'read={len(sys.stdin.read())}')\n"
        "tell('inherited=' + ','.join(n for n in os.environ if n.startswith('LITESTAR_TASKS_')))\n"
        "tell(f'fds={sum(os.get_inheritable(fd) for fd in range(3, 100) if os.path.exists(f\"/dev/fd/{fd}\"))}')\n"
        + STAY,
    )
    stage.start_and_wait()
    words = [word for *_, word in stage.events()]
    assert {"group=True", "read=0", "inherited=", "fds=0"} <= set(words)


def test_without_a_supervisor_its_helpers_do_nothing(stage: Stage) -> None:
    stage.write("alone.py", "report_ready(); tell('end')")
    stage.boss = subprocess.Popen([sys.executable, "alone.py", "alone"], cwd=stage.folder)
    assert stage.boss.wait(SOON) == 0
    assert stage.events(word="end")


# ------------------------------------------------------------------------------------ the supervisor's end


def test_children_stop_when_their_supervisor_is_killed(stage: Stage) -> None:
    """Those that were restarted, and so were born beside the others, too."""
    stage.settings = {"FIRST_DELAY": 0.0}
    for name in ("one", "two", "three"):
        stage.program(name, STAY)
    stage.start_and_wait()
    os.kill(stage.pids("two")[0], signal.SIGKILL)
    stage.wait_for(lambda: len(stage.pids("two")) == 2)
    pids = [stage.pids(name)[-1] for name in ("one", "two", "three")]
    stage.signal(signal.SIGKILL)
    stage.wait_for(lambda: not any(map(alive, pids)), 3)
    assert sorted(pid for _, pid, _ in stage.events(word="end")) == sorted(pids), "by the signal that they know"


def test_an_orphan_may_finish_its_work_but_not_outstay_its_grace(stage: Stage) -> None:
    stage.program("patient", PATIENT, grace=60)
    stage.program("deaf", DEAF, grace=0.5)
    stage.start_and_wait()
    stage.signal(signal.SIGKILL)
    stage.wait_for(lambda: len(stage.events(word="term")) == 2)
    stage.wait_for(lambda: not alive(stage.pids("deaf")[0]))
    assert alive(stage.pids("patient")[0])
    (stage.folder / "finish").touch()
    stage.wait_for(lambda: not alive(stage.pids("patient")[0]))


def test_an_orphan_that_is_still_starting_ends_too(stage: Stage) -> None:
    stage.program("starting", "signal.signal(signal.SIGTERM, signal.SIG_DFL); tell('waits'); until(lambda: False)")
    stage.start()
    stage.wait_for(lambda: stage.events(word="waits"))
    stage.signal(signal.SIGKILL)
    stage.wait_for(lambda: not alive(stage.pids("starting", "start")[0]), 3)


# ----------------------------------------------------------------------------------------------- process 1


def test_as_process_1_it_passes_signals_on_and_leaves_no_zombies(stage: Stage) -> None:
    wrapper = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs unshare and the right to make a pid namespace")
    # The orphan's parent ends at once, and leaves it to process 1.
    stage.program("one", "subprocess.run(['sh', '-c', '(sleep 0.1; echo gone > orphan) &'])\n" + STAY)
    stage.program("two", STAY)
    stage.start_and_wait(*wrapper)
    stage.wait_for(lambda: (stage.folder / "orphan").exists())
    (first,) = children_of(stage.boss.pid)
    stage.wait_for(lambda: len(children_of(first)) == 2)
    assert not [stat for stat in children_of(first).values() if stat.startswith("Z")]
    os.kill(first, signal.SIGTERM)
    assert stage.status() == 0
    for name in ("one", "two"):
        assert [word for *_, word in stage.events(name)] == ["start", "up", "term", "end"]


# ------------------------------------------------------------------------------------------------- reloads


@pytest.fixture
def reloading(stage: Stage) -> Stage:
    pytest.importorskip("watchfiles")
    stage.reload = [str(stage.folder)]
    return stage


def test_an_edit_brings_a_new_child_within_3_seconds_while_the_old_one_finishes(reloading: Stage) -> None:
    stage = reloading
    stage.program("worker", PATIENT)
    stage.start_and_wait()
    (old,) = stage.pids("worker")
    stage.write("worker.py", f"tell('edited')\n{PATIENT}")
    stage.wait_for(lambda: stage.events("worker", "edited"), 3)
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    new = stage.pids("worker")[1]
    assert alive(old)
    assert stage.pids("worker", "term") == [old]
    (stage.folder / "finish").touch()
    stage.wait_for(lambda: not alive(old))
    assert alive(new)
    assert "worker.py changed; restarting worker" in stage.log
    stage.signal(signal.SIGTERM)
    assert stage.status() == 0


def test_a_stop_tells_children_that_are_leaving_already_nothing_new(reloading: Stage) -> None:
    stage = reloading
    stage.program("worker", PATIENT)
    stage.start_and_wait()
    (old,) = stage.pids("worker")
    stage.write("worker.py", f"tell('edited')\n{STAY}")
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    stage.signal(signal.SIGTERM)
    stage.wait_for(lambda: stage.events("worker", "end"))
    assert stage.pids("worker", "term").count(old) == 1
    assert stage.boss.poll() is None
    (stage.folder / "finish").touch()
    assert stage.status() == 0


def test_an_exclusive_child_starts_only_when_the_old_one_has_ended(reloading: Stage) -> None:
    stage = reloading
    stage.program("web", PATIENT, exclusive=True)
    stage.program("worker", STAY)
    stage.start_and_wait()
    stage.write("web.py", STAY)
    stage.wait_for(lambda: stage.events("web", "term"))
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    assert len(stage.events("web", "start")) == 1
    (stage.folder / "finish").touch()
    stage.wait_for(lambda: len(stage.pids("web")) == 2)
    words = [(pid, word) for _, pid, word in stage.events("web")]
    old, new = (pid for pid, word in words if word == "start")
    assert words.index((old, "end")) < words.index((new, "start"))


def test_a_broken_edit_is_said_and_the_fixed_one_starts(reloading: Stage) -> None:
    stage = reloading
    stage.program("worker", STAY)
    stage.start_and_wait()
    stage.write("worker.py", "this is no Python")
    stage.wait_for_log(r"worker \(pid \d+\) exited with code 1 before it was up; waiting for the next edit")
    assert "SyntaxError" in stage.log
    assert stage.boss.poll() is None
    stage.write("worker.py", f"tell('fixed')\n{STAY}")
    stage.wait_for(lambda: stage.events("worker", "fixed"), 3)
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    assert len(re.findall("waiting for the next edit", stage.log)) == 1, "it was not tried again in between"


def test_a_first_start_that_fails_ends_it_even_when_reloading(reloading: Stage) -> None:
    stage = reloading
    stage.program("worker", "sys.exit(6)")
    stage.start()
    assert stage.status() == 6


def test_an_edit_does_not_wait_for_the_delay_after_a_crash(reloading: Stage) -> None:
    stage = reloading
    stage.settings = {"FIRST_DELAY": 1000.0, "LONGEST_DELAY": 1000.0}
    stage.program("worker", "report_ready(); sys.exit(3)")
    stage.start()
    stage.wait_for_log("restarting in 1000 s")
    stage.write("worker.py", STAY)
    stage.wait_for(lambda: stage.pids("worker"), 3)


def test_files_that_are_no_source_of_the_app_restart_nothing(reloading: Stage) -> None:
    stage = reloading
    stage.program("worker", STAY)
    stage.start_and_wait()
    for name in (".venv/lib/x.py", ".hidden/x.py", "__pycache__/x.py", "venv/lib/site-packages/x.py", "data/x.txt"):
        path = stage.folder / name
        path.parent.mkdir(parents=True)
        path.write_text("x = 1")
    (stage.folder / "pkg").mkdir()
    (stage.folder / "pkg" / "late.py").write_text("x = 1")
    stage.wait_for_log("changed")
    assert re.findall("(.*) changed", stage.log) == ["pkg/late.py"]


def test_edits_in_a_row_are_one_restart(reloading: Stage) -> None:
    stage = reloading
    stage.program("worker", STAY)
    stage.start_and_wait()
    for number in range(20):
        (stage.folder / f"module{number}.py").write_text("x = 1")
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)
    assert stage.log.count("changed") == 1
    assert "module0.py, module1.py, module10.py, … changed; restarting worker" in stage.log


def test_the_folder_itself_may_be_hidden(reloading: Stage) -> None:
    stage = reloading
    hidden = stage.folder / ".work" / "site-packages"
    hidden.mkdir(parents=True)
    stage.reload = [str(hidden)]
    stage.program("worker", STAY)
    stage.start_and_wait()
    (hidden / "app.py").write_text("x = 1")
    stage.wait_for(lambda: len(stage.pids("worker")) == 2)


def test_a_project_that_is_deleted_under_it_does_not_bring_it_down(reloading: Stage, tmp_path: Path) -> None:
    stage = reloading
    stage.folder = tmp_path / "project"
    stage.folder.mkdir()
    stage.reload = [str(stage.folder)]
    stage.program("worker", STAY)
    stage.start_and_wait()
    (old,) = stage.pids("worker")
    with (stage.folder / "log").open() as log:
        shutil.rmtree(stage.folder)
        told = ""
        deadline = time.monotonic() + SOON
        while "waiting for the next edit" not in told:
            assert time.monotonic() < deadline, told
            told += log.read()
    stage.wait_for(lambda: not alive(old))  # it leaves beside the new one, which may have failed before that
    stage.signal(signal.SIGTERM)
    assert stage.boss.wait(SOON) == 0
