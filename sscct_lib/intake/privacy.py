"""What may point to a patient, in text: dates, DICOM identifiers, record numbers, names, addresses and paths.

Two kinds of search. Patterns find what looks like an identifier. With the hospital's own identifiers at hand, these are
found too, however they are written. A finding never repeats an identifier: of each, two characters are shown.
"""

import html
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import gettempdir

SHOWN_CHARACTERS = 2
FEWEST_CHARACTERS = 4  # shorter ones stand in any text
FEWEST_DIGITS = 5  # a number of four digits may be a year
FEWEST_DIGITS_OF_PART = 6  # of a number in an identifier, searched for by itself
MOST_PARTS = 4  # of such an identifier: one with more is a UID, whose first numbers are a maker's
DATE_FORMS = ("%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")

STUDY_IDS = re.compile(r"(?<![0-9A-Za-z])p[0-9a-f]{10}(?:-[0-9a-f]{8})?(?![0-9A-Za-z])")
HASHES = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{16})(?![0-9A-Za-z])")
"""Study ids, and the hashes that records carry: random digits, among which a date may seem to stand."""
ENCODED = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}")
STANDARD_UIDS = "1.2.840.10008."
"""Identifiers of the DICOM standard itself, such as transfer syntaxes: the same in all hospitals."""

LONGEST_GAP = 3
MOST_WORDS_OF_NAME = 6  # in a cell; longer ones are sentences
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "ø": "oe", "æ": "ae"})
RUNS = re.compile(r"[^\W_]+")
PUNCTUATION = " .,;:-_/^()'\""
SHORTEST_HASH = 16
REACH = 80

