"""`moment`: a time as the scripts' options take it.

`vendor.py` copies what stands between the markers into the scripts; the imports stay with the script.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from output import UsageError


# vendor:begin
def moment(option: str, text: str, now: float | None = None) -> float:
    """UNIX seconds of an ISO 8601 time (UTC if it names no zone), YYYYMMDDhhmm, or an age before `now`: 90m, 12h, 7d.

    Raises UsageError, which names the `option`.
    """
    text = text.strip()
    try:
        if age := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
            seconds = (time.time() if now is None else now) - int(age[1]) * {"m": 60, "h": 3600, "d": 86400}[age[2]]
        else:
            minute = re.fullmatch("[0-9]{12}", text)  # as VirusTotal names a feed's packages
            at = datetime.strptime(text, "%Y%m%d%H%M") if minute else datetime.fromisoformat(text)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1
    if not 0 <= seconds < 32503680000:  # what lies before 1970 or after 2999 is a slip
        wanted = "a date (2026-11-01, 2026-11-01T12:00Z, 202611011200) or an age (90m, 12h, 7d)"
        raise UsageError(f"{option} {text or 'is missing'}: {wanted}")
    return seconds


# vendor:end
