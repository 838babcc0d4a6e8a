"""Jobs: the list, and what is done to many of them at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qsl, urlencode

from litestar.exceptions import HTTPException, NotFoundException, ValidationException

from litestar_tasks.dashboard import actions, answers
from litestar_tasks.dashboard.asking import asking, find_job
from litestar_tasks.dashboard.search import (
    AGES,
    CAP,
    Found,
    Search,
    count_matches,
    find,
    matches,
    queues_of,
    read_search,
)
from litestar_tasks.dashboard.turns import read_turns
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.dashboard.watch import numbers
from litestar_tasks.queues.operations import ENDED, STATES, WAITING, BulkAction, JobFilter, JobState

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("ROUTES", "Step", "act_on_all", "act_on_some", "actions_for", "allowed")

_BUDGET: Final = 1.5
"""Seconds that one step of an operation on many jobs takes at the most, roughly."""
_STEP: Final = 200
_FIRST: Final[tuple[JobState, ...]] = ("failed", "active", "queued")
"""What one comes to see, the first that there are any of."""
_ACTIONS: Final[Mapping[str, Sequence[JobState]]] = {
    "retry": (*ENDED, "retrying"),
    "abort": (*WAITING, "active"),
    "delete": ENDED,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What has become of an operation on many jobs so far."""

    done: int
    skipped: int
    places: Mapping[str, str]
    """Where each queue goes on; those that are done are left out. Empty at the end."""


def actions_for(state: JobState) -> list[BulkAction]:
    """What can be done to jobs in a state."""
    return [cast("BulkAction", action) for action, states in _ACTIONS.items() if state in states]


async def _list(visit: Visit) -> Answer:
    looks = await visit.watch.looks(visit.queues.values())
    counts = {state: sum(look.counts[state] for look in looks) for state in STATES}
    there: list[JobState] = [*(state for state in _FIRST if counts[state]), "complete"]
    search = read_search(visit.request.query_params, state=there[0])
    if search.text and (found := await _by_id(visit, search.text)) is not None:
        return answers.redirect(visit.place.link("queues", found.queue.label, "jobs", found.job.key))
    if search.queue:
        visit.queue(search.queue)
        looks = [look for look in looks if look.label == search.queue]
    pinned = search.pinned()  # other pages are of the very same span
    turns = read_turns(visit.request.query_params)
    listing = await find(visit, pinned, cursor=turns.cursor)
    return answers.page(
        "jobs",
        visit,
        search=search,
        turns=turns,
        previous=turns.previous(pinned),
        following=turns.following(pinned, listing.cursor),
        numbers=numbers(looks),
        listing=listing,
        states=STATES,
        queues=list(visit.queues),
        ages=list(AGES),
        tasks=sorted(task.name for task in visit.registry.get_all_tasks()),
        actions=actions_for(search.state) if visit.may_act else [],
        anything=any(counts.values()),
        live=not turns.cursor,
    )


async def _by_id(visit: Visit, text: str) -> Found | None:
    """The job of which a text is the key or the id."""
    for queue in visit.queues.values():
        try:
            return Found(queue, await find_job(queue, text))
        except NotFoundException:
            continue
    return None


async def _act(visit: Visit, action: str) -> Answer:
    """What the list's buttons send: some jobs, or all that match."""
    form = await visit.request.form()
    search = read_search(form)
    action = allowed(action, search.state)
    if form.get("all"):
        return await _ask(visit, search, action)
    chosen = [_read_job(visit, str(one)) for one in form.getall("job", [])]
    if not chosen:
        raise ValidationException("No job was selected. Go back, and tick some, or choose all that match.")
    done, skipped = await act_on_some(visit, action, chosen)
    return answers.redirect(_back(visit, search), flash=(f"{actions.DONE[action]}", done, skipped))


async def _ask(visit: Visit, search: Search, action: BulkAction, *, wrong: str | None = None) -> Answer:
    number, more = await count_matches(visit, search)
    if not number:
        return answers.redirect(_back(visit, search), flash=("none",))
    return answers.page(
        "bulk_confirm",
        visit,
        status_code=200 if wrong is None else 422,
        search=search,
        action=action,
        number=number,
        more=more,
        wrong=wrong,
        back=_back(visit, search),
        live=False,
    )


async def _act_on_all(visit: Visit, action: str) -> Answer:
    """What the confirmation sends, and each step of the operation after it."""
    form = await visit.request.form()
    search = read_search(form)
    action = allowed(action, search.state)
    if not form.get("places"):
        number, _ = await count_matches(visit, search)
        typed = "".join(str(form.get("number") or "").split())
        if typed != str(form.get("expected") or "") or not typed:
            return await _ask(visit, search, action, wrong=str(form.get("number") or ""))
        if number > 2 * int(typed) + 10:  # it has become another operation since it was asked for
            return await _ask(visit, search, action, wrong=typed)
    places = dict(parse_qsl(str(form.get("places") or ""), keep_blank_values=True))
    step = await act_on_all(visit, action, search, places or None)
    done, skipped = step.done + _number(form.get("done")), step.skipped + _number(form.get("skipped"))
    if step.places:
        return answers.page(
            "bulk_progress",
            visit,
            search=search,
            action=action,
            done=done,
            skipped=skipped,
            places=urlencode(step.places),
            back=_back(visit, search),
            live=False,
        )
    return answers.redirect(_back(visit, search), flash=(actions.DONE[action], done, skipped))


