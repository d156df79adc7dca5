"""Characters that do not show: what a person sees of a stranger's text is all that a model reads of it."""

from __future__ import annotations

import re

# What shows as nothing, steers what does, or stands for whatever one has agreed on: controls but tab and the ends of
# lines, formats (the invisible tag alphabet among them), fillers, blanks, selectors of a glyph's shape but the emoji's,
# surrogates, private characters, code points that are none. Arabic number signs and their like (U+0600…) do show.
# Source: general categories Cc, Cf, Co, Cs, Zl, Zp and the properties Default_Ignorable_Code_Point,
# Prepended_Concatenation_Mark and Noncharacter_Code_Point of Unicode 16, as ranges: the same under every Python.
_NEVER = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
) + "".join(f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
# Joiners shape the letters beside them in these scripts, and make one emoji of two; anywhere else, they show as nothing.
_JOINED = (
    "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\ufb50-\ufdcf\ufe0f"
    "\ufe70-\ufefc\U0001f300-\U0001faff"
)
_HIDDEN = re.compile(f"[{_NEVER}]|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])")
_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def hides(text: str) -> re.Match[str] | None:
    """Return the first character of a text that does not show, None for none."""
    return _HIDDEN.search(text)


def shown(text: str) -> str:
    """Return a text without what does not show in it, and every end of a line as a newline."""
    return _HIDDEN.sub("", _BREAK.sub("\n", text))