YEARS = re.compile(r"(?:19|20)\d\d")
MONTHS = (
    "jan januar january janv janvier ene enero gen gennaio januari jänner jaenner jän",
    "feb februar february fév févr février fev fevr fevrier febrero febbraio februari feber",
    "mar mär märz maerz march mars marzo maart mrt mrz",
    "apr april avr avril abr abril aprile",
    "may mai mayo mag maggio mei",
    "jun juni june juin junio giu giugno",
    "jul juli july juil juillet julio lug luglio",
    "aug august août aout ago agosto augustus",
    "sep sept september septembre septiembre set sett settembre setiembre",
    "oct october okt oktober octobre octubre ott ottobre",
    "nov november novembre noviembre",
    "dec december dez dezember déc décembre decembre dic diciembre dicembre",
)
"""In English, German, French, Spanish, Italian and Dutch."""
MONTH_OF = {name: number for number, names in enumerate(MONTHS, start=1) for name in names.split()}
MONTH = "|".join(sorted(MONTH_OF, key=len, reverse=True))
ALSO_WORDS = {"may", "set", "ago"}  # which stand between numbers in other texts too
SEPARATED = r"[ ./_-]{0,2}"
DAY_BEHIND = r"(?:\.0|(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d(?:\.\d{1,6})?)?(?!\d)|(?=T\d|Z?(?:[\W_]|$)))"
DATES = re.compile(
    r"(?:(?<![^\W_])(?<!\.)(?:"
    rf"(?P<y1>(?:19|20)\d\d)(?P<dash>[-/._:]?)(?P<m1>\d\d)(?P=dash)(?P<d1>\d\d){DAY_BEHIND}"
    r"|(?P<y2>(?:19|20)\d\d)(?P<slash>[-/])(?P<m2>\d{1,2})(?P=slash)(?P<d2>\d{1,2})(?![\w/-])"
    r"|(?P<a>\d{1,2})(?P<dot>[-/._])(?P<b>\d{1,2})(?P=dot)(?P<y>(?:19|20)\d\d)"
    rf"|(?P<d3>\d{{1,2}})(?:[ºo]| ?(?:er|st|nd|rd|th))?{SEPARATED}(?:(?:de|of) )?(?P<m3>{MONTH})"
    r"\.?,?[ ./_-]{0,2}(?:de )?(?P<y3>(?:19|20)\d\d)"
    rf"|(?P<m4>{MONTH}){SEPARATED}(?P<d4>\d{{1,2}})(?:st|nd|rd|th)?(?: \d\d:\d\d:\d\d(?: [A-Z]{{3,4}})?)?"
    r",?[ ./_-]{0,2}(?P<y4>(?:19|20)\d\d)"
    rf"|(?P<y5>(?:19|20)\d\d){SEPARATED}(?P<m5>{MONTH}){SEPARATED}(?P<d5>\d{{1,2}})"
    rf")|(?<=[A-Za-z])(?P<y6>(?:19|20)\d\d)(?P<m6>\d\d)(?P<d6>\d\d)(?=[\W_]|$)"
    r")(?!\d|\.\d+(?![^\W_]))",  # `.7z` may follow, `.5` may not: then it is a number
    re.IGNORECASE,
)
SHORT_DATES = re.compile(
    r"(?<![\w.,/-])(?:(?P<a>\d\d)(?P<dot>[-/.])(?P<b>\d\d)(?P=dot)\d\d|(?P<c>\d{1,2})/(?P<d>\d{1,2})/\d\d"
    rf"|\d{{1,2}}[ ./_-]?(?P<m>{MONTH})\.?[ ./_-]?\d\d)(?![\w/-]|[.,]\w)",
    re.IGNORECASE,
)
"""With the last two digits of the year; day and month have two as well, since versions of programs look like it."""
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-_])")
"""What colours a terminal."""
DASHES = re.compile("[\u2010-\u2015\u2212]")
UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060]")  # soft hyphens, and blanks without width
EXPONENT = re.compile(r"(?<![\w.])\d\.\d+e\+\d\d(?!\w)")
UIDS = re.compile(r"(?<![\w.])(?:(?:1\.[23]|2\.(?:16|999))(?:\.(?:0|[1-9]\d*)){3,62}|2\.25\.\d{10,})(?![\w.]*\w)")
SHORTEST_UID = 10  # a version number is shorter
EMAILS = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}(?!\w)")
EXAMPLE_MAIL = re.compile(r"[\w.+-]+@(?:[\w-]+\.)*example\.(?:org|com|net|edu)$", re.IGNORECASE)
SYSTEM = {"usr", "bin", "lib", "etc"}  # the same on all machines
OWN_PLACES = (Path(__file__), Path(sys.prefix), Path(gettempdir()), Path.home(), Path.cwd())
FOLDERS = "|".join(
    [
        *("home", "users", "root", "mnt", "media", "data", "srv", "work", "scratch", "tmp", "var", "nas", "net", "nfs"),
        *("export", "volumes", "private", "opt", "gpfs", "lustre", "beegfs", "hpc", "cluster", "storage", "projects"),
        *sorted({re.escape(part) for place in OWN_PLACES for part in place.absolute().parts[1:2]} - SYSTEM),
    ]
)
"""Where paths of a machine begin: the usual names, and those of the machine at hand."""
# `/home/web_user` stands in programs that were compiled for a browser, where every user has that home.
PATHS = re.compile(
    rf"(?<![\w/.:~<-])(?!/home/web_user\b)/(?:{FOLDERS})(?:/[^\s\"'<>|:;,)\]}}&\\]+)+"
    r"|(?<!\w)[A-Za-z]:\\{1,2}(?:users|data|documents)\\[^\s\"'<>|]+|file:///[^\s\"'<>]+",
    re.IGNORECASE,
)
NUMBERS = re.compile(
    r"(?<!\w)(?:MRN|medical record(?: number| no\.?)?|record number|accession(?:[ _]?number| no\.?)?|patient number"
    r"|hospital number|insurance number)[\"']?\s*[-:=#]?\s*[\"']?[A-Z]{0,4}[- ]?\d{3,}\w*",
    re.IGNORECASE,
)
SOCIAL = re.compile(r"(?<![\w.-])(?:\d{3}-\d{2}-\d{4}|756\.\d{4}\.\d{4}\.\d{2})(?![\w.-]*\w)")
NAMES = re.compile(r"(?<![^\W_])[^\W\d_a-z][^\W\d_]+(?:[-' ][^\W\d_]+)?\^[^\W\d_a-z][^\W\d_]+")
PERSON = re.compile(
    r"(?<![^\W_])(?:[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ'’]{2,}(?:-[A-ZÀ-Þ][a-zß-ÿ]+)?(?:[_,+]|%20)+[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+"
    r"|[A-ZÀ-ÖØ-Þ]{3,}(?:[_,+]|%20)+[A-ZÀ-ÖØ-Þ]{3,})(?![^\W_])"
)
"""How a name stands in the name of a file: Doe_Jane, DOE_JANE."""
OF_IMAGES = r"\.(?:nii|nrrd|nhdr|dcm|ima|mha|mhd|hdr|img|zip|7z|rar|tar|pdf)\b"
NAMED_FILES = re.compile(rf"{PERSON.pattern}[\w.^/-]*{OF_IMAGES}")
NO_NAME = re.compile(
    "axial|abdomen|angio|baseline|book|brief|changelog|chest|content|contrast|contributing|coronal|cover|data|default|export|files?"
    "|first|followup|images?|import|jupyter|kernel|license|lungs?|manifest|masks?|models?|notes?|notebook|patients?|phantom"
    "|read|readme|report|sagittal|scans?|scout|series|source|spine|study|tables?|test|thin|thorax|train|version|visit"
    "|window",
    re.IGNORECASE,
)
"""Words of the field and of software: no name has one."""
IDENTIFYING_FIELDS = re.compile(
    r"patient_?s?_?name|(first|last|family|given|sur)_?name|birth_?date|date_?of_?birth|dob|mrn|(medical_?)?record_?number"
    r"|accession(_?(number|no))?|referring_?physician(_?s?_?name)?|operators?_?name|institution(_?name)?|(street_?)?address"
    r"|phone(_?number)?|telephone|e_?mail|insurance(_?number)?|ssn|(study|series|sop)_?instance_?uid|station_?name",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Match:
    """A piece of text that may point to a patient."""

    start: int  # where it begins in the text
    end: int
    kind: str  # `known identifier`, or a kind of `PATTERNS`
    masked: str  # its first characters and its length


@dataclass(frozen=True)
class Finding:
    """A place that may point to a patient."""

    place: str  # file, relative to the study, and where in it
    kind: str  # as in `Match`, or `field`, `free text`, `DICOM file`, `key`
    masked: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind} {self.masked}".rstrip()


