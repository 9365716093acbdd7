"""Cleaning of descriptors: what is left of a text are words that identify nobody.

No program tells for sure which words of a text name a person, so nothing is searched for and
struck out: words are kept only if they are known to be plain. Those are the words of the standard's
own codes (``data/plain_words.txt``), less frequent surnames among them, what the profile allows,
and small numbers. Words that the object itself uses as a name or an ID go, whatever they are.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

# frequent surnames that are plain words too
_SURNAMES: Final = frozenset(
    """baker banks barber bass bell berry best bird black bond brown bush butler carpenter chambers
    cook cross day farmer field fields fisher flowers fox frank french gray green hall hand hill
    house hunter king knight lake lane lemon little long love major march mason may miller moon
    moss noble park pope porter potter powers price rice rich rivers rose singer small stone summer
    summers swift taylor turner walker wall waters weaver wells west white wolf wood woods
    young""".split()
)
_SHORT_WORDS: Final = frozenset(
    """abd ap art axl bilat c cine cm cor ct cta cxr dwi flair fov fs hu kv l lat ma mg min ml mm
    mr mra ms nm o pa pd ph phantom pos pre post r recon sag scan scout sec slice slices st std t
    t1 t2 thk tra us vol w wo""".split()
)
_ADDRESSES: Final = re.compile(r"\S*(?:@|://|www\.)\S*")
_NUMBERS: Final = re.compile(r"\d+(?:(?:[./:()+-]{1,2}|,(?=\d)| [/(-]? ?)\d+)*")
_DATES: Final = re.compile(
    r"\d{1,4}[ ./-]+(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ ./-]+\d{1,4}",
    re.IGNORECASE,
)
_TOKENS: Final = re.compile(r"\w+")
_MOST_DIGITS: Final = 4


@cache
def plain_words() -> frozenset[str]:
    """Give the words that identify nobody."""
    text = files("pacspark.dicom").joinpath("data/plain_words.txt").read_text("utf-8")
    return (frozenset(text.split()) | _SHORT_WORDS) - _SURNAMES


def words_of(text: str) -> set[str]:
    """Give the words of a text in small letters."""
    return {token.lower() for token in re.findall(r"[^\W_]+", text)}


def clean_text(text: str, allowed: frozenset[str], forbidden: frozenset[str]) -> str:
    """Keep the plain words of a text.

    Parameters
    ----------
    text
        one value
    allowed, forbidden
        words in small letters; what is forbidden goes although it is plain or allowed

    Examples
    --------
    >>> clean_text("CT head, Dr. Meyer 12.03.1968, 5 mm", frozenset(), frozenset())
    'CT head, 5 mm'
    """
    text = _ADDRESSES.sub(" ", text)
    text = _DATES.sub(" ", text)
    text = _NUMBERS.sub(_small_numbers, text)

    def kept(match: re.Match[str]) -> str:
        word = match[0].lower()
        if word in forbidden:
            return " "
        if word in allowed or word in plain_words() or (word.isascii() and word.isdigit()):
            return match[0]
        return match[0] if _MEASURE.fullmatch(word) else " "

    text = _TOKENS.sub(kept, text)
    text = re.sub(r"(?:^|(?<=\s))[^\w\s]+(?=\s|$)", " ", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r"([,;.:])(?:\s*[,;.:])+", r"\1", text).strip(" ,;.:-_/\\")
    return text if _TOKENS.search(text) else ""


_MEASURE: Final = re.compile(r"\d{1,4}(?:mm|cm|ml|mg|kv|ma|mas|s|ms|hz|mhz|mbq|t|st|x)")


def _small_numbers(match: re.Match[str]) -> str:
    """Drop what may be a date, a telephone number or an ID: many digits, or groups of them."""
    digits = sum(character.isdigit() for character in match[0])
    groups = len(re.findall(r"\d+", match[0]))
    decimal = re.fullmatch(r"\d+[.,]\d+", match[0]) is not None
    return match[0] if digits <= _MOST_DIGITS and (groups == 1 or decimal) else " "