async def act_on_some(visit: Visit, action: BulkAction, chosen: Sequence[tuple[TaskQueue, str]]) -> tuple[int, int]:
    """Do something to some jobs; those that it does not fit any more are left.

    Returns:
        How many were changed, and how many left.
    """
    done = 0
    for queue, key in chosen:
        async with asking(queue):
            done += await _one(visit, queue, action, key)
    for queue in {queue.label: queue for queue, _ in chosen}.values():
        number = sum(1 for own, _ in chosen if own is queue)
        actions.log(
            visit, queue, f"of %d chosen jobs of queue %r some were {actions.DONE[action]}", number, queue.label
        )
    return done, len(chosen) - done


async def act_on_all(visit: Visit, action: BulkAction, search: Search, places: Mapping[str, str] | None) -> Step:
    """Do something to all jobs that are meant, for a second or two.

    Args:
        visit: Who wants it.
        action: What to do.
        search: Which jobs.
        places: Where to go on, by queue, as the step before said. None for the first step.
    """
    started = time.monotonic()
    left: dict[str, str] = {queue.label: "" for queue in queues_of(visit, search)} if places is None else dict(places)
    done = skipped = 0
    for label in list(left):
        queue = visit.queue(label)
        actions.needs(queue, "bulk")
        if places is None:
            actions.log(visit, queue, f"all jobs like %s are being {actions.DONE[action]}", search.params(queue=label))
        if search.text:
            more, rest = await _through(visit, queue, action, search)
            done, skipped = done + more, skipped + rest
            del left[label]
            continue
        which = _same_filter(search, left[label]) if left[label] else search.filter()
        cursor: str | None = left[label].partition("|")[2] or None
        while True:
            async with asking(queue):
                step = await queue.bulk(action, which, limit=_STEP, cursor=cursor)
            done, cursor = done + step.done, step.cursor
            skipped += 0 if which.walks else step.skipped  # those that do not match are among them
            if cursor is None:
                del left[label]
                break
            left[label] = f"{_span(which)}|{cursor}"
            if time.monotonic() - started > _BUDGET:
                return Step(done, skipped, left)
        visit.watch.forget(queue)
    return Step(done, skipped, left)


async def _through(visit: Visit, queue: TaskQueue, action: BulkAction, search: Search) -> tuple[int, int]:
    """Do something to the jobs that hold a text, one by one; up to as many as are counted."""
    found = []
    async for one in matches(visit, queue, search):
        found.append(one.job.key)
        if len(found) == CAP:
            break
    done = 0
    for key in found:
        async with asking(queue):
            done += await _one(visit, queue, action, key)
    visit.watch.forget(queue)
    return done, len(found) - done


async def _one(visit: Visit, queue: TaskQueue, action: BulkAction, key: str) -> bool:
    if action == "retry":
        return await queue.rerun(key)
    if action == "delete":
        return await queue.delete(key)
    return await queue.cancel(key, f"aborted from the dashboard by {actions.who(visit.request)}")


def allowed(action: str, state: JobState | None) -> BulkAction:
    """An action that jobs in a state, or in some state, leave room for.

    Raises:
        HTTPException: Status 409; 404 for what is no action.
    """
    if action not in _ACTIONS:
        raise NotFoundException(f"There is no action {action!r}; there are {', '.join(_ACTIONS)}.")
    if state is not None and state not in _ACTIONS[action]:
        raise actions.conflict(f"Jobs that are {state} cannot be {actions.DONE[action]}.")
    return cast("BulkAction", action)


def _span(which: JobFilter) -> str:
    """The moments of a filter, which a cursor is only good for as they were."""
    return "/".join(moment.isoformat() if moment else "" for moment in (which.since, which.until))


def _same_filter(search: Search, place: str) -> JobFilter:
    since, _, until = place.partition("|")[0].partition("/")
    try:
        return Search(
            search.state, search.queue, search.task, search.tag, since=since, until=until,
            oldest_first=search.oldest_first,
        ).filter()  # fmt: skip
    except HTTPException as error:
        raise ValidationException("That step belongs to no operation. Begin again at the list.") from error


def _back(visit: Visit, search: Search) -> str:
    return f"{visit.place.link('jobs')}?{urlencode(search.params())}"


def _read_job(visit: Visit, text: str) -> tuple[TaskQueue, str]:
    label, _, key = text.partition("/")
    return visit.queue(label), key


def _number(value: Any) -> int:
    text = str(value or "")
    return int(text) if text.isdecimal() and len(text) < 12 else 0


ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/jobs", _list),
    route("POST", "/jobs/{action}", _act),
    route("POST", "/jobs/{action}/all", _act_on_all),
)
