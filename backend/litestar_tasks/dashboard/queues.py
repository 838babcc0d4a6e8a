"""Queues: how each stands, and pausing, resuming and purging it."""

from __future__ import annotations

import asyncio
from typing import Final

from litestar.exceptions import ValidationException

from litestar_tasks.dashboard import actions, answers, charts, stats
from litestar_tasks.dashboard.search import Search, find
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route

__all__ = ("ROUTES",)


async def _list(visit: Visit) -> Answer:
    looks = await visit.watch.looks(visit.queues.values())
    past = await visit.watch.past(visit.queues.values(), "hour")
    tallies = {label: stats.total(past[label].slices if label in past else ()) for label in visit.queues}
    return answers.page("queues", visit, looks=looks, tallies=tallies, live=True)


async def _page(visit: Visit, label: str) -> Answer:
    queue = visit.queue(label)
    past = await visit.watch.past([queue], visit.span)  # alone, as it reads for as long as it may take
    look, *listings = await asyncio.gather(
        visit.watch.look(queue),
        find(visit, Search("active", queue=label), limit=10),
        find(visit, Search("queued", queue=label, oldest_first=True), limit=10),
        find(visit, Search("failed", queue=label), limit=5),
        find(visit, Search("complete", queue=label), limit=10),
    )
    running, waiting, ended, done = listings
    return answers.page(
        "queue",
        visit,
        look=look,
        queue=queue,
        **charts.figures(past.values(), visit.span),
        columns=[
            [("Running", "active", running), ("Complete last", "complete", done)],
            [("Claimed next", "queued", waiting), ("Failed last", "failed", ended)],
        ],
        live=True,
    )


async def _pause(visit: Visit, label: str) -> Answer:
    await actions.pause(visit, visit.queue(label))
    return answers.redirect(visit.place.link("queues", label), flash=("paused",))


async def _resume(visit: Visit, label: str) -> Answer:
    await actions.resume(visit, visit.queue(label))
    return answers.redirect(visit.place.link("queues", label), flash=("resumed",))


async def _ask(visit: Visit, label: str) -> Answer:
    visit.watch.forget(visit.queue(label))  # a number to act on is no old one
    look = await visit.watch.look(visit.queue(label))
    number = look.counts["queued"] + look.counts["scheduled"]
    return answers.page("purge", visit, label=label, number=number, wrong="", live=False)


async def _purge(visit: Visit, label: str) -> Answer:
    queue = visit.queue(label)
    form = await visit.request.form()
    if str(form.get("name") or "").strip() != label:
        raise ValidationException(
            f"Nothing was purged: the name that was typed is not {label!r}. Go back and try again."
        )
    number = await actions.purge(visit, queue)
    return answers.redirect(visit.place.link("queues", label), flash=("purged", number))


ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/queues", _list),
    route("GET", "/queues/{label}", _page),
    route("POST", "/queues/{label}/pause", _pause),
    route("POST", "/queues/{label}/resume", _resume),
    route("GET", "/queues/{label}/purge", _ask),
    route("POST", "/queues/{label}/purge", _purge),
)
