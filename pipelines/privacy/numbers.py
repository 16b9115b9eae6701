"""Phone numbers, card numbers and IBANs: runs of digits that are written, and count, as such numbers do.

Phones: international form (ITU-T E.164: a country code, at most 15 digits) after "+" or "00"; the North American and
the French national form; any number right behind a word such as "Tel". Cards: an issuer's first digits (ISO/IEC 7812),
its length, the Luhn check; digits that are not in the groups printed on cards also need a word such as "card" before
them, for one number in ten passes Luhn. IBANs (ISO 13616): the country's length, and the remainder of 97.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.privacy.page import Page, Span

_RUN = re.compile(rb"0[0 .\-/()]{5,}0")
"""Digits, and single characters that people put between them."""
_COUNTRY_CODES = (
    "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 "
    "86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 "
    "237 238 239 240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266 "
    "267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378 380 "
    "381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 596 597 "
    "598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 800 850 852 853 855 "
    "856 870 878 880 881 882 883 886 888 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 979 992 "
    "993 994 995 996 998"
)
_CODES = frozenset(_COUNTRY_CODES.split())
_LEAST, _MOST = 7, 15  # digits of a phone number
_WRITTEN = 48  # characters that so many digits take up at most, with what is between them
_GROUPS = re.compile(r"\d+(?:(?:\) ?| ?\(|[ \u00a0.\-/])\d+)*")
_DIGITS = re.compile(r"\d+")
_NANP = re.compile(
    r"(?<![\w.\-+])(?:1[-. ])?(?:\([2-9]\d\d\) ?[2-9]\d\d[-. ]|[2-9]\d\d(?P<mark>[-.])[2-9]\d\d(?P=mark))\d{4}"
    r"(?!\w|[-.]\d)"
)
_FRENCH = re.compile(
    r"(?<![\w.\-/+])(?<!\d[ \u00a0])0[1-9](?P<mark>[ \u00a0.\-])\d\d(?:(?P=mark)\d\d){3}(?!\w|[ \u00a0./-]\d)"
)
_PHONE_WORD = re.compile(
    r"(?<!\w)(?:tel|tél|phone|telephone|téléphone|telefon|telefono|teléfono|telefone|telefoon|fax|mobile|mobil|móvil|"
    r"celular|cellulare|cell|handy|whatsapp|hotline|тел|телефон|факс|моб)"
    r"(?:[^\w\n]{0,3}(?:no|nr|number|num|numéro|nummer|№))?[^\w\n]{0,4}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)\d\d[-./]\d\d?[-./]\d\d?(?!\d)|\d\d?[-./]\d\d?[-./](?:19|20)\d\d(?!\d)")

_GROUPED_CARD = re.compile(r"(?<![\w.,-])\d{4}([ -]?)(?:\d{4}\1\d{4}\1\d{4}|\d{6}\1(?:\d{5}|\d{4}))(?!\w|[-.,]\d)")
_CARD = re.compile(
    r"3(?:4|7)\d{13}|3(?:0[0-5]|6|8)\d{12}|4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|"
    r"6(?:011|2\d\d|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
)
_CARD_WORD = re.compile(
    r"cards?|credit|visa|master ?card|amex|american express|maestro|carte|tarjeta|carta|cartão|kreditkarte|карт",
    re.IGNORECASE,
)
_REACH = 40

_IBAN = re.compile(rb"(?<![0aA])AA00[ 0A]")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def phones(page: Page) -> Iterator[Span]:
    """Phone numbers, in order."""
    for run in _RUN.finditer(page.shape):
        start, end = run.span()
        first = max(0, start - 1)
        if found := _phone(page.text, start, end):
            first = found[1]
            yield found
        for pattern in (_NANP, _FRENCH):
            for number in pattern.finditer(page.text, first, end + 1):
                if pattern is not _FRENCH or not _ascending(number[0]):
                    yield number.span()


def accounts(page: Page) -> Iterator[Span]:
    """Card numbers in order, then IBANs."""
    for run in _RUN.finditer(page.shape):
        if run.end() - run.start() >= 14:
            for card in _GROUPED_CARD.finditer(page.text, run.start(), run.end() + 1):
                said = card[1] or _CARD_WORD.search(page.text, max(0, card.start() - _REACH), card.start())
                digits = card[0].replace(" ", "").replace("-", "")
                if said and _CARD.fullmatch(digits) and _luhn(digits):
                    yield card.span()
    if b"AA00" in page.shape:
        for start in (found.start() for found in _IBAN.finditer(page.shape)):
            if end := _iban_end(page.text, start):
                yield start, end


def _phone(text: str, start: int, end: int) -> Span | None:
    """A number at the beginning of a run of digits that what stands before it, or its prefix, shows to be a phone's."""
    before = text[max(0, start - _REACH) : start]
    opened = before.endswith("(")
    sign = before.removesuffix("(")[-2:]
    groups = _groups(text, start, end)
    if not groups:
        return None
    digits = "".join(text[slice(*group)] for group in groups)
    if sign.endswith("+"):
        if sign != "+" and (sign[0].isalnum() or sign[0] in "_+"):
            return None
        return _international(text, groups, "", start - 1 - opened)
    if (
        text.startswith("00", start)
        and groups[0][1] > start + 2
        and len(groups) > 2
        and not (sign and (sign[-1].isalnum() or sign[-1] in ".,-_/"))
    ):
        return _international(text, groups, "00", start)
    if len(digits) >= _LEAST and _PHONE_WORD.search(before) and not _DATE.match(text, start):
        return start - opened, groups[-1][1]
    return None


