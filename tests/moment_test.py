"""moment: the times that options take."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from moment import moment
from output import UsageError

NOW = datetime.fromisoformat("2026-11-22T00:00:00+00:00").timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("202611220059", "2026-11-22T00:59:00+00:00"),
        ("2026-11-22T01:59+01:00", "2026-11-22T00:59:00+00:00"),
        ("2026-11-22T00:59:30Z", "2026-11-22T00:59:30+00:00"),
        ("2026-11-22", "2026-11-22T00:00:00+00:00"),
        (" 20261122 ", "2026-11-22T00:00:00+00:00"),
        ("90m", "2026-11-21T22:30:00+00:00"),
        ("3h", "2026-11-21T21:00:00+00:00"),
        ("7d", "2026-11-15T00:00:00+00:00"),
    ],
)
def test_a_time_is_a_minute_an_iso_time_or_an_age(text: str, expected: str) -> None:
    assert moment("--from", text, NOW) == datetime.fromisoformat(expected).timestamp()


def test_an_age_counts_back_from_now() -> None:
    assert moment("--since", "2d") == pytest.approx(time.time() - 2 * 86400, abs=5)


NO_TIMES = ["", "now", "12", "2026112211", "202613010000", "2026-13-01", "7w", "-3h", "0x", "99999999999999d", "٣d"]


@pytest.mark.parametrize("text", [*NO_TIMES, "999999d", "0001-01-01", "9999-12-31T23:59"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--from {text or 'is missing'}: a date"):
        moment("--from", text)
