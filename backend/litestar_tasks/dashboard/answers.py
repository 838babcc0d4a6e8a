"""What was found, as JSON or as a page."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar.app import DEFAULT_OPENAPI_CONFIG
from litestar.response import Response

from litestar_tasks.dashboard import words
from litestar_tasks.dashboard.watch import interval

if TYPE_CHECKING:
    from litestar import Litestar, Request

    from litestar_tasks.dashboard.places import Place
    from litestar_tasks.dashboard.visit import Visit

__all__ = ("asset", "error", "json", "page", "prepare", "redirect")

_PACKAGE: Final = "litestar_tasks.dashboard"
_ASSETS: Final = {"live.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
_FLASHES: Final[Mapping[str, Callable[[Sequence[int]], str]]] = {
    "none": lambda _: "No job matches any more; nothing was done.",
    "job-retried": lambda _: "The job runs again.",
    "job-aborted": lambda _: "The job is being aborted.",
    "enqueued": lambda _: "The job was enqueued.",
    "known": lambda _: "A job of this key was there already: this one. Nothing was enqueued.",
    "paused": lambda _: "The queue is paused. Running jobs go on; nothing more is started.",
    "resumed": lambda _: "The queue works again.",
    "purged": lambda numbers: f"{_jobs(numbers)} that waited {_were(numbers)} forgotten.",
    "retried": lambda numbers: f"{_jobs(numbers)} {_were(numbers)} sent to run again.{_left(numbers)}",
    "aborted": lambda numbers: f"{_jobs(numbers)} {_were(numbers)} aborted.{_left(numbers)}",
    "deleted": lambda numbers: f"{_jobs(numbers)} {_were(numbers)} deleted.{_left(numbers)}",
    "schedule-paused": lambda _: "The schedule is paused: it does not fire until it is resumed.",
    "schedule-resumed": lambda _: "The schedule fires again.",
    "schedule-changed": lambda _: "The schedule was changed. What the code declares is kept, and can be restored.",
    "schedule-reset": lambda _: "The schedule is again as the code declares it.",
    "schedule-added": lambda _: "The schedule was added.",
    "schedule-removed": lambda _: "The schedule was removed.",
}


@cache
def prepare() -> threading.Thread:
    """Begin to compile the templates, in a thread: whoever is first to see a page should not wait for that."""
    thread = threading.Thread(target=_compile, name="dashboard-templates", daemon=True)
    thread.start()
    return thread


def page(name: str, visit: Visit, *, status_code: int = 200, live: bool, **values: Any) -> Response[str]:
    """A page from its template. Every value is escaped.

    Args:
        name: The template's name.
        visit: For whom.
        status_code: Defaults to 200.
        live: Whether it follows what happens.
        values: What it shows.
    """
    content = (
        _templates()
        .get_template(f"{name}.html")
        .render(
            brand=brand(visit.request.app),
            place=visit.place,
            may_act=visit.may_act,
            has_history=visit.has_history,
            every=interval(len(visit.queues)) if live else 0,
            flash=_flash(visit.param("done")),
            section=name,
            status_code=status_code,
            **values,
        )
    )
    return Response(content, status_code=status_code, media_type="text/html")


def error(
    app: Litestar,
    place: Place,
    *,
    status_code: int,
    title: str,
    detail: str,
    hint: str,
    link: tuple[str, str] | None,
    has_history: bool,
) -> Response[str]:
    """A page that says what is wrong, and what to do."""
    content = (
        _templates()
        .get_template("error.html")
        .render(
            brand=brand(app),
            place=place,
            may_act=True,
            has_history=has_history,
            every=5 if status_code >= 500 else 0,
            flash="",
            section="error",
            status_code=status_code,
            title=title,
            detail=detail,
            hint=hint,
            link=link,
        )
    )
    return Response(content, status_code=status_code, media_type="text/html")


def brand(app: Litestar) -> str:
    """What the app is called: its title in the OpenAPI schema, or "SAQ" where it has none of its own."""
    title = app.openapi_config.title if app.openapi_config else ""
    return title if title and title != DEFAULT_OPENAPI_CONFIG.title else "SAQ"


def json(content: Any, *, status_code: int = 200) -> Response[Any]:
    """JSON, for scripts."""
    return Response(content, status_code=status_code, media_type="application/json")


def redirect(url: str, *, flash: tuple[str | int, ...] = ()) -> Response[None]:
    """Off to another page, after a form; ``flash`` names what that says was done."""
    if flash:
        url += f"{'&' if '?' in url else '?'}{urlencode({'done': '.'.join(map(str, flash))})}"
    return Response(None, status_code=303, headers={"location": url}, media_type="text/plain")


def asset(request: Request[Any, Any, Any], name: str) -> Response[bytes] | None:
    """A file that pages need, or None. As it is: compressing it is the app's own ``CompressionConfig``'s business."""
    if (media_type := _ASSETS.get(name)) is None:
        return None
    etag = f'"{_digest(name)}"'
    # Pages name the digest in the address, so what is there once is good for ever.
    known = request.query_params.get("v") == _digest(name)
    headers = {"etag": etag, "cache-control": "private, max-age=31536000, immutable" if known else "private, no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == etag:
        return Response(b"", status_code=304, headers=headers, media_type=media_type)
    return Response(_read(name), status_code=200, headers=headers, media_type=media_type)


@cache
def _read(name: str) -> bytes:
    return (files(_PACKAGE) / "static" / name).read_bytes()


@cache
def _digest(name: str) -> str:
    return hashlib.sha256(_read(name)).hexdigest()[:16]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {name: getattr(words, name) for name in ("ago", "count", "duration", "iso", "percent")},
        part=_part,
    )
    environment.globals.update(asset_version=_digest)
    return environment


def _compile() -> None:
    templates = _templates()
    for name in templates.list_templates():
        templates.get_template(name)


def _part(text: str) -> str:
    """A text as a part of an address or of an element's id."""
    return quote(text, safe="")


def _flash(code: str) -> str:
    """The sentence of a code: an address must not be able to make the page say anything else."""
    name, *numbers = code.split(".")
    if name not in _FLASHES or not all(number.isdecimal() and len(number) < 10 for number in numbers):
        return ""
    return _FLASHES[name]([*map(int, numbers), 0, 0])


def _jobs(numbers: Sequence[int]) -> str:
    return "1 job" if numbers[0] == 1 else f"{words.count(numbers[0])} jobs"


def _were(numbers: Sequence[int]) -> str:
    return "was" if numbers[0] == 1 else "were"


def _left(numbers: Sequence[int]) -> str:
    return f" {words.count(numbers[1])} had changed meanwhile and {_were(numbers[1:])} left." if numbers[1] else ""
