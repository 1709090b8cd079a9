"""parse_time: the times that options take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from output import UsageError
from parse_time import parse_time


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:30", datetime(2026, 11, 1, 12, 30, tzinfo=UTC)),
        ("2026-11-01T12:30:05Z", datetime(2026, 11, 1, 12, 30, 5, tzinfo=UTC)),
        ("2026-11-01T12:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("202611011230", datetime(2026, 11, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_utc(text: str, time: datetime) -> None:
    assert parse_time(text) == time
    assert parse_time(text).tzinfo is UTC


@pytest.mark.parametrize(("text", "age"), [("90m", {"minutes": 90}), ("12h", {"hours": 12}), ("7d", {"days": 7})])
def test_an_age_counts_back_from_now(text: str, age: dict[str, int]) -> None:
    assert abs(datetime.now(UTC) - timedelta(**age) - parse_time(text)) < timedelta(seconds=10)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "202613011230", "7w", "-3h", "999999d", "d"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="expected 2026"):
        parse_time(text)
