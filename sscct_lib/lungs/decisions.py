"""What people decided about masks: `qa_decisions.csv` of a study, a row a decision, to which rows are only added.

A row says `pass`, `fail`, `edit` (the mask is to be mended) or `mended`. What counts is each reader's last row since
the mask was last mended: readers who agree overrule the rules' verdict, readers who differ leave the scan to review.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sscct_lib.study.folder import DECISIONS_FILE, Study, StudyError
from sscct_lib.study.recovery import alone
from sscct_lib.study.registry import today, violations
from sscct_lib.study.tables import read_csv, write_csv

COLUMNS = ("scan_id", "verdict", "who", "when", "why")  # a verdict below, initials, YYYY-MM-DD, the reason
MENDED = "mended"
VERDICTS = ("pass", "fail", "edit", MENDED)
IN_WORDS = {"pass": "pass", "fail": "fail", "edit": "to be edited"}
INITIALS = r"[^\W\d_]{1,5}"
LOCK_FILE = ".qa_decisions.lock"
LONGEST_REASON = 500


def read_decisions(path: Path) -> pd.DataFrame:
    """Read all decisions of a study, in the order in which they were made; no rows where there is no file.

    Raises
    ------
    StudyError
        If a column is missing or a cell is not what it must be; each is named.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    raw = read_csv(path)
    missing = [name for name in COLUMNS if name not in raw]
    if missing:
        raise StudyError(f"{path} has no column {', '.join(missing)}; found {', '.join(raw.columns)}.")
    checks = {
        "scan_id": (raw["scan_id"].str.strip() == "", "the id of a scan"),
        "verdict": (~raw["verdict"].isin(VERDICTS), "pass, fail, edit or mended"),
        "who": (raw["who"].str.strip() == "", "the initials of who decided"),
        "when": (pd.to_datetime(raw["when"], format="%Y-%m-%d", errors="coerce").isna(), "a date as YYYY-MM-DD"),
        "why": (raw["why"].str.strip() == "", "the reason"),
    }
    wrong = [one for name, (rows, words) in checks.items() for one in violations(raw[name], raw.index[rows], words)]
    if wrong:
        raise StudyError("\n  ".join([f"{path} has {len(wrong)} violation(s):", *map(str, wrong)]))
    return raw.assign(who=raw["who"].str.strip().str.upper())


def add_decision(study: Study, scan_ids: Iterable[str], verdict: str, who: str, why: str) -> None:
    """Add a row for each of some scans, whole or not at all; rows of others, also of this moment, stay as they are.

    Raises
    ------
    StudyError
        If `who` are no initials, there is no reason, or the file of decisions has a fault: it stays as it is.
    """
    who, why = check_reader(who, why)
    path = study.folder / DECISIONS_FILE
    with alone(study.folder / LOCK_FILE, wait=True):
        # Read when nobody else can write.
        before = read_decisions(path)
        row = {"verdict": verdict, "who": who, "when": f"{today():%Y-%m-%d}", "why": why}
        added = pd.DataFrame([{"scan_id": scan_id, **row} for scan_id in scan_ids])
        write_csv(pd.concat([before, added], ignore_index=True).fillna(""), path)


def check_reader(who: str, why: str) -> tuple[str, str]:
    """Give initials in capitals and a reason in one line, or say what they lack."""
    who, why = who.strip().upper(), " ".join(why.split())[:LONGEST_REASON]
    if not pd.Series([who]).str.fullmatch(INITIALS)[0]:
        raise StudyError(f"who decides: found {who[:40]!r}; expected initials of 1 to 5 letters, such as KM.")
    if not why:
        raise StudyError("why: expected the reason, in a few words.")
    return who, why


def check_decisions(study: Study, scan_ids: Iterable[str]) -> None:
    """Refuse decisions on scans that are not in the manifest, and mended masks of which no row says who and why."""
    path, known = study.folder / DECISIONS_FILE, set(scan_ids)
    decisions = read_decisions(path)
    rows = decisions.index[~decisions["scan_id"].isin(known)]
    if wrong := violations(decisions["scan_id"], rows, "a scan of the manifest"):
        raise StudyError("\n  ".join([f"{path} decides on scans that are not there:", *map(str, wrong)]))
    said = set(decisions.loc[decisions["verdict"] == MENDED, "scan_id"])
    there = {file.name.removesuffix(".nii.gz") for file in study.mended("x").parent.glob("[!.]*.nii.gz")}
    if silent := sorted(there - said):
        raise StudyError(
            f"masks/mended/{silent[0]}.nii.gz ({len(silent)} such): no row `mended` of {DECISIONS_FILE} says who "
            "mended it and why. Remove the file, and take the mask in by `sscct masks import`."
        )
    if lost := sorted(said - there):
        raise StudyError(
            f"masks/mended/{lost[0]}.nii.gz ({len(lost)} such) is gone, though {DECISIONS_FILE} says that it was "
            "mended. Put it back, or remove the row."
        )


def since_mended(decisions: pd.DataFrame) -> pd.DataFrame:
    """Choose the rows of a table of decisions that are on masks as they are, not on one before a mending."""
    mended_after = decisions["verdict"].eq(MENDED)[::-1].groupby(decisions["scan_id"][::-1]).cumsum()[::-1]
    return decisions[(mended_after == 0) & (decisions["verdict"] != MENDED)]


def standing(decisions: pd.DataFrame) -> pd.DataFrame:
    """Choose what counts of a table of decisions: by scan and reader the last row since the mask was last mended."""
    return since_mended(decisions).drop_duplicates(["scan_id", "who"], keep="last")


def apply_decisions(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table (schema `LUNGS`) with people's decisions in place of verdicts; `readers` and `decision` say whose.

    A decision that is the rules' own verdict changes nothing, and is in `readers` alone.
    """
    table = table.assign(readers=None, decision=None)
    decisions = read_decisions(path)
    last = standing(decisions)
    mended = decisions[decisions["verdict"] == MENDED].drop_duplicates("scan_id", keep="last").set_index("scan_id")
    decided = set(last["scan_id"]) | set(mended.index)
    for index in table.index[(table["status"] == "ok") & table["scan_id"].isin(decided)]:
        scan_id, judged = table.loc[index, ["scan_id", "verdict"]]
        # The day stays in the file: tables and book hold no calendar dates.
        words = []
        if scan_id in mended.index:
            words.append(f"mask mended by {mended['who'][scan_id]}: {mended['why'][scan_id]}")
        if len(own := last[last["scan_id"] == scan_id]):
            verdict, said = _together(own)
            table.loc[index, "readers"] = ", ".join(
                f"{row.who} {IN_WORDS[str(row.verdict)]}" for row in own.itertuples()
            )
            words += [f"{judged} changed to {verdict}{said}"] if verdict != judged else []
            table.loc[index, "verdict"] = verdict
        table.loc[index, "decision"] = "; ".join(words) or None
    return table


def _together(own: pd.DataFrame) -> tuple[str, str]:
    """Give the verdict of a scan's readers, and say who and why."""
    if len(set(own["verdict"])) > 1:
        each = ", ".join(f"{row.who} {IN_WORDS[str(row.verdict)]}: {row.why}" for row in own.itertuples())
        return "review", f", since readers differ ({each})"
    said = f" by {', '.join(own['who'])}: {'; '.join(own['why'].drop_duplicates())}"
    if (verdict := own["verdict"].iloc[0]) == "edit":
        return "fail", f", to be edited,{said}"  # a mask that a person saw to be wrong is not used
    return verdict, said
