"""What does not show in a text: found, taken out, and told from what belongs to a script."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from durable_agent.agents.hidden import hides, shown

# Joiners are hidden by where they stand; a carriage return ends a line; number signs before digits do show.
BY_PLACE = {"\u200c", "\u200d"}
SHOWN = {"\t", "\n", "\r", *"\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"}


def test_every_control_format_and_private_character_is_hidden_and_no_letter_is() -> None:
    wrong = []
    for char in map(chr, range(sys.maxunicode + 1)):
        kind = unicodedata.category(char)
        if kind in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and char not in SHOWN and not hides(char):
            wrong.append(f"U+{ord(char):04X} shows")
        elif hides(char) and kind not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Cn", "Mn", "Lo", "So"):
            wrong.append(f"U+{ord(char):04X} is hidden")
    assert wrong == []
    assert not any(hides(char) for char in SHOWN)


@pytest.mark.parametrize(
    "hidden",
    ["\xad", "\u034f", "\u115f", "\u1160", "\u17b4", "\u180b", "\u2800", "\u3164", "\ufe00", "\ufe01", "\uffa0", "\ufff0", "\ufffe", "\U0001fffe",
     "\U000e0041", "\U000e0fff", "\U000e0100"],
)  # fmt: skip
def test_what_shows_as_nothing_is_hidden_whatever_it_counts_as(hidden: str) -> None:
    found = hides(f"a{hidden}b")
    assert found is not None
    assert (found[0], found.start()) == (hidden, 1)
    assert shown(f"a{hidden}b") == "ab"


@pytest.mark.parametrize(
    "text",
    ["读取 «данные» – déjà vu\n\t", "می\u200cخواهم", "श्री क्\u200dष", "ක්\u200dෂ", "👩🏽\u200d💻 ❤️\u200d🔥 🐦\u200d⬛ ⚠️ 1️⃣", "۝ \u0600", "𐍈 𠀋 🫠", ""],
)  # fmt: skip
def test_plain_words_of_any_language_and_emoji_show(text: str) -> None:
    assert hides(text) is None
    assert shown(text) == text


@pytest.mark.parametrize("text", ["a\u200db", "a\u200c", "\u200dب", "ب\u200c\u200cب", "ب\u200d b", "中\u200d中"])
def test_a_joiner_that_joins_nothing_is_hidden(text: str) -> None:
    assert hides(text)
    assert hides(shown(text)) is None
    assert not {"\u200c", "\u200d"} & set(shown(text))


def test_every_end_of_a_line_is_a_newline() -> None:
    assert shown("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h\n") == "a\nb\nc\nd\ne\nf\ng\nh\n"
    assert hides("a\r\nb\rc") is None
    assert [bool(hides(f"a{end}b")) for end in "\x0b\x0c\x85\u2028\u2029"] == [True] * 5
