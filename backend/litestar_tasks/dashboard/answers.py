"""What was found, as JSON or as a page."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar.response import Response

from litestar_tasks.dashboard.places import Place

__all__ = ("asset", "json", "page", "redirect")

_PACKAGE: Final = "litestar_tasks.dashboard"
_ASSETS: Final = {"live.js": "text/javascript", "style.css": "text/css"}


def page(name: str, place: Place, *, status_code: int = 200, **values: Any) -> Response[str]:
    """A page from its template. Every value is escaped."""
    content = _templates().get_template(f"{name}.html").render(place=place, **values)
    return Response(content, status_code=status_code, media_type="text/html")


def json(content: Any, *, status_code: int = 200) -> Response[Any]:
    """JSON, for scripts."""
    return Response(content, status_code=status_code, media_type="application/json")


def redirect(url: str) -> Response[None]:
    """Off to another page, after a form."""
    return Response(None, status_code=303, headers={"location": url}, media_type="text/plain")


def asset(name: str) -> Response[bytes] | None:
    """A file that pages need, or None. As it is: compressing it is the app's own ``CompressionConfig``'s business."""
    if (media_type := _ASSETS.get(name)) is None:
        return None
    return Response(_read(name), status_code=200, media_type=media_type)


@cache
def _read(name: str) -> bytes:
    return (files(_PACKAGE) / "static" / name).read_bytes()


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = _moment
    return environment


def _moment(milliseconds: int) -> str:
    if not milliseconds:
        return "–"
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    except (OverflowError, OSError, ValueError):
        return "–"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
