"""The Lua scripts by themselves, on every server that is installed: what they promise whatever the worker does."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from litestar_tasks.queues.redis.incarnation import TOKENS
from litestar_tasks.queues.redis.layout import Layout
from litestar_tasks.queues.redis.lua import LIMIT, Script
from tests.integration.conftest import Server

LEASE = 15_000
LAYOUT = Layout("q")
SCRIPTS = {
    name: Script(name)
    for name in (
        *(
            "abort",
            "adopt",
            "cycle",
            "enqueue",
            "patch",
            "reclaim",
            "recover",
            "refence",
            "register",
            "release",
            "renew",
        ),
        *("counts", "delete", "lanes", "minutes", "page", "pause", "purge", "rerun", "tally"),
    )
}


class Redis:
    """Calls scripts as the queue does."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, name: str, *args: Any) -> Any:
        return self.client.eval(SCRIPTS[name].source, 1, LAYOUT.incomplete, LAYOUT.prefix, *args)

    def enqueue(self, *keys: str, due: int = 0, priority: int = 0, max_losses: int = 0, mode: str = "new") -> list[Any]:
        args: list[Any] = [""]
        for key in keys:
            args += (LAYOUT.job_id(key), document(key), due, priority, max_losses, 0, mode)
        answer = self.run("enqueue", *args)
        return [1] * len(keys) if answer == 1 else answer

    def worker(self, lease: int = LEASE) -> Worker:
        holder = uuid.uuid4().hex
        number = self.run("register", holder, lease, "worker")
        return Worker(self, number, f"{number}:{holder}", lease, number * TOKENS + 1)

    def state(self, key: str) -> float | None:
        return self.client.zscore(LAYOUT.incomplete, LAYOUT.job_id(key))

    def record(self, key: str) -> dict[str, Any]:
        return json.loads(self.client.get(LAYOUT.job_id(key)) or b"null")

    def lists(self) -> Counter[str]:
        """How often each key is waiting somewhere."""
        found: Counter[str] = Counter()
        for name in (
            *self.client.scan_iter(LAYOUT.prefix + "queued*"),
            *self.client.scan_iter(LAYOUT.prefix + "inbox:*"),
        ):
            found.update(
                LAYOUT.job_key(job_id.decode()) for job_id in self.client.lrange(name, 0, -1) if job_id != b"-"
            )
        return found

    def expire(self, worker: Worker) -> None:
        """Make a worker lost, as its silence would."""
        self.client.zadd(LAYOUT.key("leases"), {worker.holder: 1})

    def unguard(self) -> None:
        self.client.delete(LAYOUT.key("guard"))


@dataclass
class Worker:
    redis: Redis
    number: int
    holder: str
    lease: int
    token: int
    held: dict[str, int] = field(default_factory=dict)

    def cycle(self, want: int, *operations: tuple[Any, ...], keep: int = 10_000, failed: int = 10_000) -> list[Any]:
        first, self.token = self.token, self.token + want
        flat = [value for operation in operations for value in operation]
        numbers, data = self.redis.run(
            "cycle", self.holder, want, first, '"worker"', self.lease, keep, failed, 604_800, *flat
        )
        state, now, wait, orphans, count, *rest = map(int, numbers.split())
        return [first, state, now, wait, orphans, rest[:count], rest[count:], data]

    def claim(self, want: int) -> list[str]:
        first, _, _, _, _, _, lengths, data = self.cycle(want)
        keys = claimed_keys(lengths, data)
        self.held.update({key: first + number for number, key in enumerate(keys)})
        return keys

    def operation(self, kind: str, key: str, number: int = 600, token: int | None = None) -> tuple[Any, ...]:
        status = {"retry": "queued", "snooze": "queued", "hand_back": "queued", "update": "active"}.get(kind, kind)
        text = document(key, status=status if status != "quarantined" else "failed", worker_id=self.holder)
        return (kind, LAYOUT.job_id(key), self.held[key] if token is None else token, text, number)

    def settle(self, kind: str, key: str, number: int = 600) -> bool:
        accepted = not self.cycle(0, self.operation(kind, key, number))[5]
        if kind != "update":
            self.held.pop(key)
        return accepted

    def recover(self, limit: int = LIMIT, max_losses: int = 3) -> list[Any]:
        first, self.token = self.token, self.token + limit
        return recovered(self.redis.run("recover", self.holder, first, self.lease, limit, max_losses, 604_800, 10_000))


def document(key: str, **fields: Any) -> str:
    return json.dumps(
        {"function": "f", "queue": "q", "key": key, "status": "queued", "n": 2**60 + 1, "empty": [], **fields}
    )


def recovered(answer: list[Any]) -> list[Any]:
    """The answer of ``recover`` with its lengths as numbers."""
    answer[4] = [int(size) for size in answer[4].split()]
    return answer


def claimed_keys(sizes: list[int], data: bytes) -> list[str]:
    start, keys = 0, []
    for size, document_size in zip(sizes[::2], sizes[1::2], strict=True):
        keys.append(LAYOUT.job_key(data[start : start + size].decode()))
        start += size + document_size
    assert start == len(data)
    return keys