def _groups(text: str, start: int, end: int) -> list[Span]:
    """The groups of digits from `start` on that are one number, of at most `_MOST` digits behind a prefix 00."""
    whole = _GROUPS.match(text, start, min(end, start + _WRITTEN))
    assert whole, "a run begins with a digit"
    most = _MOST + 2 * whole[0].startswith("00")
    groups: list[Span] = []
    for group in _DIGITS.finditer(text, *whole.span()):
        most -= len(group[0])
        if most < 0:
            break
        groups.append(group.span())
    return groups


def _international(text: str, groups: list[Span], prefix: str, start: int) -> Span | None:
    """The span from `start` on of a number whose groups begin with a country code, behind `prefix`."""
    lengths = [end - begin for begin, end in groups]
    digits = "".join(text[slice(*group)] for group in groups).removeprefix(prefix)
    if digits.startswith("1"):  # the North American plan: ten digits behind the code
        while lengths and sum(lengths) - len(prefix) > 11:
            lengths.pop()
        if sum(lengths) - len(prefix) != 11:
            return None
    elif not any(digits[:size] in _CODES for size in (2, 3)) and digits[:1] != "7":
        return None
    decimal = len(lengths) == 2 and text[groups[0][1]] == "." and lengths[1] > 4
    enough = _LEAST + (1 if len(lengths) > 1 else 3)
    return None if decimal or len(digits) < enough else (start, groups[len(lengths) - 1][1])


def _ascending(number: str) -> bool:
    """Whether its groups count up, as 01 02 03 04 05 does."""
    groups = [int(group) for group in _DIGITS.findall(number)]
    return groups == list(range(groups[0], groups[0] + len(groups)))


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _iban_end(text: str, start: int) -> int | None:
    """Where the IBAN that begins at `start` ends, blanks between groups of four allowed; None when there is none."""
    length = _IBAN_LENGTHS.get(text[start : start + 2])
    if length is None:
        return None
    grouped = text[start + 4 : start + 5] in (" ", "\u00a0")
    end = start + length + (grouped and (length - 1) // 4)
    written = text[start:end]
    number = "".join(written[first : first + 4] for first in range(0, len(written), 5)) if grouped else written
    if len(number) != length or not number.isascii() or not number.isalnum() or number.upper() != number:
        return None
    if text[end : end + 1].isalnum() or (grouped and set(written[4::5]) - {" ", "\u00a0"}):
        return None
    return end if int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1 else None
