"""Queues where there is more than one server, or more than a plain connection: cluster, Sentinel, TLS, access lists."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
from redis.exceptions import RedisError
from saq.job import Status

from litestar_tasks import BrokerError, ConfigurationError, QueueUnavailableError
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import ClaimedJob, Settlement, WorkerHooks
from litestar_tasks.queues.operations import JobFilter, Minute, TaskMinute
from litestar_tasks.queues.redis import RedisQueue
from litestar_tasks.queues.redis.connection import never_sent
from litestar_tasks.queues.redis.lua import Script
from litestar_tasks.uniqueness import Lock
from tests.homes import free_port
from tests.integration.conftest import eventually
from tests.servers import BINARIES, RedisCluster, RedisServer, Sentinel, cluster_ports

MakeQueue = Callable[..., RedisQueue]
StartServer = Callable[..., RedisServer]

EACH = [pytest.param(path, id=name) for name, path in BINARIES.items()]
SOON = ("--repl-diskless-sync-delay", "0")
DEBIANS = BINARIES.get("redis")
"""The only one of them that is built with TLS."""
LONG = 20.0
"""Seconds for enqueues that are answered at once, on however slow a machine."""
GUIDE = Path(__file__).parents[2] / "QUEUE_SETUP.md"


def spec(key: str | None = None, **options: Any) -> JobSpec:
    return JobSpec(task="noop", kwargs={}, key=key, **options)


class Crew:
    """A worker: notes when each job began, and when its end was confirmed."""

    def __init__(self, queue: RedisQueue) -> None:
        self.queue = queue
        self.began: defaultdict[str, list[float]] = defaultdict(list)
        self.ended: dict[str, float] = {}
        self.aborted: list[str] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        await self.queue.open("crew", WorkerHooks(abort=lambda key, _: self.aborted.append(key), lost=lambda _: None))
        while True:
            with suppress(BrokerError):
                for job in await self.queue.claim(20):
                    task = asyncio.create_task(self._work(job))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)

    async def _work(self, job: ClaimedJob) -> None:
        self.began[job.key].append(monotonic())
        if job.key.startswith("long"):
            await eventually(lambda: job.key in self.aborted, within=60)
            job.status, job.error = Status.ABORTED, "asked for"
        else:
            await asyncio.sleep(0.005)
            job.status, job.result = Status.COMPLETE, "done"
        settlement = Settlement.ABORTED if job.status is Status.ABORTED else Settlement.COMPLETE
        if await self.queue.settle(job, settlement):
            self.ended.setdefault(job.key, monotonic())


class Feed:
    """An application: enqueues one job after the other, and notes which were accepted.

    Attributes:
        confirmed: What was written before this moment is where the accepted jobs have to be.
    """

    def __init__(self, queue: RedisQueue, name: str) -> None:
        self.queue = queue
        self.accepted: list[str] = []
        self.confirmed = 0.0
        self._name = name

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            key, begun = f"{self._name}-{number}", monotonic()
            with suppress(QueueUnavailableError):
                await self.queue.submit(spec(key))
                self.accepted.append(key)
                self.confirmed = begun
            await asyncio.sleep(0.002)


@asynccontextmanager
async def running(*parts: Crew | Feed) -> AsyncGenerator[None]:
    """Has workers and applications run within a block."""
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def changes(caplog: pytest.LogCaptureFixture, queue: str) -> tuple[list[str], list[str]]:
    """What was said of the server's being away, and of its being back."""
    messages = [record.getMessage() for record in caplog.records if record.name == "litestar_tasks.queues"]
    said = [text for text in messages if text.startswith(f"queue {queue!r}: Redis at")]
    return [text for text in said if "does not answer" in text], [text for text in said if "answers again" in text]


async def goes_on(*feeds: Feed) -> None:
    """Wait until each of them has had twenty more jobs accepted."""
    before = [len(feed.accepted) for feed in feeds]
    await eventually(
        lambda: all(len(feed.accepted) >= count + 20 for feed, count in zip(feeds, before, strict=True)), within=60
    )