@pytest.fixture
def r(server: Server) -> Redis:
    return Redis(server.client)


def test_a_claim_marks_documents_without_changing_what_is_in_them(r: Redis) -> None:
    r.enqueue("a")
    before = r.client.get(LAYOUT.job_id("a"))
    worker = r.worker()
    assert worker.claim(1) == ["a"]
    after = r.client.get(LAYOUT.job_id("a"))
    assert after.startswith(before[:-1])
    record = r.record("a")
    assert record["status"] == "active"
    assert record["worker_id"] == "worker"
    assert abs(record["started"] / 1000 - time.time()) < 60
    assert record["n"] == 2**60 + 1
    assert record["empty"] == []
    assert r.state("a") == -worker.held["a"]


def test_claims_are_first_come_first_served_within_a_priority_and_by_priority_first(r: Redis) -> None:
    r.enqueue("m1", "m2")
    r.enqueue("late", priority=7)
    r.enqueue("first", "second", priority=-3)
    r.enqueue("m3")
    r.enqueue("very", priority=-100)
    assert r.worker().claim(4) == ["very", "first", "second", "m1"]
    assert r.worker().claim(10) == ["m2", "m3", "late"]


def test_a_job_keeps_its_priority_on_every_way_back(r: Redis) -> None:
    worker = r.worker()
    ways = ["retry", "snooze", "hand_back", "delayed", "recovered", "reclaimed", "released"]
    r.enqueue(*ways, priority=5)
    assert worker.claim(10) == ways
    for way in ("retry", "snooze", "hand_back"):
        assert worker.settle(way, way, 0)
    assert worker.settle("retry", "delayed", 60_000)
    assert r.run("reclaim", worker.held["reclaimed"], worker.held["reclaimed"]) == 1
    other = r.worker()
    r.client.zadd(LAYOUT.incomplete, {LAYOUT.job_id("released"): -(other.number * TOKENS + 99)})
    r.run("release", other.number, LIMIT)
    r.expire(worker)
    r.unguard()
    last = r.worker()
    while last.recover()[1]:
        pass
    r.client.zadd(LAYOUT.incomplete, {LAYOUT.job_id("delayed"): time.time() - 1})
    r.enqueue("plain")
    assert last.claim(1) == ["plain"]
    assert set(last.claim(10)) == set(ways)


def test_a_delayed_job_is_not_claimed_before_its_time(r: Redis) -> None:
    r.enqueue("a", due=int(time.time() * 1000) + 60_000)
    worker = r.worker()
    first, state, _, wait, *_ = worker.cycle(5)
    assert (state, first) == (3, worker.token - 5)
    assert 55_000 < wait <= 60_000
    r.client.zadd(LAYOUT.incomplete, {LAYOUT.job_id("a"): time.time() - 1})
    assert worker.claim(5) == ["a"]


def test_a_retry_that_is_due_soon_rings_the_bell_though_its_own_call_claims(r: Redis) -> None:
    r.enqueue("a")
    worker = r.worker()
    worker.claim(1)
    _, state, _, wait, *_ = worker.cycle(5, worker.operation("retry", "a", 500))
    assert (state, 0 < wait <= 500) == (3, True)
    assert r.client.lrange(LAYOUT.queued, 0, -1) == [b"-"]


def test_work_outside_of_the_list_that_workers_sleep_on_rings_a_bell_there(r: Redis) -> None:
    soon = int(time.time() * 1000) + 500
    for options in ({"priority": 4}, {"due": soon}):
        r.client.flushall()
        r.enqueue("a", **options)
        assert r.client.lrange(LAYOUT.queued, 0, -1) == [b"-"]
    r.client.flushall()
    r.enqueue("a", due=soon + 60_000)
    assert r.client.lrange(LAYOUT.queued, 0, -1) == []
    worker = r.worker()
    r.enqueue("b", priority=4)
    assert worker.claim(5) == ["b"]


def test_only_as_many_are_claimed_as_are_wanted(r: Redis) -> None:
    r.enqueue(*(f"k{n}" for n in range(50)))
    r.enqueue(*(f"p{n}" for n in range(50)), priority=2)
    assert len(r.worker().claim(7)) == 7
    assert len(r.worker().claim(60)) == 60
    assert sum(r.lists().values()) == 33


def test_an_id_that_is_in_the_list_twice_is_claimed_once(r: Redis) -> None:
    r.enqueue("a", "b")
    r.client.rpush(LAYOUT.queued, LAYOUT.job_id("a"), LAYOUT.job_id("a"))
    assert r.worker().claim(10) == ["a", "b"]


