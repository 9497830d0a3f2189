"""What became of everything that an export held: a table for Excel, and the lines that stand on the screen."""

import os
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sscct_lib.images.reasons import Told, reasons, told
from sscct_lib.intake.pseudonyms import patient_code, scan_code
from sscct_lib.intake.series import Candidate, why_behind
from sscct_lib.study.files import atomic
from sscct_lib.study.tables import FORMULA_STARTS
from sscct_lib.study.words import counted, scans_text

COLUMNS = [
    "source", "patient_id", "scan_id", "kind", "n_files", "n_slices", "step_mm", "kernel", "status", "reason", "codes",
]  # fmt: skip
NO_CODE = "other"
HEADINGS = {
    "scan": "Told of scans",
    "lung mask": "Lung masks",
    "not chosen": "Not chosen, since another series of the examination is better",
    "set aside": "Set aside",
    "passed over": "No scans",
    "no scans": "In the clinical table only",
    "clinical table": "Clinical table",
}
ONE_BY_ONE = ("passed over", "clinical table")  # each row is told as it stands, with its own number
MOST_LINES, WIDTH = 24, 100
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
    of_table: Sequence[str] = (),
) -> pd.DataFrame:
    """Say what became of each series, which patients of the clinical table have no scan, and what it told."""
    notes = {row["scan_id"]: row for row in written.to_dict("records")}
    rows = [
        {
            **_ids(number, one, key),
            "kind": one.kind,
            "n_files": len(one.files),
            "n_slices": one.n_slices,
            "step_mm": one.step_mm,
            "kernel": one.header.get("kernel"),
            **_said(_sentences(one, notes.get(scan_code(key, one.patient, one.visit), {}))),
        }
        for number, one in enumerate(candidates, start=1)
    ]
    seen = {one.patient for one in candidates if one.status == "scan"}
    absent = [] if table is None else [patient for patient in table["patient_id"].unique() if patient not in seen]
    rows += [
        {"patient_id": patient_code(key, patient), "status": "no scans", **_said([told("clinical_only")])}
        for patient in absent
    ]
    rows += [{"status": "clinical table", **_said([sentence])} for sentence in of_table]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"source": "Int64", "n_files": "Int64", "n_slices": "Int64"})


def _ids(number: int, one: Candidate, key: bytes) -> dict[str, Any]:
    """What both lists say of a source: its number, what became of it, and its study ids."""
    is_used = one.status in ("scan", "lung mask")
    return {
        "source": number,
        "status": one.status,
        "scan_id": scan_code(key, one.patient, one.visit) if is_used else "",
        "patient_id": patient_code(key, one.patient) if one.patient else "",
    }


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
    return [Told(sentence, code) if code else sentence for sentence, code in zip(sentences, known, strict=False)]


def _said(sentences: Sequence[str]) -> dict[str, str]:
    """Columns `reason` and `codes`: one code for each sentence, in the same order."""
    kept = list(dict.fromkeys(filter(None, sentences)))
    return {"reason": "; ".join(kept), "codes": " ".join(getattr(one, "code", NO_CODE) for one in kept)}


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
        it is told, the most frequent first; what was passed over; the next commands. At most 24 lines of at most 100
        characters, but for the name of the study.
    """
    scans, masks = report[report["status"] == "scan"], int((report["status"] == "lung mask").sum())
    first = scans_text(len(scans), scans["patient_id"].nunique())
    parts = {status: _lines(report[report["status"] == status], status) for status in HEADINGS}
    heads = {status: _head(report, status) for status in parts}
    shown = [status for status in parts if heads[status] and (parts[status] or status not in ("scan", "lung mask"))]
    study = shlex.quote(str(study_folder))
    last = [f"One row each: {study_folder / 'ingest' / 'report.csv'}", "Next:", f"  sscct check {study}"]
    last += [f"  sscct run {study} --until 02_segmentation_qa", f"  sscct run {study}"]
    room = _shared([len(parts[status]) for status in shown], MOST_LINES - 1 - len(last) - len(shown))
    lines = [first[:1].upper() + first[1:] + (f", {counted(masks, 'lung mask')}" if masks else "")]
    for status, n in zip(shown, room, strict=True):
        lines += [heads[status], *_listed(parts[status], n)]
    return [line if len(line) <= WIDTH else line[: WIDTH - 1].rstrip() + "…" for line in lines] + last


def _head(report: pd.DataFrame, status: str) -> str:
    n = int((report["status"] == status).sum())
    if not n:
        return ""
    if status in ONE_BY_ONE:
        return f"{HEADINGS[status]}:"
    return f"{HEADINGS[status]}: {counted(n, 'patient') if status == 'no scans' else f'{n:,} series'}"


def _lines(rows: pd.DataFrame, status: str) -> list[str]:
    """Reasons in words with the number of rows of which each is told, the most frequent first."""
    if status in ONE_BY_ONE:
        return [f"           {reason}" for reason in rows["reason"]]
    counts: dict[str, int] = {}
    for reason, codes in zip(rows["reason"].fillna(""), rows["codes"].fillna(""), strict=True):
        sentences, known = reason.split("; "), codes.split()
        aligned = sentences if len(sentences) == len(known) else [reason] * len(known)
        for words in {_words(code, sentence) for code, sentence in zip(known, aligned, strict=True)}:
            counts[words] = counts.get(words, 0) + 1
    return [f"  {n:7,}  {words}" for words, n in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]


def _words(code: str, sentence: str) -> str:
    return f"{reasons()[code].found}: {reasons()[code].done}" if code in reasons() else sentence


def _listed(lines: list[str], n_lines: int) -> list[str]:
    """As many lines as there is room for; where there are more, the last says how many."""
    if len(lines) <= n_lines:
        return lines
    return [*lines[: n_lines - 1], f"           and {len(lines) - n_lines + 1} more reasons"][:n_lines]


def _shared(wanted: list[int], n_lines: int) -> list[int]:
    """Give lines out one at a time, so that no long list takes them from a short one."""
    given = [0] * len(wanted)
    while n_lines > 0 and given != wanted:
        for index, most in enumerate(wanted):
            if given[index] < most and n_lines > 0:
                given[index], n_lines = given[index] + 1, n_lines - 1
    return given


def write_for_excel(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that Excel opens it rightly, by a double click.

    UTF-8 with a mark at its begin; no line break in a cell; an apostrophe before text that Excel would take for a
    formula, a number or a date, so that `007` and `3-4` stay what they are. OWASP, CSV Injection.
    """
    texts = table.select_dtypes(["object", "string"])
    table.assign(**texts.map(_cell)).to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    formula = value.startswith(FORMULA_STARTS)
    text = " ".join("".join(" " if unicodedata.category(one)[0] == "C" else one for one in value).split())
    return f"'{text}" if formula or text.startswith(FORMULA_STARTS) or CONVERTED.fullmatch(text) else text


def write_source_list(path: Path, candidates: list[Candidate], source: Path, key: bytes) -> None:
    """Write which source became which scan, with the hospital's names; for its owner alone to read.

    `source` is its number in `ingest/report.csv`; `file` the first of its files, relative to the folder ingested.
    """
    rows = [
        {
            **_ids(number, one, key),
            "patient_of_source": one.patient,
            "date_of_source": "" if one.date is None else f"{one.date:%Y-%m-%d}",
            "series_uid": one.uid,
            "n_files": len(one.files),
            "file": Path(os.path.relpath(one.files[0], source)).as_posix() if one.files else "",
        }
        for number, one in enumerate(candidates, start=1)
    ]
    with atomic(path) as partial:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        write_for_excel(pd.DataFrame(rows), partial)
