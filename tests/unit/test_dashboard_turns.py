"""Turning the pages of the dashboard's lists."""

from __future__ import annotations

from urllib.parse import parse_qsl

from litestar.datastructures import MultiDict

from litestar_tasks.dashboard.search import Search
from litestar_tasks.dashboard.turns import Turns, read_turns

SEARCH = Search("failed", task="mail")


def at(address: str) -> Turns:
    return read_turns(MultiDict(parse_qsl(address)))


def test_an_address_leads_to_the_pages_before_it_one_by_one() -> None:
    pages = ["state=failed&task=mail"]
    for cursor in ("one", "two", "three"):
        pages.append(at(pages[-1]).following(SEARCH, cursor))
    assert at(pages[-1]).cursor == "three"
    while len(pages) > 1:
        assert at(pages.pop()).previous(SEARCH) == pages[-1]
    assert at(pages[0]).previous(SEARCH) == ""
    assert at(pages[0]).following(SEARCH, "") == "", "behind the last page there is none"


def test_however_many_pages_were_turned_an_address_stays_short() -> None:
    address = ""
    for number in range(100):
        address = at(address).following(SEARCH, f"{number:0300}")
        assert len(address) < 4_000
    turns, back = at(address), 0
    while address := turns.previous(SEARCH):
        turns, back = at(address), back + 1
    assert back == 10, "the earliest ones are forgotten"
    assert turns.cursor, "and the first one is not taken for the one before"


def test_an_address_that_somebody_wrote_by_hand_has_no_page_before_it() -> None:
    assert at("state=failed&cursor=abc").previous(SEARCH) == ""
    assert at("state=failed&behind=abc") == Turns()