@dataclass(frozen=True)
class Identifiers:
    """What a hospital knows its patients and examinations by."""

    words: frozenset[str] = frozenset()  # names, numbers, UIDs and dates in the forms in which they are searched
    n_short: int = 0  # left out, so short that they stand in any text
    # By their first run of letters and digits: all runs of a word, and the longest that may stand between two.
    by_beginning: dict[str, list[tuple[tuple[str, ...], int]]] = field(default_factory=dict, compare=False)

    def matches(self, text: str) -> Iterator[tuple[int, str]]:
        """Give place and text of each identifier, whatever stands between its parts; thousands take hardly longer."""
        lowered, done = text.lower(), 0
        runs = list(RUNS.finditer(lowered)) if self.words else []
        for number, run in enumerate(runs):
            for parts, gap in self.by_beginning.get(run[0], ()):
                found = runs[number : number + len(parts)]
                near = all(after.start() - before.end() <= gap for before, after in pairwise(found))
                if run.start() >= done and near and tuple(one[0] for one in found) == parts:
                    done = found[-1].end()
                    yield run.start(), text[run.start() : done]

    def across(self, cells: Iterable[str]) -> str:
        """Give a name whose parts stand in several cells of a row, in any order; empty where there is none."""
        bags = [set(RUNS.findall(cell.lower())) for cell in cells] if self.words else []
        bags = [bag for bag in bags if len(bag) <= MOST_WORDS_OF_NAME]
        row = set[str]().union(*bags)
        for run in sorted(row & self.by_beginning.keys()):
            for parts, _ in self.by_beginning[run]:
                split = len(parts) > 1 and row.issuperset(parts) and not any(bag.issuperset(parts) for bag in bags)
                if split and "".join(parts).isalpha():
                    return " ".join(parts)
        return ""


