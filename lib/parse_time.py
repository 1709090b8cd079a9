"""Parse the times that options take.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from output import UsageError


# vendor:begin
def parse_time(text: str) -> datetime:
    """Parse an ISO 8601 time (UTC unless it names a zone), YYYYMMDDhhmm, or an age such as 90m, 3h or 7d.

    Raises UsageError.
    """
    try:
        if age := re.fullmatch("([0-9]{1,6})([mhd])", text):
            units = {"m": "minutes", "h": "hours", "d": "days"}
            return datetime.now(UTC) - timedelta(**{units[age[2]]: int(age[1])})
        is_minute = re.fullmatch("[0-9]{12}", text)
        at = datetime.strptime(text, "%Y%m%d%H%M") if is_minute else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        expected = "2026-11-01, 2026-11-01T12:00Z, 202611011200, or an age: 90m, 12h, 7d"
        raise UsageError(f"{text} is not a time: expected {expected}") from None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


# vendor:end