async def all_end(crew: Crew, feed: Feed) -> None:
    """Wait until everything that was accepted has ended."""
    await eventually(lambda: set(feed.accepted) <= crew.ended.keys(), within=60)


# Cluster


@pytest.fixture(scope="module", params=EACH)
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """A cluster of three masters, which no test may stop, and which none leaves with slots elsewhere than before."""
    one = RedisCluster(request.param)
    yield one
    one.close()


@pytest.fixture
def start_cluster() -> Iterator[Callable[..., RedisCluster]]:
    clusters: list[RedisCluster] = []

    def start(**options: Any) -> RedisCluster:
        clusters.append(RedisCluster(**options))
        return clusters[-1]

    yield start
    for one in clusters:
        one.close()


def names(cluster: RedisCluster) -> Iterator[tuple[str, int]]:
    """Names of queues, each with the number of the node that owns its slot."""
    for number in range(1000):
        yield f"q{number}", cluster.owner(f"q{number}")


async def test_queues_of_a_cluster_live_on_the_nodes_that_own_their_slots(
    cluster: RedisCluster, make_queue: MakeQueue
) -> None:
    labels = {owner: label for label, owner in names(cluster)}
    crews = [Crew(make_queue(cluster.url, label=labels[number])) for number in (0, 2)]
    async with running(*crews):
        for number, crew in zip((0, 2), crews, strict=True):
            label = labels[number]
            queue = make_queue(cluster.url, label=label, enqueue_deadline=LONG)
            first = await queue.submit(spec("ünï{code}d"))
            await queue.submit_many([spec(f"many-{each}", priority=each % 3 - 1) for each in range(300)])
            await queue.submit(spec("later", run_at=datetime.now(UTC) + timedelta(seconds=0.2)))
            assert first.job.id == f"saq:job:{{{label}}}:ünï{{code}}d"
            for key in ("ünï{code}d", "many-299", "later"):
                ended = await queue.wait(key, 30)
                assert ended is not None
                assert (ended.status, ended.result) == (Status.COMPLETE, "done")
            await queue.submit(spec("long"))
            await eventually(lambda crew=crew: "long" in crew.began)
            assert await queue.cancel("long", "asked for")
            ended = await queue.wait("long", 30)
            assert ended is not None
            assert ended.status is Status.ABORTED
            # SAQ's own connections know the way, too.
            await queue.write_worker_info("w", {"stats": None, "queue_key": None, "metadata": None}, ttl=60)
            info = await queue.info(jobs=True)
            assert (list(info["workers"]), info["queued"], info["active"]) == (["w"], 0, 0)
            assert (await queue.counts())["complete"] == 302
            keys = [key.decode() for key in cluster.nodes[number].client.keys("*")]
            assert first.job.id in keys
            assert all(key.startswith((f"saq:{{{label}}}:", f"saq:job:{{{label}}}:")) for key in keys)


def test_stock_producers_are_no_capability_of_a_cluster(make_queue: MakeQueue) -> None:
    plain, clustered = (make_queue(f"{scheme}://127.0.0.1:1") for scheme in ("redis", "redis+cluster"))
    assert plain.capabilities - clustered.capabilities == {"stock_producers"}
    assert (plain.job_id("k"), clustered.job_id("k")) == ("saq:job:default:k", "saq:job:{default}:k")