def test_a_settle_is_refused_under_any_other_token(r: Redis) -> None:
    r.enqueue("a")
    worker = r.worker()
    worker.claim(1)
    stored = r.client.get(LAYOUT.job_id("a"))
    for kind in ("complete", "failed", "aborted", "quarantined", "retry", "snooze", "hand_back", "update"):
        assert worker.cycle(0, worker.operation(kind, "a", token=worker.held["a"] + 1))[5] == [1]
        assert r.client.get(LAYOUT.job_id("a")) == stored
        assert r.state("a") == -worker.held["a"]
    assert worker.settle("complete", "a")
    worker.held["a"] = worker.token - 1
    assert not worker.settle("failed", "a")
    assert r.record("a")["status"] == "complete"


def test_neighbouring_tokens_of_the_largest_numbers_are_told_apart(r: Redis) -> None:
    r.client.set(LAYOUT.key("incs"), 2**26 - 3)
    worker = r.worker()
    assert worker.number == 2**26 - 2
    worker.token = (worker.number + 1) * TOKENS - 2
    r.enqueue("a", "b")
    assert worker.claim(2) == ["a", "b"]
    assert not (set(worker.held.values()) - {(worker.number + 1) * TOKENS - 2, (worker.number + 1) * TOKENS - 1})
    assert r.state("b") == -worker.held["b"]
    swapped = worker.cycle(0, worker.operation("complete", "a", token=worker.held["b"]))
    assert swapped[5] == [1]
    assert worker.settle("complete", "b")
    assert worker.settle("complete", "a")


def test_an_incarnation_number_is_never_given_twice_even_if_the_counter_went_back(r: Redis) -> None:
    one = r.worker()
    r.enqueue("a")
    one.claim(1)
    r.client.delete(LAYOUT.key("incs"))
    assert r.worker().number > one.number
    r.client.delete(LAYOUT.key("incs"), LAYOUT.key("leases"))
    assert r.worker().number > one.number


