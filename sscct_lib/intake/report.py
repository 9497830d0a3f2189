"""What became of everything that an export held: a table for Excel, and the lines that stand on the screen."""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from mimetypes import types_map
from pathlib import Path
from typing import Any

import pandas as pd

from sscct_lib.images.reasons import REASONS, Told, told
from sscct_lib.intake.pseudonyms import patient_code, scan_code
from sscct_lib.intake.series import Candidate, why_behind
from sscct_lib.study.tables import FORMULA_STARTS

COLUMNS = [
    "source", "patient_id", "scan_id", "kind", "n_files", "n_slices", "step_mm", "kernel", "status", "reason", "codes",
]  # fmt: skip
NO_CODE = "other"
HEADINGS = {
    "scan": "Told of scans",
    "lung mask": "Lung masks",
    "not chosen": "Not chosen, since another series of the examination is better",
    "set aside": "Set aside",
    "no scans": "In the clinical table only",
    "clinical table": "Clinical table",
}
OTHER_FILES = "other files"
MOST_LINES, WIDTH = 24, 100
MOST_KINDS = 5
KNOWN_KINDS = {
    *types_map,
    ".dcm",
    ".mha",
    ".mhd",
    ".nhdr",
    ".hdr",
    ".img",
    ".nrrd",
    ".nii",
    ".gz",
    ".7z",
    ".rar",
    ".mat",
}
"""Endings that may be told; behind another dot a name may stand."""
MONTHS = "jan|feb|m[aä]r|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez"
CONVERTED = re.compile(
    rf"[\d\s.,:/%-]*\d[\d\s.,:/%-]*(e[+-]?\d+)?|(\d{{1,4}}[-/ .]*)?({MONTHS})[a-z]*[-/ .]*\d{{0,4}}|true|false",
    re.IGNORECASE,
)
"""Text that Excel would turn into a number, a date or a truth value."""


