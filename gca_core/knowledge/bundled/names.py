"""Names in one spelling, so that "TGF-β1", "TGFb1" and "TGF-beta 1" can meet."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

# signs that look like "-", "+" and "/", superscripts among them
_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u207b\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u207a\ufe62\uff0b", "+")
    | dict.fromkeys("\u2044\u2215\uff0f", "/")
)
_GENOTYPE = re.compile(r"\(?\s*([-+])\s?/\s?([-+])\s*\)?(?!\w)")
_DROPPED = re.compile(r"[^a-z0-9+ ]+")
_PARENTHESES = re.compile(r"\(([^()]*)\)")
_ORIGIN = re.compile(r"^(?:recombinant|human|rh|rhu|purified)[\s-]+|^(?:rh|rhu)(?=[A-Z])")
_DOSE = re.compile(
    r"[\s,@_]+\d+(?:[.,]\d+)?\s*(?:[munpf\u00b5\u03bc]?M|[munp\u00b5\u03bc]?g(?:/m?l)?|I?U(?:/m?l)?|%)$", re.IGNORECASE
)
_SALT = re.compile(
    r"\s+(?:(?:di|mono|2|3)?\s?(?:hydrochloride|hcl|mesylate|mesilate|phosphate|sodium|potassium|citrate|tosylate|"
    r"ditosylate|maleate|fumarate|succinate|sulfate|sulphate|calcium|hydrate|acetate|tartrate|besylate|malate|"
    r"lactate|hydrobromide|free base))+$",
    re.IGNORECASE,
)


def plain_signs(text: str) -> str:
    """Minus, plus and slash as ASCII, and a genotype as a word of its own: ``Tnf−/−`` becomes ``Tnf -/-``."""
    return _GENOTYPE.sub(r" \1/\2 ", text.translate(_SIGNS)).rstrip()


def normalise_name(text: str) -> str:
    """A name without case, Greek letters, hyphens, spaces and punctuation: ``IFN-β`` becomes ``ifnbeta``.

    The sign of a genotype stays a word, so that ``TNF-/-`` never becomes ``TNF``.
    """
    return _spaced(text).replace(" ", "")


def tokens(text: str) -> list[str]:
    """The normalised words of a text, in order."""
    return _spaced(text).split()


def variants(text: str) -> Iterator[str]:
    """The same name without where it was made, its dose, its salt, or what stands in parentheses.

    ``recombinant human IL-2 10 ng/ml`` gives ``IL-2``; ``Quizartinib (AC220)`` gives both names.
    """
    inside = [found for found in _PARENTHESES.findall(text) if len(normalise_name(found)) > 2]
    for candidate in (text, _PARENTHESES.sub(" ", text), *inside):
        yield from _shortened(" ".join(candidate.split()))


def _shortened(text: str) -> Iterator[str]:
    for pattern in (_DOSE, _SALT, _ORIGIN, _ORIGIN):
        text = pattern.sub("", text).strip()
        if text:
            yield text


@lru_cache(maxsize=20_000)
def _spaced(text: str) -> str:
    named = _GENOTYPE.sub(" genotype ", text.translate(_SIGNS))
    lowered = unicodedata.normalize("NFKC", named).casefold()
    return " ".join(_DROPPED.sub("", "".join(map(_plain, lowered))).split())


def _plain(character: str) -> str:
    """Greek letters by name, dashes and separators as spaces."""
    if character.isascii():
        return " " if character in "-_/\t\n" else character
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.removeprefix("GREEK SMALL LETTER ").split()[0].lower().replace("lamda", "lambda")
    return " " if unicodedata.category(character) in {"Pd", "Zs"} else character
