"""Masks shown one by one in JupyterLab to a person, who decides on each by a key; decisions are kept at once.

A reader sees what the rules found, and none of what other readers decided: two who look at the same scans decide each
for themselves. What a scan looks like goes to the browser in messages, and is not stored in a notebook.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import SimpleITK as sitk
import traitlets

from sscct_lib.images.encoded import density_file, encoded
from sscct_lib.images.prepare import on_grid_of, read_result, resample, resample_mask
from sscct_lib.lungs.decisions import add_decision, check_reader, read_decisions, standing
from sscct_lib.lungs.mending import current_mask
from sscct_lib.lungs.verdict import SEVERE
from sscct_lib.study.files import NoRoomError
from sscct_lib.study.folder import DECISIONS_FILE, Study, StudyError
from sscct_lib.study.results import ScanError
from sscct_lib.study.schemas import LUNGS
from sscct_lib.study.stages import MODULES
from sscct_lib.study.tables import read_parquet

NIIVUE = "@niivue/niivue/dist/niivue.umd.js"
FINEST_MM = 1.5
RING_MM = 14.0
LOOKED_AT = {"pass": "looked at: usable", "fail": "looked at: not usable", "edit": "looked at: mask to be mended"}


class Review(anywidget.AnyWidget):
    """The scans of a study, those with findings first, each with its mask, to be decided by keys.

    Parameters
    ----------
    study
        Its run has the table of notebook 02. Receives rows in its file of decisions.
    who
        Initials of the reader, who goes on with the first scan on which they have not decided; empty: asked for.

    Raises
    ------
    StudyError
        If the table of lungs or the viewer's script is missing.
    """

    _esm = traitlets.Unicode().tag(sync=True)

    def __init__(self, study: Study, who: str = "") -> None:
        super().__init__(_esm=_script())
        self.study, self.who = study, who
        self.scans = in_order(LUNGS.validate(read_parquet(study.table("lungs"))))
        self.worker = ThreadPoolExecutor(1)
        self.ahead: dict[str, Future[dict[str, Any]]] = {}
        self.on_msg(self._asked)

    def _asked(self, _: Any, asked: dict[str, Any], __: Any) -> None:
        """Answer the page; what is wrong is told in it."""
        try:
            getattr(self, {"start": "_start", "show": "_show", "beside": "_beside", "decide": "_decide"}[asked["ask"]])(
                asked
            )
        except (StudyError, ScanError, NoRoomError) as error:
            self.send({"kind": "told", "text": str(error), "wrong": True})

    def _start(self, asked: dict[str, Any]) -> None:
        """Send the list, with what this reader decided, and the scan at which they stopped."""
        self.who = check_reader(asked.get("who") or self.who, "starts")[0] if asked.get("who") or self.who else ""
        own = self._own()
        names = ["scan_id", "patient_id", "n"]
        rows = [{**row, "own": own.get(row["scan_id"], "")} for row in self.scans[names].to_dict("records")]
        undecided = [at for at, row in enumerate(rows) if not row["own"]]
        self.send({"kind": "list", "who": self.who, "scans": rows})
        self._show({"at": undecided[0] if undecided else 0})

    def _own(self) -> dict[str, str]:
        last = standing(read_decisions(self.study.folder / DECISIONS_FILE))
        return {str(row.scan_id): str(row.verdict) for row in last[last["who"] == self.who].itertuples()}

    def _show(self, asked: dict[str, Any]) -> None:
        at = int(asked["at"]) % len(self.scans)
        row = self.scans.iloc[at]
        others = self.scans[(self.scans["patient_id"] == row["patient_id"]) & (self.scans["scan_id"] != row["scan_id"])]
        self.send({"kind": "case", "at": at, "others": others["scan_id"].tolist(), **self._case(row["scan_id"])})
        # What comes next is made while a person looks.
        following = self.scans["scan_id"].iloc[(at + 1) % len(self.scans)]
        self.ahead = {following: self.worker.submit(self._make, following)}

    def _beside(self, asked: dict[str, Any]) -> None:
        self.send({"kind": "beside", **self._case(str(asked["scan_id"]))})

    def _decide(self, asked: dict[str, Any]) -> None:
        """Keep a decision before the next scan is shown."""
        at, verdict = int(asked["at"]), str(asked["verdict"])
        scan_id = self.scans["scan_id"].iloc[at]
        add_decision(self.study, [scan_id], verdict, self.who, str(asked.get("why", "")).strip() or LOOKED_AT[verdict])
        self.send({"kind": "kept", "at": at, "own": verdict})
        self._show({"at": at + 1})

    def _case(self, scan_id: str) -> dict[str, Any]:
        made = self.ahead.pop(scan_id, None)
        return made.result() if made else self._make(scan_id)

    def _make(self, scan_id: str) -> dict[str, Any]:
        """Make what the page shows of a scan; a scan that cannot be read is told in words."""
        row = self.scans.set_index("scan_id").loc[scan_id]
        words = row["findings"] or "no rule found anything"
        if self.study.mended(scan_id).is_file() and "mask mended" not in str(row["decision"]):
            words = f"mended since the last run; before that: {words}"
        try:
            image = read_result(self.study.image(scan_id))
            mask = current_mask(self.study, scan_id, image)
        except (ScanError, StudyError) as error:
            return {"scan_id": scan_id, "words": str(error)}
        shown = resample(image, max(FINEST_MM, image.GetSpacing()[0]))
        place = [float(value) for value in row["place_mm"].split()] if isinstance(row["place_mm"], str) else None
        return {
            "scan_id": scan_id,
            "words": words,
            "image": density_file(shown),
            "mask": encoded(resample_mask(mask, shown)),
            "ring": encoded(_ball(shown, place)) if place else None,
            "place": place or _middle(mask),
        }


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Order the scans of a table (schema `LUNGS`) for a reader, whatever was decided: what may fail, then by findings.

    Scans that were set aside are left out; `n` is how many findings each has.
    """
    judged = table[table["status"] == "ok"]
    flags = [set(names.split()) for names in judged["flags"].fillna("")]
    judged = judged.assign(n=[len(names) for names in flags], severe=[bool(names & SEVERE) for names in flags])
    return judged.sort_values(["severe", "n", "scan_id"], ascending=[False, False, True]).reset_index(drop=True)


@cache
def _script() -> str:
    """The viewer and our page as one script, so that nothing is asked of a network."""
    path = MODULES / NIIVUE
    if not path.is_file():
        raise StudyError(f"The review needs the npm package file {NIIVUE}. Install it with `make web`.")
    return f"{path.read_text(encoding='utf-8')}\n{Path(__file__).with_suffix('.js').read_text(encoding='utf-8')}"


def _ball(image: sitk.Image, place: list[float]) -> sitk.Image:
    """Mark a place (x y z, mm): its outline is a ring in each plane through it."""
    grids = np.ogrid[tuple(slice(n) for n in image.GetSize()[::-1])]
    first, side = image.GetOrigin()[::-1], image.GetSpacing()[0]
    square = sum((start + side * grid - at) ** 2 for start, grid, at in zip(first, grids, place[::-1], strict=True))
    return on_grid_of(image, (square < RING_MM**2).astype(np.uint8))


def _middle(mask: sitk.Image) -> list[float]:
    """The middle of the right lung, or else of whatever there is, x y z in mm."""
    labels = sitk.GetArrayViewFromImage(mask)
    inside = np.argwhere(labels == (1 if (labels == 1).any() else labels.max()))
    return [float(at) for at in mask.TransformContinuousIndexToPhysicalPoint(inside.mean(axis=0)[::-1].tolist())]