def report_of(
    candidates: list[Candidate],
    written: pd.DataFrame,
    table: pd.DataFrame | None,
    key: bytes,
    clinical: Sequence[str] = (),
    other_files: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Say what became of each series, of the clinical table, and of files that are no images.

    Parameters
    ----------
    clinical
        `Told` about rows and columns of the clinical table.
    other_files
        How many files of each ending were passed over.
    """
    notes = {row["scan_id"]: row for row in written.to_dict("records")}
    rows = []
    for number, one in enumerate(candidates, start=1):
        scan_id = scan_code(key, one.patient, one.visit)
        is_used = one.status in ("scan", "lung mask")
        rows.append(
            {
                "source": number,
                "patient_id": patient_code(key, one.patient) if one.patient else "",
                "scan_id": scan_id if is_used else "",
                "kind": one.kind,
                "n_files": len(one.files),
                "n_slices": one.n_slices,
                "step_mm": one.step_mm,
                "kernel": one.header.get("kernel"),
                "status": one.status,
                **_said(_sentences(one, notes.get(scan_id, {}))),
            }
        )
    seen = {one.patient for one in candidates if one.status == "scan"}
    absent = [] if table is None else [patient for patient in table["patient_id"].unique() if patient not in seen]
    rows += [
        {"patient_id": patient_code(key, patient), "status": "no scans", **_said([told("clinical_only")])}
        for patient in absent
    ]
    rows += [{"status": "clinical table", **_said([sentence])} for sentence in clinical]
    rows += [
        {"kind": kind, "n_files": n, "status": OTHER_FILES, **_said([])}
        for kind, n in _kinds(other_files or {}).items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"source": "Int64", "n_files": "Int64", "n_slices": "Int64"})


def _sentences(one: Candidate, row: Mapping[Any, Any]) -> list[str]:
    """All that is told of a series; `row`: of its scan, when it was written."""
    said: list[str] = [*one.told]
    if one.status == "scan":
        said += again(str(row["notes"] or ""), str(row.get("codes") or ""))
        said += [] if row["in_clinical"] else [told("no_follow_up")]
    if one.status == "not chosen":
        best: list[Candidate] = row["candidates"]
        said = [why_behind(one.preference, next(other for other in best if other.status == "scan").preference)]
    said += [told("burned_in")] if one.header.get("burned_in") else []
    return [*said, *([told("lossy")] if one.header.get("lossy") else [])]


def again(text: str, codes: str) -> list[str]:
    """Take what a record kept, sentences with `; ` between and codes with blanks, apart."""
    sentences, known = text.split("; ") if text else [], codes.split()
    if len(sentences) != len(known):  # a sentence of two parts, or of no code
        sentences, known = [text] if text else [], [codes]
    return [_with_code(sentence, code) for sentence, code in zip(sentences, known, strict=False)]


def _with_code(sentence: str, code: str) -> str:
    if not code:
        return sentence
    kept = Told(sentence)
    kept.code = code
    return kept


def _said(sentences: Sequence[str]) -> dict[str, str]:
    """Columns `reason` and `codes`: one code for each sentence, in the same order."""
    kept = list(dict.fromkeys(filter(None, sentences)))
    return {"reason": "; ".join(kept), "codes": " ".join(getattr(one, "code", NO_CODE) for one in kept)}


def _kinds(counts: Mapping[str, int]) -> dict[str, int]:
    """Count files by ending, the most frequent first; an ending that nobody knows is not told."""
    found: dict[str, int] = {}
    for ending, n in counts.items():
        kind = ending.lower() if ending.lower() in KNOWN_KINDS else "unknown"
        found[kind] = found.get(kind, 0) + n
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def summarise(report: pd.DataFrame, study_folder: Path) -> list[str]:
    """Say on one screen what became of an export, and which commands come next.

    Parameters
    ----------
    report
        From `ingest`, of any length.

    Returns
    -------
    list of str
        Scans and patients; by outcome, how many series it has and the reasons, each with the number of series of which
        it is told, the most frequent first; files of other kinds; the next commands. At most 24 lines of at most 100
        characters, but for the name of the study.
    """
    scans, masks = report[report["status"] == "scan"], int((report["status"] == "lung mask").sum())
    first = f"{_number(len(scans), 'scan')} of {_number(scans['patient_id'].nunique(), 'patient')}"
    parts = {status: _counted(report[report["status"] == status]) for status in HEADINGS}
    heads = {status: _head(report, status) for status in parts}
    shown = [status for status in parts if heads[status] and (parts[status] or status not in ("scan", "lung mask"))]
    others = _other_files(report)
    last = [*others, f"One row each: {study_folder / 'ingest' / 'report.csv'}", "Next:", *_commands(study_folder)]
    room = _shared([len(parts[status]) for status in shown], MOST_LINES - 1 - len(last) - len(shown))
    lines = [first + (f", {_number(masks, 'lung mask')}" if masks else "")]
    for status, n in zip(shown, room, strict=True):
        lines += [heads[status], *_listed(parts[status], n)]
    return [_cut(line) for line in lines] + last


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _head(report: pd.DataFrame, status: str) -> str:
    n = int((report["status"] == status).sum())
    if not n:
        return ""
    unit = {"no scans": "patient", "clinical table": "remark"}.get(status, "series")
    return f"{HEADINGS[status]}: {f'{n:,} series' if unit == 'series' else _number(n, unit)}"


def _counted(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Reasons in words with the number of rows of which each is told, the most frequent first."""
    counts: dict[str, int] = {}
    for reason, codes in zip(rows["reason"].fillna(""), rows["codes"].fillna(""), strict=True):
        sentences, known = reason.split("; "), codes.split()
        aligned = sentences if len(sentences) == len(known) else [reason] * len(known)
        for words in {_words(code, sentence) for code, sentence in zip(known, aligned, strict=True)}:
            counts[words] = counts.get(words, 0) + 1
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _words(code: str, sentence: str) -> str:
    return f"{REASONS[code].found}: {REASONS[code].done}" if code in REASONS else sentence


def _listed(counts: list[tuple[str, int]], n_lines: int) -> list[str]:
    """Reasons on `n_lines` lines; where there are more, the last line says how many."""
    kept = counts if len(counts) <= n_lines else counts[: n_lines - 1]
    lines = [f"  {n:7,}  {words}" for words, n in kept]
    return lines if kept == counts else [*lines, f"           and {len(counts) - len(kept)} more reasons"][:n_lines]


def _shared(wanted: list[int], n_lines: int) -> list[int]:
    """Give lines out one at a time, so that no long list takes them from a short one."""
    given = [0] * len(wanted)
    while n_lines > 0 and given != wanted:
        for index, most in enumerate(wanted):
            if given[index] < most and n_lines > 0:
                given[index], n_lines = given[index] + 1, n_lines - 1
    return given


def _other_files(report: pd.DataFrame) -> list[str]:
    rows = report[report["status"] == OTHER_FILES]
    kinds = list(zip(rows["kind"], rows["n_files"], strict=True))
    if not kinds:
        return []
    more = [f"{sum(n for _, n in kinds[MOST_KINDS:]):,} of other kinds"] if len(kinds) > MOST_KINDS else []
    shown = [f"{n:,} {kind}" for kind, n in kinds[:MOST_KINDS]] + more
    return [_cut("Files that are no images: " + ", ".join(shown))]


def _commands(study_folder: Path) -> list[str]:
    study = shlex.quote(str(study_folder))
    return [f"  sscct check {study}", f"  sscct run {study} --until 02_segmentation_qa", f"  sscct run {study}"]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1].rstrip() + "…"


def write_for_excel(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that Excel opens it rightly, by a double click.

    UTF-8 with a mark at its begin; no line break in a cell; an apostrophe before text that Excel would take for a
    formula, a number or a date, so that `007` and `3-4` stay what they are.

    References
    ----------
    OWASP, CSV Injection.
    """
    texts = table.select_dtypes(["object", "string"])
    table.assign(**texts.map(_cell)).to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    formula = value.startswith(FORMULA_STARTS)
    text = " ".join("".join(" " if unicodedata.category(one)[0] == "C" else one for one in value).split())
    return f"'{text}" if formula or text.startswith(FORMULA_STARTS) or CONVERTED.fullmatch(text) else text