async def test_a_queue_waits_while_its_slot_moves_to_another_node_and_loses_and_doubles_nothing(
    cluster: RedisCluster, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    label = next(label for label, owner in names(cluster) if owner == 1 and label != "q1")
    crew = Crew(make_queue(cluster.url, label=label))
    feeds = [Feed(make_queue(cluster.url, label=label), name) for name in ("a", "b")]
    records = make_queue(cluster.url, label=label, enqueue_deadline=LONG)
    async with running(crew):
        async with running(*feeds):
            await goes_on(*feeds)
            await records.pause()
            await records.submit_many([spec(f"waits-{number}", priority=number % 2) for number in range(300)])
            cluster.begin_move(label, 2)
            # The lists are here and the records there, when the worker goes on, and everybody comes across it.
            assert cluster.move_keys(label, 2, "saq:job:", 1000) >= 300
            assert cluster.nodes[1].client.delete(f"saq:{{{label}}}:paused") == 1
            await eventually(lambda: all(part.queue._outage.lasting for part in (crew, *feeds)))
            # This one reads lists before it comes to records; it must not begin, or jobs would be in no list any more.
            with pytest.raises(QueueUnavailableError, match="its hash slot is being moved"):
                await records._operator._link.run(Script("purge"), 200)
            cluster.move_keys(label, 2, "", 10_000)
            cluster.end_move(label, 2)
            await goes_on(*feeds)
        for feed in feeds:
            await all_end(crew, feed)
        await eventually(lambda: {f"waits-{number}" for number in range(300)} <= crew.ended.keys(), within=60)
        assert max(map(len, crew.began.values())) == 1
        assert (await records.info())["queued"] == 0
    assert cluster.move_keys(label, 2, "", 10) == 0
    away, back = changes(caplog, label)
    assert any("its hash slot is being moved" in line for line in away)
    assert 3 <= len(back) <= len(away) <= len(back) + 2  # each object says each change once


async def test_queues_outlive_the_restart_of_their_node_and_its_loss_where_it_has_a_replica(
    start_cluster: Callable[..., RedisCluster], make_queue: MakeQueue
) -> None:
    cluster = start_cluster(replica=True)
    labels = {owner: label for label, owner in names(cluster)}
    crews = [Crew(make_queue(cluster.url, label=labels[number])) for number in (0, 2)]
    lasting = make_queue(cluster.url, label=labels[0], durability="replicas:1", enqueue_deadline=5.0)
    feeds = [Feed(lasting, "k"), Feed(make_queue(cluster.url, label=labels[2]), "k")]
    later = make_queue(cluster.url, label=labels[0])

    async def is_accepted() -> bool:
        with suppress(QueueUnavailableError):
            return bool((await later.submit(spec("after"))).job)
        return False

    async with running(*crews):
        async with running(*feeds):
            await goes_on(*feeds)
            cluster.nodes[2].kill()
            await eventually(lambda: all(part.queue._outage.lasting > 0 for part in (crews[1], feeds[1])))
            await goes_on(feeds[0])
            cluster.nodes[2].start()
            await goes_on(*feeds)
            confirmed = feeds[0].confirmed
            cluster.nodes[0].kill()
        for crew, feed in zip(crews, feeds, strict=True):
            await all_end(crew, feed)
        await eventually(is_accepted, within=60)
        await eventually(lambda: "after" in crews[0].ended, within=60)
    assert doubled(crews[0], confirmed) == set()


def doubled(crew: Crew, confirmed: float, over: float = inf) -> set[str]:
    """Jobs that began twice though they were not under way at a failover.

    Args:
        crew: Who ran them.
        confirmed: What ended before had reached the replica.
        over: What began from then on was the new master's alone.
    """
    twice = {key: begins[0] for key, begins in crew.began.items() if len(begins) > 1}
    return {key for key, first in twice.items() if crew.ended.get(key, inf) < confirmed or first > over}


async def test_a_url_of_one_server_is_refused_by_a_cluster_and_the_other_way_round(
    cluster: RedisCluster, start_server: StartServer, make_queue: MakeQueue
) -> None:
    hooks = WorkerHooks(abort=lambda *_: None, lost=lambda _: None)
    node = make_queue(f"redis://127.0.0.1:{cluster.ports[0]}", label="q1")
    with pytest.raises(BrokerError, match=r"is a node of a cluster; write redis\+cluster://"):
        await node.open("w", hooks)
    owner = cluster.owner("q1")
    other = make_queue(f"redis://127.0.0.1:{cluster.ports[(owner + 1) % 3]}", label="q1", enqueue_deadline=LONG)
    with pytest.raises(QueueUnavailableError, match=r"it is a node of a cluster; write redis\+cluster://"):
        await other.submit(spec())
    port = free_port()
    start_server("--port", str(port))
    alone = make_queue(f"redis+cluster://127.0.0.1:{port}", enqueue_deadline=LONG)
    with pytest.raises(BrokerError, match=r"is no node of a cluster; write redis:// or redis\+sentinel://"):
        await alone.open("w", hooks)
    with pytest.raises(QueueUnavailableError, match="is no node of a cluster"):
        await alone.submit(spec())


async def test_clients_for_clusters_and_for_sentinel_are_refused_with_what_to_write() -> None:
    sentinel = redis.asyncio.sentinel.Sentinel([("127.0.0.1", 1)])
    clients: list[Any] = [redis.asyncio.cluster.RedisCluster(host="127.0.0.1", port=1), sentinel.master_for("main")]
    for client in clients:
        with pytest.raises(ConfigurationError, match=r"give RedisQueue.from_url a URL with redis\+cluster://"):
            RedisQueue(client)
        await client.aclose()


# Sentinel


class Watched:
    """A master, its replica, and the sentinel or sentinels that watch them."""

    def __init__(self) -> None:
        self.ports = free_port(), free_port()
        self.servers = {self.ports[0]: RedisServer("--port", str(self.ports[0]), *SOON)}
        self.servers[self.ports[1]] = RedisServer(
            "--port", str(self.ports[1]), "--replicaof", "127.0.0.1", str(self.ports[0]), *SOON
        )
        self.port = free_port()
        self.sentinels: list[Sentinel] = []

    async def watch(self) -> Sentinel:
        await self._replicated()
        sentinel = Sentinel(self.port, self.ports[0])
        self.sentinels.append(sentinel)
        await eventually(lambda: sentinel.replicas() == 1, within=60)
        return sentinel

    async def watch_by_three(self) -> list[Sentinel]:
        """Sentinels that know each other, and decide by two votes."""
        await self._replicated()
        self.sentinels += [Sentinel(free_port(), self.ports[0], quorum=2) for _ in range(3)]
        for sentinel in self.sentinels:
            await eventually(lambda one=sentinel: one.replicas() == 1 and one.others() == 2, within=60)  # type: ignore[misc]  # bound at once
        return self.sentinels

    async def _replicated(self) -> None:
        replica = self.servers[self.ports[1]].client
        await eventually(lambda: replica.info("replication")["master_link_status"] == "up", within=60)

    @property
    def url(self) -> str:
        """It names all sentinels, behind one that is not there."""
        ports = [1, *(sentinel.port for sentinel in self.sentinels)] if self.sentinels else [1, self.port]
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/main/0"

    def follow(self, port: int, master: int) -> None:
        """Make a server a replica, without waiting until the sentinel does so."""
        self.servers[port].client.replicaof("127.0.0.1", str(master))

    def close(self) -> None:
        for server in (*self.servers.values(), *self.sentinels):
            server.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    one = Watched()
    yield one
    one.close()


async def test_after_a_failover_everything_that_a_replica_confirmed_ends_and_nothing_else_is_doubled(
    watched: Watched, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    sentinel = await watched.watch()
    crew = Crew(make_queue(watched.url))
    feed = Feed(make_queue(watched.url, durability="replicas:1", enqueue_deadline=5.0), "k")
    tools = make_queue(watched.url)
    async with running(crew):
        async with running(feed):
            await goes_on(feed)
            assert (await tools.info())["workers"] == {}
            old = sentinel.master()
            (new,) = set(watched.ports) - {old}
            confirmed = feed.confirmed
            watched.servers[old].kill()
            await eventually(lambda: sentinel.master() == new, within=60)
            watched.servers[old].start()
            watched.follow(old, new)
            await goes_on(feed)
            over = monotonic()
            await goes_on(feed)
        await all_end(crew, feed)
        await tools.write_worker_info("w", {"stats": None, "queue_key": None, "metadata": None}, ttl=60)
        assert list((await tools.info())["workers"]) == ["w"]
    assert doubled(crew, confirmed, over) == set()
    away, back = changes(caplog, "default")
    assert 2 <= len(back) <= len(away) <= len(back) + 2


async def test_three_sentinels_elect_a_master_by_quorum_and_one_that_is_lost_is_not_missed(
    watched: Watched, make_queue: MakeQueue
) -> None:
    one, two, three = sentinels = await watched.watch_by_three()
    crew, feed = Crew(make_queue(watched.url)), Feed(make_queue(watched.url), "k")
    async with running(crew):
        async with running(feed):
            await goes_on(feed)
            old = two.master()
            (new,) = set(watched.ports) - {old}
            one.kill()  # two of three are a majority: without their votes for each other nothing is decided
            watched.servers[old].kill()
            await eventually(lambda: (two.master(), three.master()) == (new, new), within=90)
            await goes_on(feed)
        await eventually(lambda: len(crew.ended) > 20, within=60)
    assert watched.servers[new].client.info("replication")["role"] == "master"
    assert [int(sentinel.knows()[b"quorum"]) for sentinel in sentinels[1:]] == [2, 2]


async def test_a_single_sentinel_of_three_makes_nobody_the_master(watched: Watched, make_queue: MakeQueue) -> None:
    one, two, three = await watched.watch_by_three()
    feed = Feed(make_queue(watched.url), "k")
    async with running(feed):
        await goes_on(feed)
        old = three.master()
        (new,) = set(watched.ports) - {old}
        one.kill()
        two.kill()
        watched.servers[old].kill()
        await eventually(lambda: b"s_down" in three.knows()[b"flags"], within=60)
        await eventually(lambda: bool(feed.queue._outage.lasting), within=60)
        assert watched.servers[new].client.info("replication")["role"] == "slave"
        watched.servers[old].start()
        await goes_on(feed)
        assert three.master() == old


async def test_a_master_that_is_made_a_replica_is_left_for_its_successor(
    watched: Watched, make_queue: MakeQueue
) -> None:
    sentinel = await watched.watch()
    crew, feed, tools = (make(make_queue(watched.url)) for make in (Crew, lambda queue: Feed(queue, "k"), lambda q: q))
    async with running(crew):
        async with running(feed):
            await goes_on(feed)
            assert (await tools.info())["workers"] == {}
            old = sentinel.master()
            (new,) = set(watched.ports) - {old}
            # As by hand: connections to the old one stay, and clients learn by being refused.
            sentinel.tell("REMOVE", "main")
            watched.servers[new].client.replicaof("NO", "ONE")
            watched.follow(old, new)
            await eventually(lambda: bool(feed.queue._outage.lasting and crew.queue._outage.lasting), within=60)
            sentinel.tell("MONITOR", "main", "127.0.0.1", new, 1)
            await goes_on(feed)
        await eventually(lambda: len(crew.ended) > 20)


async def test_who_knows_no_master_of_that_name_is_said(watched: Watched, make_queue: MakeQueue) -> None:
    await watched.watch()
    link = make_queue(watched.url.replace("/main/", "/other/"))._endpoint.link()
    with pytest.raises(RedisError, match=r"no sentinel of .* knows a master 'other'") as caught:
        await link.call(("PING",), LONG)
    assert never_sent(caught.value)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of this machine, for servers and for clients, and with that of who signed it."""
    if DEBIANS is None or shutil.which("openssl") is None:
        pytest.skip("needs the distribution's redis-server, the only one here with TLS, and openssl")
    folder = tmp_path_factory.mktemp("certificates")
    common = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    signed = (*common, "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:false")
    for arguments in (
        (*common, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-addext", "keyUsage=keyCertSign"),
        (*signed, "-keyout", "me.key", "-out", "me.pem", "-subj", "/CN=me", "-addext", "subjectAltName=IP:127.0.0.1"),
    ):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return folder


def tls(folder: Path) -> tuple[str, ...]:
    """A server's options: it wants to see a certificate, too."""
    files = {"--tls-ca-cert-file": "ca.pem", "--tls-cert-file": "me.pem", "--tls-key-file": "me.key"}
    return tuple(word for option, name in files.items() for word in (option, str(folder / name)))


def query(folder: Path) -> str:
    """A client's options, as a URL has them."""
    return f"?ssl_ca_certs={folder}/ca.pem&ssl_certfile={folder}/me.pem&ssl_keyfile={folder}/me.key"


async def serves(queue: RedisQueue) -> None:
    """See that jobs come and go over each of a queue's connections, the lease's included."""
    crew = Crew(queue)
    async with running(crew):
        await queue.submit_many([spec(f"k{number}") for number in range(10)])
        assert (await queue.wait("k9", 30)) is not None
        await queue.info()
        consumer: Any = queue._consumer
        started = consumer._lease.renewed
        await eventually(lambda: consumer._lease.renewed > started)


async def test_a_server_with_tls_is_reached_by_its_url_alone(
    certificates: Path, start_server: StartServer, make_queue: MakeQueue
) -> None:
    port = free_port()
    start_server("--tls-port", str(port), *tls(certificates))
    for scheme in ("rediss", "valkeys"):
        url = f"{scheme}://127.0.0.1:{port}/0{query(certificates)}"
        await serves(make_queue(url, label=scheme, renew_every=0.3, enqueue_deadline=LONG))
    stranger = make_queue(f"rediss://127.0.0.1:{port}")._endpoint.link()
    with pytest.raises(RedisError, match="certificate verify failed"):
        await stranger.call(("PING",), LONG)


async def test_tls_goes_together_with_a_cluster_and_with_sentinel(
    certificates: Path, start_server: StartServer, make_queue: MakeQueue
) -> None:
    (node_port,) = cluster_ports(1)
    node = start_server(
        *("--tls-port", str(node_port), "--cluster-enabled", "yes", "--tls-cluster", "yes"), *tls(certificates)
    )
    client: Any = node.client
    client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    await eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    url = f"rediss+cluster://127.0.0.1:{node_port}{query(certificates)}"
    await serves(make_queue(url, renew_every=0.3, enqueue_deadline=LONG))

    ports = free_port(), free_port()
    start_server("--tls-port", str(ports[0]), *tls(certificates))
    options = ("--tls-port", str(ports[1]), "--tls-replication", "yes", *tls(certificates))
    sentinel = Sentinel(0, ports[0], options=options)
    try:
        url = f"rediss+sentinel://127.0.0.1:{ports[1]}/main{query(certificates)}"
        await serves(make_queue(url, renew_every=0.3, enqueue_deadline=LONG))
    finally:
        sentinel.close()


# Access lists


def documented_rule() -> list[str]:
    """The rules for a user that the guide gives, without name and password."""
    found = re.search(r"^ACL SETUSER shop on >\S+ ([^`]+)^```", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].split()


@pytest.mark.parametrize("binary", EACH)
async def test_a_user_with_the_documented_rights_is_never_refused(binary: Path, make_queue: MakeQueue) -> None:
    port = free_port()
    server = RedisServer("--port", str(port), binary=binary)
    admin: Any = server.client
    try:
        rule = documented_rule()
        if not admin.info()["redis_version"].startswith("7.0."):
            rule.append("+client|setinfo")
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">p%40ss/w", *rule)
        url = f"redis://shop:p%2540ss%2Fw@127.0.0.1:{port}/0"
        await use_everything(make_queue, url)
        assert admin.acl_log() == []
        with pytest.raises(BrokerError, match="it refuses the credentials"):
            await make_queue(url.replace("shop:", "shop:x")).open("w", WorkerHooks(print, print))
        admin.execute_command("ACL", "SETUSER", "shop", "-evalsha", "-eval")
        with pytest.raises(QueueUnavailableError, match="it refuses a command to this user"):
            await make_queue(url, enqueue_deadline=LONG).submit(spec())
    finally:
        server.close()


async def use_everything(make_queue: MakeQueue, url: str) -> None:
    """Do with a queue what applications, workers, operators and SAQ's tools do."""
    queue = make_queue(url, namespace="shop", renew_every=0.3, enqueue_deadline=LONG)
    other = make_queue(url, namespace="shop", lease=1.2, renew_every=0.3, keep_complete=5, keep_failed=1)
    aborted: list[str] = []
    hooks = WorkerHooks(abort=lambda key, _: aborted.append(key), lost=lambda _: None)

    async def take(count: int) -> list[ClaimedJob]:
        jobs: list[ClaimedJob] = []
        async with asyncio.timeout(30):
            while len(jobs) < count:
                jobs += await queue.claim(count - len(jobs))
        return jobs

    await queue.open("w", hooks)
    await other.open("v", hooks)
    await other.close()
    await queue.submit_many([spec(f"k{number}", priority=number % 3, meta={"max_losses": 2}) for number in range(9)])
    await queue.submit(spec("k0"))
    lock = Lock(name="a" * 32, until="started", window=60, debounce=True)
    later = datetime.now(UTC) + timedelta(hours=1)
    for group in ("g", "h"):
        await queue.submit(spec("put-off", run_at=later, lock=lock, group=group))
        assert (await queue.submit(spec(lock=lock, run_at=later, group=group))).deduplicated
    await queue.cancel("put-off", "no")
    await queue.submit(spec("later", run_at=datetime.now(UTC) + timedelta(hours=1)))
    jobs = await take(9)
    for job, settlement in zip(jobs, [*Settlement, *[Settlement.COMPLETE] * 9], strict=False):
        job.status = Status.QUEUED if settlement.value in ("retry", "snooze", "hand_back") else Status.COMPLETE
        assert await queue.settle(job, settlement, delay=60 if settlement is Settlement.SNOOZE else 0)
    await queue.cancel(jobs[0].key, "no")
    (running_job, *_) = await take(2)
    await queue.update(running_job, progress=0.5)
    assert await queue.cancel(running_job.key, "yes")
    await eventually(lambda: running_job.key in aborted)
    await queue.cancel("later", "yes")
    await queue.pause(by="me")
    assert await queue.paused() is not None
    await queue.resume()
    for state in ("queued", "scheduled", "active", "complete", "failed", "quarantined"):
        await queue.page(JobFilter(state=state))
    await queue.bulk("retry", JobFilter(state="failed"))
    await queue.bulk("delete", JobFilter(state="complete"))
    await queue.bulk("abort", JobFilter(state="queued"))
    await queue.add_minutes([Minute(datetime.now(UTC), {"noop": TaskMinute(complete=1)})])
    await queue.minutes(datetime.now(UTC), datetime.now(UTC))
    await queue.write_worker_info("w", {"stats": None, "queue_key": None, "metadata": None}, ttl=60)
    await queue.info(jobs=True)
    await queue.sweep()
    assert [job async for job in queue.iter_jobs()]
    with suppress(TimeoutError):
        await queue.wait(running_job.key, 0.2)
    await queue.close()
    await queue.purge()
    consumer: Any = queue._consumer
    assert consumer is None
    durable = make_queue(url, namespace="shop", durability="replicas:1", enqueue_deadline=1.0)
    with pytest.raises(QueueUnavailableError):
        await durable.submit(spec())