def identifiers(values: Iterable[str], dates: Iterable[date] = (), fewest: int | None = None) -> Identifiers:
    """Prepare names, numbers, UIDs and dates (in their usual forms) for the search; each part of a name counts too.

    `fewest`: characters that a value must have; by default 4, and 5 where all are digits.
    """
    given = {part.strip() for value in values for part in (value.replace("^", " "), *re.split(r"[\^=]", value))}
    given = {value for value in given if value}
    long = {one for one in given if len(one) >= (fewest or _fewest(one))}
    words = {word.strip(PUNCTUATION) for word in long | {day.strftime(form) for day in dates for form in DATE_FORMS}}
    by_beginning: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    written = {form for word in words for form in _forms(word)}
    for parts, gap in sorted(written, key=lambda one: sum(map(len, one[0])), reverse=True):
        by_beginning.setdefault(parts[0], []).append((parts, gap))
    return Identifiers(frozenset(words), len(given) - len(long), by_beginning)


def _fewest(word: str) -> int:
    return FEWEST_DIGITS if word.isdigit() else FEWEST_CHARACTERS


def together(several: Sequence[Identifiers]) -> Identifiers | None:
    """Bring identifiers of several sources together; None of none."""
    if not several:
        return None
    by_beginning: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for one in several:
        for beginning, forms in one.by_beginning.items():
            by_beginning.setdefault(beginning, []).extend(forms)
    words = frozenset[str]().union(*(one.words for one in several))
    return Identifiers(words, sum(one.n_short for one in several), by_beginning)