def test_nothing_is_claimed_without_a_lease_and_settles_still_count(r: Redis) -> None:
    r.enqueue("a", "b")
    worker = r.worker()
    worker.claim(1)
    r.client.zrem(LAYOUT.key("leases"), worker.holder)
    answer = worker.cycle(5, worker.operation("complete", "a"))
    assert answer[1] == -1
    assert answer[5] == []
    assert answer[6:] == [[], b""]
    assert r.record("a")["status"] == "complete"
    assert r.state("b") == 0


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("enqueue", ("", "id", "doc", 0, 0, 0, 0)),
        ("enqueue", ("", "id", "doc", "soon", 0, 0, 0, "new")),
        ("enqueue", ("", "id", "doc", 0, 0.5, 0, 0, "new")),
        ("enqueue", ("", "id", "doc", 0, 0, -1, 0, "new")),
        ("enqueue", ("", "id", "doc", 0, 0, 0, 0, "maybe")),
        ("enqueue", ("", *("id", "doc", 0, 0, 0, 0, "new") * (LIMIT + 1))),
        ("enqueue", ("", "id", "doc", 0, 0, 0, 0, "new", "", "doc", 0, 0, 0, 0, "new")),
        ("enqueue", ("",)),
        ("cycle", ("1:u", LIMIT + 1, 1, '"w"', 0, 1, 1, 1)),
        ("cycle", ("1:u", 1, "x", '"w"', 0, 1, 1, 1)),
        ("cycle", ("nobody", 1, 1, '"w"', 0, 1, 1, 1)),
        ("cycle", ("1:u", 1, 1, '"w"', 0, 1, 1, 1, "complete", "id", 1, "doc")),
        ("cycle", ("1:u", 1, 1, '"w"', 0, 1, 1, 1, "explode", "id", 1, "doc", 0)),
        ("cycle", ("1:u", 1, 1, '"w"', 0, 1, 1, 1, "complete", "id", "t", "doc", 0)),
        ("cycle", ("1:u", 1, 1, '"w"', 0, 1, 1, 1, "complete", "id", 1, "doc", "n")),
        ("recover", ("1:u", 1, 1, LIMIT + 1, 3, 1, 1)),
        ("recover", ("1:u", 1, 1, 1, "x", 1, 1)),
        ("reclaim", (5, 4)),
        ("reclaim", (1, 1 + LIMIT)),
        ("release", ("x", 1)),
        ("abort", ('"r"', 1, 1, "", "")),
        ("abort", ("", 1, 1, "id", "")),
        ("abort", ('"r"', 1, 1)),
        ("page", ("complete", "-inf", "+inf", 1, "", "", 501, 1)),
        ("page", ("complete", "x", "+inf", 1, "", "", 1, 1)),
        ("lanes", (1, "", 0, "", 0, 0, 1)),
        ("delete", ("", "id")),
        ("rerun", ("id", "", "", "x", 0, 0)),
        ("rerun", ("id", "", "", "x", 0, 0, "")),
        ("rerun", ("id", "", "", 0, 0, 0, "x")),
        ("enqueue", ("", "id", "{}", 0, 0, 0, 0, "new ")),
        ("enqueue", ("", "id", "{}", 0, 0, 0, 0, "new f")),
        ("enqueue", ("", "id", "{}", 0, 0, 0, 0, "new fxyz 0 0 ")),
        ("enqueue", ("", "id", "{}", 0, 0, 0, 0, "new fa -1 0 ")),
        ("enqueue", ("", "id", "{}", 0, 0, 0, 0, "old fa 0 0 ")),
        ("enqueue", ("", "id", "{}", 0, 0, 0, 0, " fa 0 0 ")),
        ("purge", (201,)),
        ("tally", (1, "f", "x")),
        ("minutes", (1, "x", 1, 1)),
        ("minutes", (1, 2002, 1, 1)),
        ("minutes", (1, 2, 0, 1)),
        ("register", ("", 1, "w")),
        ("register", ("u", 0, "w")),
        ("renew", ("nobody", 1, 0)),
        ("patch", ("id", "")),
        ("refence", ("id", "x", "r", "h")),
    ],
)
def test_a_script_checks_its_arguments_before_it_writes(r: Redis, name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(redis.ResponseError, match="litestar-tasks: "):
        r.run(name, *args)
    assert r.client.dbsize() == 0


def test_one_malformed_operation_leaves_the_others_of_its_batch_unwritten(r: Redis) -> None:
    r.enqueue("a", "b")
    worker = r.worker()
    worker.claim(2)
    bad = (*worker.operation("complete", "b")[:4], "soon")
    with pytest.raises(redis.ResponseError):
        worker.cycle(0, worker.operation("complete", "a"), bad)
    assert r.record("a")["status"] == "active"
    assert worker.settle("complete", "a")


def test_a_lost_worker_leaves_its_jobs_at_the_head_oldest_first(r: Redis) -> None:
    keys = [f"k{n:03}" for n in range(500)]
    for start in range(0, 500, 100):
        r.enqueue(*keys[start : start + 100])
    lost, other = r.worker(), r.worker()
    assert lost.claim(150) + lost.claim(150) == keys[:300]
    r.expire(lost)
    r.unguard()
    answers = []
    while (answer := other.recover(limit=100))[1]:
        answers.append(answer[0])
    assert answers == [100, 100, 100, 0]
    assert r.record("k000")["status"] == "queued"
    assert r.record("k000")["worker_id"] is None
    claimed = [key for _ in range(5) for key in other.claim(100)]
    assert claimed == keys
    assert not lost.settle("complete", "k000")
    assert r.client.hgetall(LAYOUT.key("losses"))[LAYOUT.job_id("k000").encode()] == b"1"
    assert r.client.zscore(LAYOUT.key("leases"), lost.holder) is None


def test_a_call_of_recovery_takes_a_bounded_part_of_what_a_worker_left(r: Redis) -> None:
    """The server answers nobody else meanwhile, so what a call does may not grow with what there is."""
    keys = [f"k{number}" for number in range(5 * LIMIT)]
    for start in range(0, len(keys), LIMIT):
        r.enqueue(*keys[start : start + LIMIT])
    lost, finder = r.worker(), r.worker()
    while len(lost.held) < len(keys):
        assert lost.claim(LIMIT)
    r.expire(lost)
    r.unguard()
    taken, more = [], 1
    while more:
        count, more, *_ = finder.recover()
        taken.append(count)
    assert max(taken) <= LIMIT
    assert sum(taken) == len(keys) == r.lists().total()


def test_a_healthy_worker_is_never_recovered(r: Redis) -> None:
    r.enqueue("a")
    worker, other = r.worker(), r.worker()
    worker.claim(1)
    r.unguard()
    for _ in range(5):
        taken, more, wait, *_ = other.recover()
        assert (taken, more) == (0, 0)
        assert 0 < wait <= LEASE
    assert worker.settle("complete", "a")


def test_a_job_that_is_lost_too_often_is_handed_to_the_finder_to_be_failed(r: Redis) -> None:
    r.enqueue("poison", "once", max_losses=0)
    r.client.hset(LAYOUT.key("max_losses"), LAYOUT.job_id("once"), 1)
    finder = r.worker()
    for loss in (1, 2, 3):
        worker = r.worker()
        worker.claim(2)
        r.expire(worker)
        r.unguard()
        first = finder.token
        taken, _, _, _, lengths, data, _ = finder.recover()
        assert taken == (2 if loss == 1 else 1)
        assert claimed_keys(lengths, data) == {1: ["once"], 2: [], 3: ["poison"]}[loss]
        for number, key in enumerate(claimed_keys(lengths, data)):
            finder.held[key] = first + number
    assert finder.settle("failed", "once")
    assert finder.settle("failed", "poison")
    assert r.client.exists(LAYOUT.key("losses"), LAYOUT.key("max_losses")) == 0


def test_nobody_is_recovered_for_the_length_of_a_lease_after_an_outage(r: Redis) -> None:
    r.enqueue("a")
    worker, other = r.worker(), r.worker()
    worker.claim(1)
    r.unguard()
    r.client.set(LAYOUT.key("pulse"), int(time.time() * 1000) - 60_000)  # nobody could say anything for a minute
    r.expire(worker)
    taken, more, wait, *_ = other.recover()
    assert (taken, more) == (0, 0)
    assert LEASE - 1000 < wait <= LEASE
    assert r.run("renew", worker.holder, LEASE, 0)[0] == 1
    r.unguard()
    assert other.recover()[0] == 0
    assert worker.settle("complete", "a")


def test_the_guard_is_set_by_whoever_speaks_first_after_an_outage(r: Redis) -> None:
    worker = r.worker()
    r.unguard()
    r.run("renew", worker.holder, LEASE, 0)
    assert not r.client.exists(LAYOUT.key("guard"))
    r.client.set(LAYOUT.key("pulse"), int(time.time() * 1000) - 6_000)
    r.run("renew", worker.holder, LEASE, 0)
    assert 14_000 < r.client.pttl(LAYOUT.key("guard")) <= LEASE


def test_a_claim_without_an_answer_is_handed_back_by_its_tokens(r: Redis) -> None:
    r.enqueue("a", "b", "c", "d")
    worker = r.worker()
    first = worker.cycle(3)[0]
    assert r.run("reclaim", first, first + 2) == 3
    assert r.run("reclaim", first, first + 2) == 0
    assert r.record("a")["status"] == "queued"
    assert worker.claim(10) == ["a", "b", "c", "d"]
    assert not r.client.exists(LAYOUT.key("losses"))


def test_a_released_lease_hands_back_all_but_what_must_not_start_twice(r: Redis) -> None:
    r.enqueue("a", "b")
    r.enqueue("once", max_losses=1)
    worker, other = r.worker(), r.worker()
    worker.claim(3)
    assert r.run("release", worker.number, LIMIT) == [2, 0]
    assert r.state("once") == -worker.held["once"]
    r.unguard()
    assert other.claim(5) == ["a", "b"]
    first = other.token
    taken, _, _, name, lengths, data, _ = other.recover()
    assert (taken, name, claimed_keys(lengths, data)) == (1, b"worker", ["once"])
    assert r.state("once") == -first
    assert r.client.zcard(LAYOUT.key("leases")) == 1


def test_what_a_worker_was_woken_for_is_never_lost_with_it(r: Redis) -> None:
    worker, other = r.worker(), r.worker()
    r.enqueue("a", "b")
    inbox = LAYOUT.key(f"inbox:{worker.number}")
    r.client.lmove(LAYOUT.queued, inbox, "LEFT", "RIGHT")
    r.expire(worker)
    r.unguard()
    while other.recover()[1]:
        pass
    assert other.claim(5) == ["a", "b"]
    r.enqueue("late")
    r.client.lmove(LAYOUT.queued, inbox, "LEFT", "RIGHT")  # a read that was sent before, and arrived after
    other.recover()
    assert other.claim(5) == ["late"]


def test_a_worker_without_capacity_gives_back_what_it_was_woken_for(r: Redis) -> None:
    worker = r.worker()
    r.enqueue("a")
    r.client.lmove(LAYOUT.queued, LAYOUT.key(f"inbox:{worker.number}"), "LEFT", "RIGHT")
    worker.cycle(0)
    assert r.worker().claim(1) == ["a"]


def test_a_paused_queue_gives_nothing_and_keeps_everything(r: Redis) -> None:
    r.enqueue("a")
    r.client.set(LAYOUT.key("paused"), "somebody")
    worker = r.worker()
    assert worker.cycle(5)[1] == 2
    r.client.delete(LAYOUT.key("paused"))
    assert worker.claim(5) == ["a"]


def test_aborting_a_waiting_job_ends_it_and_its_id_in_the_list_is_skipped(r: Redis) -> None:
    r.enqueue("a", "b")
    r.enqueue("later", due=int(time.time() * 1000) + 60_000)
    abort = lambda key: r.run("abort", '"no \\"more\\""', 600, 100, LAYOUT.job_id(key), "")[0]  # noqa: E731
    assert [abort("a"), abort("later"), abort("a"), abort("never")] == [1, 1, 0, 0]
    assert r.record("a")["status"] == r.record("later")["status"] == "aborted"
    assert r.record("a")["error"] == 'no "more"'
    assert 0 < r.client.ttl(LAYOUT.job_id("a")) <= 600
    assert r.worker().claim(5) == ["b"]


def test_aborting_a_running_job_tells_its_worker_at_once_and_again_when_it_renews(r: Redis) -> None:
    r.enqueue("a", "b")
    worker, other = r.worker(), r.worker()
    worker.claim(1)
    listener = r.client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(LAYOUT.key("ctl"))
    listener.get_message(timeout=5)
    assert r.run("abort", '"enough"', 600, 100, LAYOUT.job_id("a"), "") == [2]
    assert listener.get_message(timeout=5)["data"] == b'abort %d "enough"' % worker.held["a"]
    listener.close()
    assert r.run("renew", worker.holder, LEASE, 0)[3:] == [LAYOUT.job_id("a").encode(), b'"enough"']
    assert r.run("renew", other.holder, LEASE, 0)[3:] == []
    assert worker.settle("aborted", "a")
    assert r.run("renew", worker.holder, LEASE, 0)[3:] == []


@pytest.mark.parametrize("way", ["retry", "snooze", "hand_back", "lost"])
def test_a_job_that_is_being_aborted_does_not_come_back(r: Redis, way: str) -> None:
    r.enqueue("a")
    worker, other = r.worker(), r.worker()
    worker.claim(1)
    r.run("abort", '"enough"', 600, 100, LAYOUT.job_id("a"), "")
    if way == "lost":
        r.expire(worker)
        r.unguard()
        other.recover()
    else:
        assert worker.settle(way, "a", 0)
    assert r.state("a") is None
    assert (r.record("a")["status"], r.record("a")["error"]) == ("aborted", "enough")
    assert r.client.zcard(LAYOUT.key("aborted")) == 1
    assert not r.client.exists(LAYOUT.key("aborts"))
    assert other.claim(5) == []


def test_a_key_is_refused_while_its_job_has_not_ended_and_free_afterwards(r: Redis) -> None:
    assert r.enqueue("a", "a", "b") == [1, document("a").encode(), 1]
    assert r.enqueue("a") == [document("a").encode()]
    worker = r.worker()
    worker.claim(2)
    assert json.loads(r.enqueue("a")[0])["status"] == "active"
    worker.settle("complete", "a")
    assert json.loads(r.enqueue("a", mode="once")[0])["status"] == "complete"
    assert r.enqueue("a") == [1]
    assert r.client.ttl(LAYOUT.job_id("a")) == -1
    assert r.client.zcard(LAYOUT.key("complete")) == 0


def test_a_repetition_is_refused_for_its_own_record_and_not_for_that_of_an_earlier_job_of_its_key(r: Redis) -> None:
    r.client.set(LAYOUT.job_id("a"), '{"key":"a","queued":1767225600000,"status":"complete"}')
    assert json.loads(r.enqueue("a", mode="again:1767225600000")[0])["status"] == "complete"
    assert r.state("a") is None
    assert r.enqueue("a", mode="again:1767225600001") == [1]
    assert r.state("a") == 0


def test_records_are_capped_by_count_and_a_new_life_is_not_dropped_with_the_old(r: Redis) -> None:
    worker = r.worker()
    for number in range(20):
        r.enqueue(f"k{number}")
        worker.claim(1)
        worker.cycle(0, worker.operation("complete", f"k{number}"), keep=5)
    assert r.client.zcard(LAYOUT.key("complete")) == 5
    assert [key for key in range(20) if r.record(f"k{key}")] == [15, 16, 17, 18, 19]
    r.client.zadd(LAYOUT.key("complete"), {LAYOUT.job_id("k15"): 1})
    r.client.zadd(LAYOUT.incomplete, {LAYOUT.job_id("k15"): 0})
    r.enqueue("next")
    worker.claim(2)
    worker.cycle(0, worker.operation("complete", "next"), keep=5)
    assert r.record("k15")


def test_failed_records_and_those_put_aside_are_capped_together(r: Redis) -> None:
    worker = r.worker()
    for number in range(6):
        r.enqueue(f"k{number}")
        worker.claim(1)
        worker.cycle(0, worker.operation("quarantined", f"k{number}"), failed=3)
    assert r.client.zcard(LAYOUT.key("failed")) == r.client.zcard(LAYOUT.key("quarantined")) == 3
    assert r.client.zscore(LAYOUT.key("failed"), LAYOUT.job_id("k5"))


def test_a_job_without_a_document_is_dropped_and_reported(r: Redis) -> None:
    r.enqueue("a", "b")
    r.client.delete(LAYOUT.job_id("a"))
    answer = r.worker().cycle(5)
    assert answer[4] == 1
    assert claimed_keys(*answer[6:]) == ["b"]
    assert r.state("a") is None


UNIQUE, UNTIL_STARTED = f"new f{'a' * 32} 0 0 ", f"new s{'b' * 32} 0 0 "
ALONE = "new - 0 0 g"


def test_a_lock_whose_job_is_gone_or_has_ended_is_free_whoever_ended_it(r: Redis) -> None:
    assert r.enqueue("a", mode=UNIQUE) == [1]
    assert r.enqueue("b", mode=UNIQUE) == [[LAYOUT.job_id("a").encode(), document("a").encode()]]
    r.client.delete(LAYOUT.job_id("a"))
    assert r.enqueue("b", mode=UNIQUE) == [[LAYOUT.job_id("a").encode(), b""]]
    assert r.worker().claim(1) == []  # nothing is left of it to be run
    assert r.enqueue("b", mode=UNIQUE) == [1]
    r.client.zrem(LAYOUT.incomplete, LAYOUT.job_id("b"))  # as a stock tool aborts
    assert r.enqueue("c", mode=UNIQUE) == [1]
    assert r.client.hvals(LAYOUT.key("locks")) == [b"0 " + LAYOUT.job_id("c").encode()]


def test_a_group_goes_on_though_stock_tools_took_its_jobs_out(r: Redis) -> None:
    worker = r.worker()
    r.enqueue(*"abcd", mode=ALONE)
    assert worker.claim(5) == ["a"]
    r.client.zrem(LAYOUT.incomplete, LAYOUT.job_id("b"))  # while it was set aside
    assert worker.settle("complete", "a")
    r.client.zrem(LAYOUT.incomplete, LAYOUT.job_id("c"))  # while it was to be next
    assert worker.claim(5) + worker.claim(5) == ["d"]


def test_a_group_whose_holder_was_taken_out_goes_on_with_the_next_look_at_lost_workers(r: Redis) -> None:
    worker = r.worker()
    r.enqueue(*"abc", mode=ALONE)
    assert worker.claim(5) == ["a"]
    r.client.zrem(LAYOUT.incomplete, LAYOUT.job_id("a"))  # while it ran
    assert worker.claim(5) == []
    worker.recover()
    assert worker.claim(5) == ["b"]
    worker.recover()
    assert worker.claim(5) == []
    r.client.delete(LAYOUT.key("turns"))
    worker.recover()
    assert worker.claim(5) == ["c"]


def test_a_claim_whose_answer_was_lost_keeps_its_turn(r: Redis) -> None:
    worker = r.worker()
    r.enqueue("a", "b", mode=ALONE)
    first = worker.cycle(5)[0]
    assert r.run("reclaim", first, first + 4) == 1
    assert worker.claim(5) == ["a"]
    assert worker.settle("complete", "a")
    assert worker.claim(5) == ["b"]


def test_nothing_is_kept_of_locks_and_groups_once_their_jobs_have_ended(r: Redis) -> None:
    worker = r.worker()
    modes = [UNIQUE, UNTIL_STARTED, UNTIL_STARTED + "g", ALONE, "new - 0 0 a group: ü", f"new d{'d' * 32} 0 5 g"]
    for number, mode in enumerate(modes):
        r.enqueue(f"k{number}", f"l{number}", mode=mode)
    while r.client.zcard(LAYOUT.incomplete):
        for key in worker.claim(5):
            worker.settle("complete", key)
    r.enqueue("p", "q", "s", mode=ALONE)
    worker.claim(1)
    r.run("purge", 200)
    r.run("purge", 200)
    worker.settle("failed", "p")
    names = ("locks", "bonds", "turns", "parked", "group:*", "window:*")
    assert [key for name in names for key in r.client.scan_iter(LAYOUT.key(name))] == []


@pytest.mark.parametrize("garbage", [b"", b"{}", b"}", b"[1]", b"\xff\x00}", b'{"a":1}\n'])
def test_garbage_is_claimed_as_it_is(r: Redis, garbage: bytes) -> None:
    r.enqueue("a")
    r.client.set(LAYOUT.job_id("a"), garbage)
    _, _, _, _, _, _, lengths, data = r.worker().cycle(1)
    assert data.endswith(garbage)
    assert claimed_keys(lengths, data) == ["a"]


def test_what_stock_workers_left_is_taken_over_once_the_last_of_them_is_gone(r: Redis) -> None:
    r.worker()
    r.enqueue("a", "b", "c")
    for _ in range(2):
        r.client.lmove(LAYOUT.queued, LAYOUT.key("active"), "LEFT", "RIGHT")
    stock = LAYOUT.key("worker_info:stock")
    ours = LAYOUT.key("worker_info:worker")
    r.client.zadd(LAYOUT.key("stats"), {stock: time.time() * 1000 + 60_000, ours: time.time() * 1000 + 60_000})
    assert r.run("adopt") == -1
    r.client.zadd(LAYOUT.key("stats"), {stock: 1})
    assert r.run("adopt") == 2
    assert r.run("adopt") == 0
    assert r.worker().claim(5) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_every_job_ends_once(r: Redis, seed: int) -> None:
    """A random walk over everything that workers, their deaths and the network can do."""
    chance = random.Random(seed)
    workers, frozen = [r.worker() for _ in range(4)], []
    accepted: dict[str, int] = {}
    ended: Counter[str] = Counter()
    unanswered: list[tuple[int, int]] = []
    bound: dict[str, str] = {}
    kinds = ["complete", "failed", "aborted", "retry", "snooze", "hand_back", "update"]
    late = 0

    def settle(worker: Worker, key: str) -> None:
        kind = chance.choice(kinds)
        number = chance.choice([0, 0, 1, 5]) if kind in ("retry", "snooze") else 600
        operation = worker.operation(kind, key, number)
        again = [operation] * chance.choice([1, 1, 1, 2])
        refused = worker.cycle(0, *again)[5]
        aborted = kind in ("retry", "snooze", "hand_back") and r.state(key) is None
        if kind == "update":
            return
        del worker.held[key]
        assert len(again) - len(refused) <= 1
        if len(refused) < len(again) and (kind in ("complete", "failed", "aborted") or aborted):
            ended[key] += 1

    for step in range(1200):
        match chance.randrange(12):
            case 0 | 1 | 2:
                key = f"k{chance.randrange(step + 1)}" if chance.random() < 0.3 else f"k{step}"
                options: dict[str, Any] = {"priority": chance.choice([0, 0, -5, 9])}
                if chance.random() < 0.2:
                    options["due"] = int(time.time() * 1000) + chance.randrange(20)
                options["mode"] = chance.choice(MODES)
                if r.enqueue(key, **options) == [1]:
                    accepted[key] = accepted.get(key, 0) + 1
                    bound[key] = options["mode"]
            case 3 | 4:
                chance.choice(workers).claim(chance.randrange(1, 6))
            case 5 | 6 | 7:
                worker = chance.choice(workers)
                if worker.held:
                    settle(worker, chance.choice(list(worker.held)))
            case 8:
                worker = chance.choice(workers)
                first = worker.cycle(3)[0]
                unanswered.append((first, first + 2))
                if chance.random() < 0.8:
                    r.run("reclaim", *unanswered.pop())
            case 9:
                key = f"k{chance.randrange(step + 1)}"
                if r.run("abort", '"no"', 600, 10_000, LAYOUT.job_id(key), "") == [1]:
                    ended[key] += 1
            case 10:
                worker = chance.choice(workers)
                workers.remove(worker)
                frozen.append(worker)
                r.expire(worker)
                workers.append(r.worker())
            case 11:
                r.unguard()
                before = {key for key in accepted if r.client.hexists(LAYOUT.key("aborts"), LAYOUT.job_id(key))}
                finder = chance.choice(workers)
                first = finder.token
                _, _, _, _, lengths, data, _ = finder.recover(limit=7, max_losses=50)
                assert claimed_keys(lengths, data) == []
                ended.update(
                    key
                    for key in before
                    if r.state(key) is None
                    and key in accepted
                    and not r.client.hexists(LAYOUT.key("aborts"), LAYOUT.job_id(key))
                )
                for worker in frozen:
                    if r.client.zscore(LAYOUT.key("leases"), worker.holder) is None and worker.held:
                        key = chance.choice(list(worker.held))
                        assert not worker.settle("complete", key), "a lost worker settled"
                        late += 1
        if step % 200 == 0:
            check_invariants(r, accepted)
        if step % 10 == 0:
            check_bonds(r, bound)

    deadline = time.monotonic() + 60
    while r.client.zcard(LAYOUT.incomplete):
        assert time.monotonic() < deadline
        r.unguard()
        for span in unanswered:
            r.run("reclaim", *span)
        for worker in [*workers, *frozen]:
            for key in list(worker.held):
                if not worker.cycle(0, worker.operation("complete", key))[5]:
                    ended[key] += 1
                del worker.held[key]
        aborting = {LAYOUT.job_key(job_id.decode()) for job_id in r.client.hkeys(LAYOUT.key("aborts"))}
        while workers[0].recover(max_losses=50)[1]:
            pass
        ended.update(key for key in aborting if r.state(key) is None)
        for worker in frozen:
            worker.held.clear()
        workers[0].claim(LIMIT)
    doubled = {key: (ended[key], lives) for key, lives in accepted.items() if ended[key] != lives}
    assert not doubled
    assert late > 10
    check_invariants(r, accepted)
    assert r.client.exists(*map(LAYOUT.key, ("locks", "bonds", "turns", "parked", "group:g", "group:h"))) == 0


MODES = ["new", "new", "new", UNIQUE, UNTIL_STARTED + "g", ALONE, "new - 0 0 h"]


def check_bonds(r: Redis, bound: dict[str, str]) -> None:
    """Of a group one job runs, and a lock is held by the one job that has to hold it."""
    states = {
        LAYOUT.job_key(job_id.decode()): state
        for job_id, state in r.client.zrange(LAYOUT.incomplete, 0, -1, withscores=True)
    }
    running = Counter(bound[key].rpartition(" ")[2] for key, state in states.items() if state < 0)
    assert running["g"] <= 1
    assert running["h"] <= 1
    unique = [key for key in states if bound[key] == UNIQUE]
    assert len(unique) <= 1
    holder = r.client.hget(LAYOUT.key("locks"), "a" * 32)
    assert holder == (f"0 {LAYOUT.job_id(unique[0])}".encode() if unique else None)


def check_invariants(r: Redis, accepted: dict[str, int]) -> None:
    waiting = r.lists()
    leased = {int(holder.split(b":")[0]) for holder in r.client.zrange(LAYOUT.key("leases"), 0, -1)}
    for key in accepted:
        state, record = r.state(key), r.record(key)
        assert record["key"] == key
        if state is None:
            assert record["status"] in ("complete", "failed", "aborted")
        elif state == 0:
            parked = r.client.zscore(LAYOUT.key("parked"), LAYOUT.job_id(key)) is not None
            assert waiting[key] >= 1 or parked, "queued, and in no list"
            assert record["status"] == "queued"
        elif state < 0:
            assert int(-state) // TOKENS in leased, "active without an owner"
            assert record["status"] == "active"
        else:
            assert record["status"] == "queued"
