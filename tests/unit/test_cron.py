"""When expressions match, through the transitions of real time zones, and beside an independent reckoning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litestar_tasks.cron import Cron

MINUTE = timedelta(minutes=1)


def matches(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The first matches after a moment of UTC, as the clock there shows them."""
    cron, moment, found = Cron(expression, zone), datetime.fromisoformat(after).replace(tzinfo=UTC), []
    for _ in range(count):
        moment = cron.next_after(moment)
        found.append(f"{moment.astimezone(ZoneInfo(zone)):%d %H:%M%z}")
    return found


# Transitions: where an hour, or half of one, does not exist or comes twice.


@pytest.mark.parametrize(
    ("zone", "expression", "after", "fires"),
    [
        # 2026-03-29 02:00 becomes 03:00
        ("Europe/Berlin", "30 2 * * *", "2026-03-28", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]),
        ("Europe/Berlin", "*/15 2 * * *", "2026-03-28T12", ["29 03:00+0200", "30 02:00+0200", "30 02:15+0200"]),
        ("Europe/Berlin", "0 2,3 * * *", "2026-03-28T12", ["29 03:00+0200", "30 02:00+0200", "30 03:00+0200"]),
        ("Europe/Berlin", "0 3 * * *", "2026-03-28T12", ["29 03:00+0200", "30 03:00+0200", "31 03:00+0200"]),
        ("Europe/Berlin", "*/30 * * * *", "2026-03-29T00", ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]),
        ("Europe/Berlin", "15 * * * *", "2026-03-29T00", ["29 01:15+0100", "29 03:15+0200", "29 04:15+0200"]),
        ("Europe/Berlin", "0 */2 * * *", "2026-03-28T22", ["29 00:00+0100", "29 03:00+0200", "29 04:00+0200"]),
        # 2026-10-25 03:00 becomes 02:00
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12", ["25 02:30+0200", "26 02:30+0100", "27 02:30+0100"]),
        ("Europe/Berlin", "0 2,3 * * *", "2026-10-24T12", ["25 02:00+0200", "25 03:00+0100", "26 02:00+0100"]),
        ("Europe/Berlin", "*/30 * * * *", "2026-10-25T00", ["25 02:30+0200", "25 02:00+0100", "25 02:30+0100"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T01", ["26 02:30+0100", "27 02:30+0100", "28 02:30+0100"]),
        # 2026-03-08 02:00 becomes 03:00, 2026-11-01 02:00 becomes 01:00
        ("America/New_York", "30 2 * * *", "2026-03-07T12", ["08 03:00-0400", "09 02:30-0400", "10 02:30-0400"]),
        ("America/New_York", "30 1 * * *", "2026-10-31T12", ["01 01:30-0400", "02 01:30-0500", "03 01:30-0500"]),
        ("America/New_York", "0,30 * * * *", "2026-11-01T05:15", ["01 01:30-0400", "01 01:00-0500", "01 01:30-0500"]),
        # by half an hour: 2026-10-04 02:00 becomes 02:30, 2026-04-05 02:00 becomes 01:30
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12", ["04 02:30+1100", "05 02:15+1100", "06 02:15+1100"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12", ["05 01:45+1100", "06 01:45+1030", "07 01:45+1030"]),
        (
            "Australia/Lord_Howe",
            "*/15 * * * *",
            "2026-04-04T14:40",
            ["05 01:45+1100", "05 01:30+1030", "05 01:45+1030"],
        ),
        # at midnight: 2026-03-08 00:00 becomes 01:00, 2026-11-01 01:00 becomes 00:00
        ("America/Havana", "0 0 * * *", "2026-03-07T12", ["08 01:00-0400", "09 00:00-0400", "10 00:00-0400"]),
        ("America/Havana", "@daily", "2026-10-31T12", ["01 00:00-0400", "02 00:00-0500", "03 00:00-0500"]),
        # by two hours: 2026-03-29 01:00 becomes 03:00
        ("Antarctica/Troll", "30 1,2 * * *", "2026-03-28T12", ["29 03:00+0200", "30 01:30+0200", "30 02:30+0200"]),
        # a whole day that did not exist: 2011-12-30
        ("Pacific/Apia", "0 12 * * *", "2011-12-29T12", ["29 12:00-1000", "31 00:00+1400", "31 12:00+1400"]),
    ],
)
def test_a_time_that_is_missing_comes_at_the_end_of_the_gap_and_one_that_comes_twice_once(
    zone: str, expression: str, after: str, fires: list[str]
) -> None:
    assert matches(expression, zone, after, len(fires)) == fires


def test_leap_days_and_the_ends_of_years_are_like_any_other() -> None:
    cron = Cron("0 0 29 2 *", "UTC")
    leap = cron.next_after(datetime(2026, 1, 1, tzinfo=UTC))
    assert (leap, cron.next_after(leap)) == (datetime(2028, 2, 29, tzinfo=UTC), datetime(2032, 2, 29, tzinfo=UTC))
    assert matches("59 23 31 12 *", "Asia/Tokyo", "2026-06-01", 2) == ["31 23:59+0900"] * 2
    assert matches("*/20 * * * *", "Europe/Berlin", "2026-12-31T22:30", 3) == [
        "31 23:40+0100",
        "01 00:00+0100",
        "01 00:20+0100",
    ]
    assert Cron("0 0 29 2 1", "UTC").next_after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 2, 2, tzinfo=UTC)


def test_seconds_stand_last() -> None:
    cron, moment = Cron("* * * * * */20", "UTC"), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    found = []
    for _ in range(3):
        moment = cron.next_after(moment)
        found.append(moment.second)
    assert found == [20, 40, 0]


# Beside an independent reckoning, which looks at every minute