def _forms(word: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Runs of letters and digits of a word in the ways in which it may be written, and what may stand between them."""
    lowered = unicodedata.normalize("NFC", word).lower()
    plain = "".join(one for one in unicodedata.normalize("NFD", lowered) if not unicodedata.combining(one))
    for text in {lowered, plain, lowered.translate(UMLAUTS)}:
        runs = list(RUNS.finditer(text))
        parts = tuple(run[0] for run in runs)
        if text.isdecimal() and len(text.lstrip("0")) >= FEWEST_DIGITS:
            yield (text.lstrip("0"),), 0  # as a number
        gap = max([LONGEST_GAP, *(after.start() - before.end() for before, after in pairwise(runs))])
        if parts:
            yield parts, gap
        joined = "".join(parts)
        if len(parts) > 1 and len(joined) >= _fewest(joined):
            yield (joined,), gap
        for digits in {*re.findall(r"\d+", text), "".join(re.findall(r"\d", text))}:  # A12-345678: 345678, 12345678
            if FEWEST_DIGITS_OF_PART <= len(digits) < len(joined) and len(parts) <= MOST_PARTS:
                yield (digits,), 0
        if len(parts) > 1 and joined.isalpha():  # Jane Doe and Doe, Jane
            yield parts[::-1], gap


def plain(text: str) -> str:
    """Give a text as it is read: without colours of a terminal, entities, `e+06`, wide digits and long dashes."""
    text = ANSI.sub("", text) if "\x1b" in text else text
    text = EXPONENT.sub(lambda one: f"{float(one[0]):.0f}", text) if "e+" in text else text
    text = html.unescape(text) if "&" in text else text
    if text.isascii():
        return text
    return DASHES.sub("-", UNSEEN.sub("", unicodedata.normalize("NFKC", text)))


def find(text: str, known: Identifiers | None = None) -> list[Match]:
    """Find what may point to a patient, in the order of the text; without known identifiers, by patterns only.

    Allowed, since it points to nobody: years without a day, ids that this project makes (keyed hashes) and the hashes
    in its records, identifiers of the DICOM standard itself (1.2.840.10008), addresses at example.org.
    """
    found = []
    text = STUDY_IDS.sub(_blank, text if text.isascii() else unicodedata.normalize("NFC", text))
    if known is not None:
        found = [Match(at, at + len(word), "known identifier", mask(word)) for at, word in known.matches(text)]
    text = HASHES.sub(_blank, ENCODED.sub(_blank, text)) if len(text) >= SHORTEST_HASH else text
    for kind, sign, pattern, is_meant in PATTERNS:
        found += [Match(*one.span(), kind, mask(one[0])) for one in _near(pattern, sign, is_meant, text)]
    first: dict[int, Match] = {}
    for match in found:
        first.setdefault(match.start, match)
    return [first[start] for start in sorted(first)]


def find_in_name(part: str) -> list[Match]:
    """Find the name of a person in the name of a file or folder."""
    named = (one for one in PERSON.finditer(unicodedata.normalize("NFC", part).replace(" ", "_")) if _is_person(one))
    return [Match(*one.span(), "name", mask(one[0])) for one in named]


def hidden(text: str, known: Identifiers | None = None) -> str:
    """Mask in the name of a column, a field or a file what may point to a patient."""
    text = plain(text)
    for one in reversed(find(text, known)):
        text = text[: one.start] + one.masked + text[one.end :]
    return text


def _is_person(one: re.Match[str]) -> bool:
    named = PERSON.match(one[0])
    return named is not None and not any(NO_NAME.fullmatch(run) for run in RUNS.findall(named[0]))


def _near(
    pattern: re.Pattern[str], sign: re.Pattern[str], is_meant: Callable[[re.Match[str]], bool], text: str
) -> Iterator[re.Match[str]]:
    """Search only near signs that the pattern cannot do without: that is many times quicker."""
    done = 0
    for hit in sign.finditer(text):
        if hit.start() < done:
            continue
        done = max(done, hit.start() - REACH)
        while one := pattern.search(text, done, hit.end() + REACH):
            is_found = is_meant(one)
            done = one.end() if is_found else one.start() + 1  # what is meant may begin within
            if is_found:
                yield one


def _blank(one: re.Match[str]) -> str:
    return "\x00" * len(one[0])


def _is_private(uid: re.Match[str]) -> bool:
    return len(uid[0]) >= SHORTEST_UID and not uid[0].startswith(STANDARD_UIDS)


def _is_no_example(mail: re.Match[str]) -> bool:
    return EXAMPLE_MAIL.search(mail[0]) is None


def _is_date(one: re.Match[str]) -> bool:
    """Tell whether the parts of a match make a day that there was, in either order of day and month."""
    part = one.groupdict()
    if part["y"] is not None:
        one_way, other_way = (part["a"], part["b"]), (part["b"], part["a"])
        return any(_is_day(int(part["y"]), int(month), int(day)) for month, day in (one_way, other_way))
    number = next(number for number in "123456" if part[f"y{number}"] is not None)
    month = part[f"m{number}"].lower()
    return _is_day(int(part[f"y{number}"]), MONTH_OF.get(month) or int(month), int(part[f"d{number}"]))


def _is_short_date(one: re.Match[str]) -> bool:
    part, leap_year = one.groupdict(), 2000
    if part["m"] is not None:
        return part["m"].lower() not in ALSO_WORDS or " " not in one[0]
    first, second = int(part["a"] or part["c"]), int(part["b"] or part["d"])
    return _is_day(leap_year, first, second) or _is_day(leap_year, second, first)


def _is_day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


@cache
def is_identifying_field(name: str) -> bool:
    """Tell whether a column or a field has a name under which identifiers are kept, for example `birth_date`."""
    return IDENTIFYING_FIELDS.fullmatch(name.strip().replace(" ", "_")) is not None


def mask(text: str) -> str:
    """Show two characters of an identifier, and how long it is."""
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"


PATTERNS: tuple[tuple[str, re.Pattern[str], re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("date", YEARS, DATES, _is_date),
    (
        "date",
        re.compile(rf"\d[-/.]\d\d?[-/.]\d\d|\d[ ./_-]?(?=[adefgjlmnos])(?:{MONTH})", re.IGNORECASE),
        SHORT_DATES,
        _is_short_date,
    ),
    ("DICOM UID", re.compile(r"(?:1\.[23]|2\.(?:16|25|999))\."), UIDS, _is_private),
    ("e-mail", re.compile("@"), EMAILS, _is_no_example),
    ("name", re.compile(r"\^"), NAMES, bool),
    ("name", re.compile(OF_IMAGES), NAMED_FILES, _is_person),
    ("path", re.compile(rf"/(?:{FOLDERS})/|:\\|file:", re.IGNORECASE), PATHS, bool),
    ("record number", re.compile(r"MRN|record|accession|number", re.IGNORECASE), NUMBERS, bool),
    ("record number", re.compile(r"-\d\d-|756\."), SOCIAL, bool),
)
"""Kind; a sign that it cannot do without; the pattern; what else must hold."""
