"""Texts of agents as people read them: what a terminal or a browser obeys, hides, turns round or shows as something else is
spelled out, as `\\x1b` or `\\u202e`. Pure: no I/O, no clock.

Who decides on a statement decides on what they see. Spelled out are
- control characters, marks of direction, and what takes no room or only room (Unicode's categories C and Z, but for the space);
- letters and marks that no font shows, although Unicode says that they can be printed; and variation selectors;
- marks that are drawn over or around another sign, and more than three marks on one: they strike words out, and reach into the
  lines above;
- letters that look like those of ASCII: in a word that has letters of ASCII too, or that is made of such letters alone. `оrders`
  with a Cyrillic o is another table than `orders`. Words that are just written in another script stay as they are.

Sources: Unicode Standard Annex #9 (direction), Technical Standard #39 (confusables, mixed scripts).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
MARKS_MOST: Final = 3
"""On one letter: vowel and cantillation in Hebrew, vowel and tone in Vietnamese and Thai."""
OVERLAYS: Final = re.compile("[\u0334-\u0338\u0488\u0489\u1abe\u20d0-\u20f0\ua670-\ua672]")
WORD: Final = re.compile(r"\w+")
CONFUSABLE_SCRIPTS: Final = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "GOTHIC", "DESERET"})
LOOK_ALIKE: Final = frozenset(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458\u04bb\u04cf\u0501\u051b\u051d\u0475"  # Cyrillic, small
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408\u04c0\u050c\u051a\u051c"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bd\u03bf\u03f3"  # Greek
    "\u0585\u057d\u0578\u0570\u0581"  # Armenian
)
"""The letters of other scripts that fonts draw as they do those of ASCII."""
ALONE: Final = 3
"""Letters from which on a word of such letters alone is spelled out: one or two of them are words of Russian and Greek."""


def visible(text: str, *, tabs: bool = False) -> str:
    """The text on one line. With `tabs` these stay."""
    if text.isascii() and text.isprintable():
        return text
    words = text if text.isascii() else WORD.sub(_word, text)
    shown: list[str] = []
    marks = 0
    for sign in words:
        marks = marks + 1 if unicodedata.combining(sign) else 0
        plain = (sign.isprintable() and not _hides(sign) and marks <= MARKS_MOST) or (tabs and sign == "\t")
        shown.append(sign if plain else spelled(sign))
    return "".join(shown)


def visible_lines(text: str) -> list[str]:
    """The text by its lines, with its tabs."""
    return [visible(line, tabs=True) for line in text.split("\n")]


def spelled(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


def _hides(sign: str) -> bool:
    selects = "\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef"
    return sign in BLANK or selects or OVERLAYS.match(sign) is not None


def _word(found: re.Match[str]) -> str:
    word = found[0]
    if word.isascii():
        return word
    mixed = any(sign.isascii() and sign.isalpha() for sign in word)
    letters = [sign for sign in word if sign.isalpha()]
    alone = len(letters) >= ALONE and all(sign in LOOK_ALIKE or _is_styled(sign) for sign in letters)
    if not mixed and not alone:
        return word
    return "".join(spelled(sign) if _is_styled(sign) or _is_confusable(sign) else sign for sign in word)


def _is_confusable(sign: str) -> bool:
    return sign > "\u02ff" and sign.isalpha() and unicodedata.name(sign, "").partition(" ")[0] in CONFUSABLE_SCRIPTS


def _is_styled(sign: str) -> bool:
    """A letter of ASCII in another form: full width, mathematical, in a circle."""
    if sign <= "\u02ff" or not sign.isalpha():
        return False
    folded = unicodedata.normalize("NFKC", sign)
    return folded.isascii() and folded.isalpha()