@dataclass(frozen=True)
class Fields:
    """An expression as sets; None for a star."""

    minutes: frozenset[int]
    hours: frozenset[int] | None
    days: frozenset[int] | None
    weekdays: frozenset[int] | None

    def __str__(self) -> str:
        columns = [self.minutes, self.hours, self.days, None, self.weekdays]
        return " ".join("*" if column is None else ",".join(map(str, sorted(column))) for column in columns)

    def match(self, local: datetime) -> bool:
        if local.minute not in self.minutes or (self.hours is not None and local.hour not in self.hours):
            return False
        day = self.days is not None and local.day in self.days
        weekday = self.weekdays is not None and local.isoweekday() % 7 in self.weekdays
        return (self.days is None and self.weekdays is None) or day or weekday


def reckoned(fields: Fields, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """Each minute of UTC at which it fires, by the rule alone."""
    shown: set[datetime] = set()
    moment = start - timedelta(days=2)
    before = moment.astimezone(zone).replace(tzinfo=None) - MINUTE
    while moment <= end:
        local = moment.astimezone(zone).replace(tzinfo=None)
        fires = fields.match(local)
        if fields.hours is not None:
            fires = fires and local not in shown
            skipped = before + MINUTE
            while skipped < local:  # the clock has jumped
                fires = fires or fields.match(skipped)
                skipped += MINUTE
        if fires and start < moment:
            yield moment
        shown.add(local)
        before = local
        moment += MINUTE


def transitions() -> list[tuple[str, datetime]]:
    """An hour before each change of the clocks in a few years, in zones of every kind."""
    found = []
    for zone in (
        "Europe/Berlin",
        "America/New_York",
        "America/Havana",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Asia/Beirut",
        "Africa/Casablanca",
        "Antarctica/Troll",
        "Pacific/Apia",
        "Asia/Kolkata",
    ):
        moment = datetime(2010, 6, 1, tzinfo=UTC) if zone == "Pacific/Apia" else datetime(2026, 1, 1, tzinfo=UTC)
        end = moment + timedelta(days=1100)
        found.append((zone, moment))
        while (later := moment + timedelta(days=1)) < end:
            if offset(moment, zone) != offset(later, zone):
                hours = (moment + timedelta(hours=number) for number in range(24))
                last = next(hour for hour in hours if offset(hour, zone) != offset(hour + timedelta(hours=1), zone))
                found.append((zone, last - timedelta(hours=1)))
            moment = later
    return found


def offset(moment: datetime, zone: str) -> timedelta | None:
    return moment.astimezone(ZoneInfo(zone)).utcoffset()


TRANSITIONS = transitions()


def some(low: int, high: int, most: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(low, high), min_size=1, max_size=most)


@settings(max_examples=150, deadline=None)
@given(
    place=st.sampled_from(TRANSITIONS),
    earlier=st.integers(0, 40 * 60),
    fields=st.builds(
        Fields,
        minutes=some(0, 59, 4),
        hours=st.none() | some(0, 5, 3) | some(0, 23, 6),
        days=st.none() | some(1, 31, 20),
        weekdays=st.none() | some(0, 6, 4),
    ),
)
def test_matches_are_those_that_the_rule_gives_minute_by_minute(
    place: tuple[str, datetime], earlier: int, fields: Fields
) -> None:
    zone, transition = place
    start = transition - timedelta(minutes=earlier)
    end = start + timedelta(days=3)
    cron, found, moment = Cron(str(fields), zone), [], start
    while (moment := cron.next_after(moment)) <= end:
        found.append(moment)
    assert found == list(reckoned(fields, ZoneInfo(zone), start, end)), (str(fields), zone, start)


@settings(max_examples=100, deadline=None)
@given(
    place=st.sampled_from(TRANSITIONS),
    expression=st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 1 * *", "*/5 1-3 * * 0", "10 * * * * */15"]),
    seconds=st.integers(0, 200_000),
)
def test_the_next_match_is_the_same_from_wherever_one_asks(
    place: tuple[str, datetime], expression: str, seconds: int
) -> None:
    zone, transition = place
    start = transition - timedelta(days=1)
    cron = Cron(expression, zone)
    asked = start + timedelta(seconds=seconds, microseconds=seconds)
    following = cron.next_after(asked)
    assert asked < following
    halfway = asked + (following - asked) / 2
    assert cron.next_after(halfway) == following
    assert cron.next_after(following - timedelta(microseconds=1)) == following


# What is refused


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("61 * * * *", "minute '61'"),
        ("* 25 * * *", "hour '25'"),
        ("* * 32 * *", "day of the month '32'"),
        ("* * * foo *", "month 'foo'"),
        ("* * * * 9", "day of the week '9'"),
        ("* * * * * 60", "second '60'"),
        ("*/90 * * * *", "minute '*/90' steps by 90"),
        ("R R * * *", "minute 'R' is random"),
        ("H * * * *", "minute 'H' is random"),
        ("every day", "2 fields; give five"),
        ("* * * * * * *", "7 fields; give five"),
        ("", "0 fields; give five"),
        ("@reboot", "give five fields"),
        ("0 0 31 2 *", "no day of the month '31' in month '2'"),
        ("0 0 30 feb *", "never matches"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field_at_fault(expression: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the text is what is tested
        Cron(expression, "UTC")
    assert says in str(caught.value)


def test_a_year_of_matches_never_goes_back() -> None:
    cron, moment = Cron("*/10 * * * *", "America/New_York"), datetime(2026, 1, 1, tzinfo=UTC)
    count = 0
    while moment < datetime(2027, 1, 1, tzinfo=UTC):
        following = cron.next_after(moment)
        assert following - moment == timedelta(minutes=10)
        moment, count = following, count + 1
    assert count == 365 * 24 * 6
