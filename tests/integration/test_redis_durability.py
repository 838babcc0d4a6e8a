"""When an enqueue counts as accepted: by the server, on its disk, on its replicas."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from litestar_tasks import BrokerError, ConfigurationError, QueueUnavailableError, Registry, TasksConfig, TasksPlugin
from litestar_tasks import enqueue_many as enqueue_many_calls
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import WorkerHooks
from litestar_tasks.queues.redis import RedisQueue
from tests.integration.conftest import eventually
from tests.servers import BINARIES, RedisServer

StartServer = Callable[..., RedisServer]
MakeQueue = Callable[..., RedisQueue]

LONG = 20.0
"""Seconds for enqueues that are to succeed, on however slow a machine."""
SHORT = 3.0
"""Seconds for those that are to fail. The server is to tell how far it has come half a second before."""
OLD = [pytest.param(name, id=name) for name in BINARIES if name != "valkey"]
"""Servers without WAITAOF."""
EACH = [pytest.param(name, id=name) for name in BINARIES]
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def start() -> Iterator[StartServer]:
    """Starts servers of any kind."""
    servers: list[RedisServer] = []

    def one(kind: str, *options: str) -> RedisServer:
        if kind not in BINARIES:
            pytest.skip(f"there is no {kind} here")
        servers.append(RedisServer(*options, binary=BINARIES[kind]))
        return servers[-1]

    yield one
    for server in servers:
        server.close()


@pytest.fixture
async def start_pair(start: StartServer) -> Callable[..., Any]:
    """Starts a master and a replica that follows it."""

    async def pair(kind: str) -> tuple[RedisServer, RedisServer]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        soon = ("--repl-diskless-sync-delay", "0")
        master = start(kind, "--port", port, *soon)
        replica = start(kind, "--replicaof", "127.0.0.1", port, *soon)
        await eventually(lambda: replica.client.info("replication")["master_link_status"] == "up", within=30)
        await eventually(lambda: "state=online" in _replicas_of(master), within=30)
        return master, replica

    return pair


def _replicas_of(master: RedisServer) -> str:
    info = master.client.info("replication")
    return ",".join(f"state={info[f'slave{number}']['state']}" for number in range(info["connected_slaves"]))


def spec(key: str, **options: Any) -> JobSpec:
    return JobSpec(task="noop", kwargs={}, key=key, **options)


def job_id(key: str) -> str:
    return f"saq:job:default:{key}"


def stored(server: RedisServer) -> set[str]:
    client: Any = server.client
    return {name.decode().rpartition(":")[2] for name in client.zrange("saq:default:incomplete", 0, -1)}


def calls(server: RedisServer, command: str) -> int:
    """How often the server has been asked something."""
    stats: Any = server.client.info("commandstats")
    return sum(said["calls"] for name, said in stats.items() if name.partition("|")[0] == f"cmdstat_{command}")


async def open_worker(queue: RedisQueue) -> None:
    await queue.open("w", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))


async def enqueue_until_refused(queue: RedisQueue, name: str, accepted: set[str]) -> None:
    """Enqueue one after the other, and note what was accepted."""
    number = 0
    while True:
        key = f"{name}-{number}"
        try:
            await queue.submit(spec(key))
        except QueueUnavailableError:
            return
        accepted.add(key)
        number += 1


async def enqueue_batches_until_refused(queue: RedisQueue, name: str, accepted: set[str]) -> None:
    """Enqueue many at once, again and again, and note what was accepted."""
    number = 0
    while True:
        keys = [f"{name}-{number}-{each}" for each in range(450)]
        try:
            await queue.submit_many([spec(key) for key in keys])
        except QueueUnavailableError:
            return
        accepted.update(keys)
        number += 1


# The setting


@pytest.mark.parametrize("setting", ["disc", "", "Disk", "replicas", "replicas:", "replicas:0", "replicas:x", "disk "])
def test_a_setting_that_there_is_not_is_answered_with_those_that_there_are(setting: str) -> None:
    for make in (
        lambda: TasksConfig(registry=Registry("r"), durability=setting),
        lambda: RedisQueue.from_url("redis://nowhere", durability=setting),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert str(caught.value).startswith(f"durability is {setting!r}; use ")
        assert all(word in str(caught.value) for word in ('"process"', '"disk"', '"replicas:n"'))


@pytest.mark.parametrize("setting", ["disk", "replicas:1"])
def test_memory_cannot_keep_more_than_the_process_does(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be kept by memory://, whose jobs end with the process"):
        TasksConfig(registry=Registry("r"), broker_url="memory://", durability=setting)
    assert TasksConfig(registry=Registry("r"), broker_url="memory://").durability == "process"


@pytest.mark.parametrize("kind", EACH)
async def test_by_default_an_enqueue_asks_for_nothing_but_to_be_stored(
    start: StartServer, make_queue: MakeQueue, kind: str
) -> None:
    server = start(kind)
    queue = make_queue(server.url)
    await queue.connect()
    await queue.submit(spec("first"))
    others = ("wait", "waitaof", "config", "eval", "set", "ping")
    stored_by, asked = calls(server, "evalsha"), [calls(server, command) for command in others]
    for number in range(5):
        await queue.submit(spec(f"k{number}"))
    await queue.submit_many([spec(f"many{number}") for number in range(300)])
    assert calls(server, "evalsha") - stored_by == 5 + 2
    assert [calls(server, command) for command in others] == asked
    assert not server.client.exists("saq:default:written")


# On disk


@pytest.mark.parametrize(
    ("kind", "rhythm"), [*((name, "always") for name in BINARIES), pytest.param("valkey", "everysec")]
)
async def test_what_was_accepted_on_disk_is_there_after_the_server_was_killed(
    start: StartServer, make_queue: MakeQueue, kind: str, rhythm: str
) -> None:
    server = start(kind, "--appendonly", "yes", "--appendfsync", rhythm)
    accepted: set[str] = set()
    queues = [make_queue(server.url, durability="disk", enqueue_deadline=LONG) for _ in range(2)]
    for queue in queues:
        await queue.connect()
    enqueueing = [
        asyncio.create_task(enqueue(queue, f"{number}{enqueue.__name__}", accepted))
        for number, queue in enumerate(queues)
        for enqueue in (enqueue_until_refused, enqueue_until_refused, enqueue_batches_until_refused)
    ]
    await eventually(lambda: len(accepted) > 1000, within=60)
    for queue in queues:
        queue._producer._deadline = 0.5  # the refusals need not be waited for
    server.kill()
    await asyncio.wait_for(asyncio.gather(*enqueueing), 60)
    server.start()
    assert accepted - stored(server) == set()


async def test_nothing_is_accepted_before_it_is_flushed_and_the_same_id_can_be_sent_again(
    start: StartServer, make_queue: MakeQueue
) -> None:
    server = start("valkey", *ALWAYS)
    first, second, bulk = [make_queue(server.url, durability="disk", enqueue_deadline=SHORT) for _ in range(3)]
    for queue in (first, second, bulk):
        await queue.connect()
    server.client.config_set("appendfsync", "no")
    # One of the three finds the job there, written over another's connection: it has to wait for it all the same.
    attempts = (first.submit(spec("k")), second.submit(spec("k")), bulk.submit_many([spec("k")]))
    begun = time.monotonic()
    refusals = await asyncio.gather(*attempts, return_exceptions=True)
    assert time.monotonic() - begun < SHORT + 5
    for refusal in refusals:
        assert isinstance(refusal, QueueUnavailableError)
        assert (refusal.job_id, refusal.maybe_enqueued) == (job_id("k"), True)
        assert "durability='disk': not flushed within 2.5 s; is the server's disk slow or full?" in str(refusal)
        assert "may have been enqueued all the same" in str(refusal)
    server.client.config_set("appendfsync", "always")
    for submission in (await first.submit(spec("k")), *await bulk.submit_many([spec("k")])):
        assert submission.job.id == job_id("k")
    assert stored(server) == {"k"}


@pytest.mark.parametrize("kind", OLD)
async def test_an_old_server_whose_settings_were_changed_is_noticed_with_each_enqueue(
    start: StartServer, make_queue: MakeQueue, kind: str
) -> None:
    server = start(kind, *ALWAYS)
    queue = make_queue(server.url, durability="disk", enqueue_deadline=LONG)
    await queue.connect()
    await queue.submit(spec("before"))
    server.client.config_set("appendfsync", "everysec")
    for enqueue in (queue.submit(spec("k")), queue.submit_many([spec("k")])):
        with pytest.raises(
            QueueUnavailableError, match=r"appendfsync is 'everysec'.*set 'appendfsync always'"
        ) as caught:
            await enqueue
        assert (caught.value.job_id, caught.value.maybe_enqueued) == (job_id("k"), True)
    server.client.config_set("appendfsync", "always")
    assert (await queue.submit(spec("k"))).job.id == job_id("k")


REFUSED: list[Any] = [
    ("valkey", ("--appendonly", "no"), "appendonly is 'no', so that nothing is on its disk; set 'appendonly yes'"),
    ("valkey", ("--appendonly", "yes", "--appendfsync", "no"), "appendfsync is 'no'.*set it to 'always' or 'everysec'"),
    *((old, ("--appendonly", "no"), "appendonly is 'no'.*set 'appendonly yes'") for old in ("redis", "redis-6.2")),
    *(
        (old, ("--appendonly", "yes"), "appendfsync is 'everysec'.*set 'appendfsync always', or use Redis 7.2")
        for old in ("redis", "redis-6.2")
    ),
    *(
        (old, (*ALWAYS, "--no-appendfsync-on-rewrite", "yes"), "set 'no-appendfsync-on-rewrite no'")
        for old in ("redis", "redis-6.2")
    ),
]


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED)
async def test_a_server_that_flushes_too_late_is_refused_at_the_start(
    start: StartServer, make_queue: MakeQueue, kind: str, options: tuple[str, ...], said: str
) -> None:
    server = start(kind, *options)
    queue = make_queue(server.url, durability="disk")
    for begin in (queue.connect, lambda: open_worker(queue)):
        with pytest.raises(BrokerError, match=said) as caught:
            await begin()
        assert f"queue 'default': Redis at {server.folder}" in str(caught.value)
        assert "cannot keep durability='disk'" in str(caught.value)
    with pytest.raises(QueueUnavailableError, match=said) as refused:
        await queue.submit(spec("k"))
    assert not refused.value.maybe_enqueued
    assert stored(server) == set()
    await make_queue(server.url).connect()


@pytest.mark.parametrize("kind", OLD)
async def test_an_old_server_that_cannot_be_checked_is_refused(
    start: StartServer, make_queue: MakeQueue, kind: str
) -> None:
    server = start(kind, *ALWAYS)
    url = restricted(server, "-config")
    with pytest.raises(BrokerError, match=r"cannot be checked: .*allow this user CONFIG GET, or use Redis 7\.2"):
        await make_queue(url, durability="disk").connect()


async def test_a_newer_server_need_not_be_checked_if_it_tells(start: StartServer, make_queue: MakeQueue) -> None:
    server = start("valkey", *ALWAYS)
    queue = make_queue(restricted(server, "-config", "-info"), durability="disk", enqueue_deadline=LONG)
    await queue.connect()
    await queue.submit(spec("k"))
    with pytest.raises(BrokerError, match="allow this user WAITAOF"):
        await make_queue(restricted(server, "-waitaof"), durability="disk").connect()


def restricted(server: RedisServer, *rules: str) -> str:
    """The URL of a user who may not do everything."""
    server.client.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">x", "~*", "&*", "+@all", *rules)
    return server.url.replace("unix://", "unix://bob:x@")


async def test_a_server_that_was_away_at_the_start_is_looked_at_before_the_first_job(
    start: StartServer, make_queue: MakeQueue
) -> None:
    server = start("valkey", "--appendonly", "no")
    server.kill()
    queue = make_queue(server.url, durability="disk", enqueue_deadline=LONG)
    await queue.connect()
    server.start()
    for enqueue in (queue.submit(spec("k")), queue.submit_many([spec("k")])):
        with pytest.raises(QueueUnavailableError, match="set 'appendonly yes'") as caught:
            await enqueue
        assert not caught.value.maybe_enqueued
    assert stored(server) == set()
    server.client.config_set("appendonly", "yes")
    await eventually(lambda: not server.client.info("persistence")["aof_rewrite_in_progress"], within=30)
    await queue.submit(spec("k"))


async def test_a_server_that_stopped_writing_to_its_disk_is_noticed(start: StartServer, make_queue: MakeQueue) -> None:
    server = start("valkey", *ALWAYS)
    queue = make_queue(server.url, durability="disk", enqueue_deadline=LONG)
    await queue.connect()
    server.client.config_set("appendonly", "no")
    with pytest.raises(QueueUnavailableError, match=r"it cannot be confirmed: .*appendonly is disabled") as caught:
        await queue.submit(spec("k"))
    assert caught.value.maybe_enqueued
    with pytest.raises(QueueUnavailableError, match="set 'appendonly yes'") as caught:
        await queue.submit(spec("next"))
    assert not caught.value.maybe_enqueued


async def test_many_enqueues_share_a_wait(start: StartServer, make_queue: MakeQueue) -> None:
    server = start("valkey", "--appendonly", "yes")
    queue = make_queue(server.url, durability="disk", enqueue_deadline=LONG)
    await queue.connect()
    before = calls(server, "waitaof")
    await asyncio.gather(*(queue.submit(spec(f"k{number}")) for number in range(1000)))
    assert calls(server, "waitaof") - before <= 3
    before = calls(server, "waitaof")
    await queue.submit_many([spec(f"many{number}") for number in range(1000)])
    assert calls(server, "waitaof") - before == 1
    client: Any = server.client
    order = [name.decode().rpartition(":")[2] for name in client.lrange("saq:default:queued", 0, -1)]
    assert order == [f"k{number}" for number in range(1000)] + [f"many{number}" for number in range(1000)]


async def test_many_jobs_of_which_the_server_may_have_forgotten_some_are_not_accepted(
    start: StartServer, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("valkey", *ALWAYS)
    queue = make_queue(server.url, durability="disk", enqueue_deadline=LONG)
    await queue.connect()
    store_part = queue._producer._store_part
    parts = 0

    async def cut_before_the_second(*args: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts == 2:
            server.client.client_kill_filter(_type="normal", skipme=True)
        return await store_part(*args)

    monkeypatch.setattr(queue._producer, "_store_part", cut_before_the_second)
    jobs = [spec(f"k{number}") for number in range(500)]
    with pytest.raises(QueueUnavailableError, match="connection was lost before the jobs were confirmed") as caught:
        await queue.submit_many(jobs)
    assert (caught.value.job_id, caught.value.maybe_enqueued) == (job_id("k0"), True)
    assert len(await queue.submit_many(jobs)) == 500
    assert len(stored(server)) == 500


async def test_a_lost_connection_or_lost_scripts_cost_no_enqueue(start: StartServer, make_queue: MakeQueue) -> None:
    server = start("valkey", *ALWAYS)
    queue = make_queue(server.url, durability="disk", enqueue_deadline=LONG)
    for number, upset in enumerate(
        (
            lambda: None,
            lambda: server.client.script_flush(),
            lambda: server.client.client_kill_filter(_type="normal", skipme=True),
            lambda: (server.kill(), server.start()),
        )
    ):
        upset()
        assert not (await queue.submit(spec(f"k{number}"))).deduplicated
        upset()
        assert not (await queue.submit_many([spec(f"many{number}")]))[0].deduplicated
    assert len(stored(server)) == 8


async def test_a_server_that_flushes_each_second_is_said_to_need_a_longer_timeout(
    start: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    server = start("valkey", "--appendonly", "yes")
    await make_queue(server.url, durability="disk", enqueue_deadline=5).connect()
    assert not caplog.records
    await make_queue(server.url, durability="disk", enqueue_deadline=2.0).connect()
    assert "has appendfsync 'everysec'" in caplog.text
    assert "timeout of 2 s: set appendfsync 'always' there, or enqueue_timeout=5" in caplog.text


registry = Registry("durable")


@registry.task
async def noop(*, number: int) -> None: ...


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_the_embedded_server_flushes_each_second_which_suffices_where_it_can_be_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind not in BINARIES:
        pytest.skip(f"there is no {kind} here")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / f"{kind}-server").symlink_to(BINARIES[kind])
    monkeypatch.setenv("PATH", str(folder))
    config = TasksConfig(
        registry=registry, embedded_directory=tmp_path / "broker", durability="disk", enqueue_timeout=LONG
    )
    plugin = TasksPlugin(config)
    if kind == "redis":
        with pytest.raises(BrokerError, match="appendfsync is 'everysec'"):
            async with plugin.attached():
                pass
        return
    async with plugin.attached():
        queue: Any = plugin.get_queue("default")
        waits = []
        for enqueue in (
            lambda: noop.enqueue(number=1),
            lambda: plugin.get_queues().get("default").enqueue("noop", number=2),
            lambda: enqueue_many_calls(noop.bind(number=number) for number in range(3, 6)),
            lambda: queue.submit(spec("firing", once=True)),
            lambda: queue.submit(spec("firing", once=True)),
        ):
            await enqueue()
            stats = await queue.redis.info("commandstats")
            waits.append(stats["cmdstat_waitaof"]["calls"])
        assert [after - before for before, after in pairwise(waits)] == [1, 1, 1, 1]
        assert await queue.count("queued") == 6


# On replicas


@pytest.mark.parametrize("kind", EACH)
async def test_the_promoted_replica_has_what_was_accepted(
    start_pair: Callable[..., Any], make_queue: MakeQueue, kind: str
) -> None:
    master, replica = await start_pair(kind)
    accepted: set[str] = set()
    queue = make_queue(master.url, durability="replicas:1", enqueue_deadline=LONG)
    await queue.connect()
    enqueueing = [
        asyncio.create_task(enqueue(queue, f"{number}", accepted))
        for number, enqueue in enumerate((enqueue_until_refused, enqueue_until_refused, enqueue_batches_until_refused))
    ]
    await eventually(lambda: len(accepted) > 1000, within=60)
    queue._producer._deadline = 0.5  # the refusals need not be waited for
    master.kill()
    await asyncio.wait_for(asyncio.gather(*enqueueing), 60)
    replica.client.replicaof("NO", "ONE")
    assert accepted - stored(replica) == set()


@pytest.mark.parametrize("kind", ["valkey", "redis-6.2"])
async def test_nothing_is_accepted_while_the_replica_stands_still(
    start_pair: Callable[..., Any], make_queue: MakeQueue, kind: str
) -> None:
    master, replica = await start_pair(kind)
    first, second, bulk = [make_queue(master.url, durability="replicas:1", enqueue_deadline=SHORT) for _ in range(3)]
    await first.submit(spec("before"))
    replica.freeze()
    # One of the three finds the job there, written over another's connection: it has to wait for it all the same.
    attempts = (first.submit(spec("k")), second.submit(spec("k")), bulk.submit_many([spec("k")]))
    begun = time.monotonic()
    refusals = await asyncio.gather(*attempts, return_exceptions=True)
    assert time.monotonic() - begun < SHORT + 5
    for refusal in refusals:
        assert isinstance(refusal, QueueUnavailableError)
        assert (refusal.job_id, refusal.maybe_enqueued) == (job_id("k"), True)
        assert "durability='replicas:1': 0 of 1 replicas acknowledged within 2.5 s" in str(refusal)
    replica.thaw()
    patient = make_queue(master.url, durability="replicas:1", enqueue_deadline=LONG)
    for submission in (await patient.submit(spec("k")), *await patient.submit_many([spec("k")])):
        assert (submission.job.id, submission.deduplicated) == (job_id("k"), True)
    assert stored(master) == stored(replica) == {"before", "k"}


async def test_missing_replicas_are_warned_of_at_the_start_and_said_by_each_enqueue(
    start_pair: Callable[..., Any], make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    master, _ = await start_pair("redis")
    await make_queue(master.url, durability="replicas:1").connect()
    assert not caplog.records
    queue = make_queue(master.url, durability="replicas:2", enqueue_deadline=SHORT)
    await queue.connect()
    assert "has 1 connected replicas, and durability='replicas:2' needs 2" in caplog.text
    assert "min-replicas-to-write 2" in caplog.text
    with pytest.raises(QueueUnavailableError, match="1 of 2 replicas acknowledged") as caught:
        await queue.submit(spec("k"))
    assert (caught.value.job_id, caught.value.maybe_enqueued) == (job_id("k"), True)
