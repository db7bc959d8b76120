"""Time codes (SMPTE ST 12-1): the one of a later frame."""

import re
from fractions import Fraction

TAG = "timecode"
_FORM = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")


def later(timecode: str, frames: int, rate: Fraction) -> str | None:
    """The time code ``frames`` after ``timecode``, at ``rate`` frames/s; None where it is none at that rate.

    With a semicolon (or dot) before the frames it drops the first two numbers of a minute, of ten minutes but one, at
    30000/1001 frames/s, and four at twice that.
    """
    found = _FORM.fullmatch(timecode)
    nominal = round(rate)
    if not found or nominal < 1:
        return None
    hours, minutes, seconds, number = (int(found[i]) for i in (1, 2, 3, 5))
    drops = nominal // 15 if found[4] != ":" else 0
    if number >= nominal or (drops and nominal % 30):
        return None
    total_minutes = 60 * hours + minutes
    count = (60 * total_minutes + seconds) * nominal + number - drops * (total_minutes - total_minutes // 10)
    count = (count + frames) % (nominal * 86400 - drops * (24 * 54))
    if drops:
        tens, rest = divmod(count, 600 * nominal - 9 * drops)
        dropped = max(0, rest - 60 * nominal) // (60 * nominal - drops) + 1 if rest >= 60 * nominal else 0
        count += drops * (9 * tens + dropped)
    seconds, number = divmod(count, nominal)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{found[4]}{number:02}"
