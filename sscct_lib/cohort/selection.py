"""Who is in the study: exclusions, follow-up, horizon labels and folds split by patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR, horizon_labels, label_name
from sscct_lib.study.disclosure import count_texts
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import COHORT, covariates, stored_names
from sscct_lib.study.words import scans_of, years_text


@dataclass(frozen=True)
class FlowStep:
    """One box of the flow diagram: what it says, and how many it holds; `excluded` ones were left out here."""

    label: str
    n_scans: int
    n_patients: int
    excluded: bool


def with_followup_years(manifest: pd.DataFrame) -> pd.DataFrame:
    """Add `followup_years`, from the scan to death, transplant or last contact (NaN without), and `transplanted`.

    What happens after a lung transplant is not followed: `event_observed` is 0 where a transplant came first.
    """
    transplanted = manifest["transplant_day"].notna() & manifest["last_contact_day"].notna()
    end = manifest["last_contact_day"].mask(transplanted, manifest["transplant_day"])
    days = (end - manifest["scan_day"]).astype("Float64")
    return manifest.assign(
        followup_years=(days / DAYS_PER_YEAR).to_numpy(dtype=float, na_value=np.nan),
        event_observed=manifest["event_observed"].mask(transplanted, 0),
        transplanted=transplanted.astype(bool),
    )


def followed(manifest: pd.DataFrame) -> pd.DataFrame:
    """Keep the scans with follow-up after the day of the scan; that day alone tells nothing about survival."""
    rows = with_followup_years(manifest)
    return rows[rows["followup_years"] > 0]


def select(manifest: pd.DataFrame, images: pd.DataFrame) -> tuple[pd.DataFrame, list[FlowStep]]:
    """Leave out the scans that cannot be studied, and count them.

    Parameters
    ----------
    manifest
        From `manifest.read_manifest`.
    images
        Schema `IMAGES`, one row per scan: which could be read.

    Returns
    -------
    kept : pandas.DataFrame
        Rows of `manifest` that can be read and have follow-up, with `followup_years`.
    flow : list of FlowStep
        The boxes of the flow diagram, in order.
    """
    status = images.set_index("scan_id")["status"].reindex(manifest["scan_id"]).to_numpy()
    rows = with_followup_years(manifest)
    unreadable = pd.Series(status != "ok", index=rows.index)
    transplanted = rows["transplanted"] & (rows["followup_years"] <= 0) & ~unreadable
    no_followup = rows["followup_years"].isna() & ~unreadable
    zero_followup = (rows["followup_years"] == 0) & ~unreadable & ~transplanted
    kept = rows[~(unreadable | transplanted | no_followup | zero_followup)]
    flow = [
        _step("Scans in the manifest", rows, False),
        _step("Image could not be used", rows[unreadable], True),
        *([_step("Scanned after a lung transplant", rows[transplanted], True)] if rows["transplanted"].any() else []),
        _step("No follow-up", rows[no_followup], True),
        _step("Last contact on the day of the scan", rows[zero_followup], True),
        _step("Scans in the cohort", kept, False),
    ]
    return kept, flow


def select_masks(cohort: pd.DataFrame, lungs: pd.DataFrame) -> list[FlowStep]:
    """Count the scans that are left out for want of a usable lung mask, from the cohort to what the models see."""
    judged = lungs.set_index("scan_id")[["verdict", "decision"]].reindex(cohort["scan_id"])
    no_mask, failed = judged["verdict"].isna().to_numpy(), judged["verdict"].eq("fail").to_numpy()
    by_person = judged["decision"].notna().to_numpy()
    seen = cohort[~no_mask & ~failed]
    n_kept = int((by_person & ~no_mask & ~failed).sum())
    return [
        _step("Scans in the cohort", cohort, False),
        _step("No mask could be made", cohort[no_mask], True),
        _step("Mask failed its checks", cohort[failed & ~by_person], True),
        *([_step("Left out by a person", cohort[failed & by_person], True)] if (failed & by_person).any() else []),
        _step("Scans that the models see" + (f", {n_kept} by a person's decision" if n_kept else ""), seen, False),
    ]


def select_features(cohort: pd.DataFrame, features: pd.DataFrame) -> list[FlowStep]:
    """Count the scans whose features could not be computed, from usable masks to what the models on features see."""
    status = features.set_index("scan_id")["status"].reindex(cohort["scan_id"]).to_numpy()
    failed, done = status == "failed", status == "ok"
    return [
        _step("Scans with a usable mask", cohort[failed | done], False),
        _step("Features could not be computed", cohort[failed], True),
        _step("Scans with features", cohort[done], False),
    ]


def _step(label: str, rows: pd.DataFrame, excluded: bool) -> FlowStep:
    return FlowStep(label, len(rows), rows["patient_id"].nunique(), excluded)


def flow_counts(flow: Sequence[FlowStep]) -> list[str]:
    """Write the scans and patients of each box, so that no small count can be found from the others."""
    kept = list(pairwise(number for number, step in enumerate(flow) if not step.excluded))
    patients = [step.n_patients for step in flow]
    scans = count_texts([step.n_scans for step in flow], [(a, range(a + 1, b + 1)) for a, b in kept], patients)
    # A patient may stand in several boxes; how many are lost altogether is a count too.
    lost = [patients[above] - patients[below] for above, below in kept]
    sums = [(above, (below, len(flow) + number)) for number, (above, below) in enumerate(kept)]
    return [*map(scans_of, scans, count_texts([*patients, *lost], sums)[: len(flow)])]


def flow_text(flow: Sequence[FlowStep]) -> str:
    """Say the flow diagram in words, one sentence a box, for readers who cannot see it."""
    return " ".join(
        f"{step.label}: {text}{', left out' if step.excluded else ''}."
        for step, text in zip(flow, flow_counts(flow), strict=True)
    )


def check_can_be_modelled(kept: pd.DataFrame, study: Study) -> None:
    """Refuse a cohort on which no model can be cross-validated.

    Raises
    ------
    StudyError
        If there are fewer patients, or fewer patients who died within the longest horizon, than folds.
    """
    n_folds = study.settings.cohort.n_folds
    longest = max(study.settings.horizons_years)
    n_patients = kept["patient_id"].nunique()
    died = kept["event_observed"].eq(1).fillna(False) & (kept["followup_years"] <= longest)
    n_died = kept.loc[died.astype(bool), "patient_id"].nunique()
    if n_patients < n_folds or n_died < n_folds:
        raise StudyError(
            f"{study.manifest_path}: {n_patients} patient(s) with follow-up, of whom {n_died} died within "
            f"{years_text(longest)}. Cross-validation in {n_folds} folds by patient needs at least {n_folds} of each. "
            "Add patients, or lower cohort.n_folds in study.yaml. The first stages need no follow-up: "
            "`sscct run STUDY --until 02_segmentation_qa`."
        )


def horizons_without_deaths(kept: pd.DataFrame, study: Study) -> list[float]:
    """Name the horizons before which nobody died: nothing can be estimated there."""
    died = kept.loc[kept["event_observed"].eq(1).fillna(False).astype(bool), "followup_years"]
    return [horizon for horizon in study.settings.horizons_years if not (died <= horizon).any()]


def build_cohort(kept: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Label the scans and split the patients into folds: schema `COHORT`, from what `select` kept, which may be empty.

    Folds hold whole patients, and are stratified by whether a patient has a scan followed by death within the longest
    horizon.
    """
    followup = kept["followup_years"].to_numpy(dtype=float)
    event = kept["event_observed"].to_numpy(dtype=bool, na_value=False)
    transplanted = kept["transplanted"].to_numpy(dtype=bool)
    if study.settings.cohort.transplant == "as_death":
        event = event | transplanted
    declared = study.settings.covariates
    cohort = kept[["scan_id", "patient_id", "scan_day", *covariates(declared)]].rename(columns=stored_names(declared))
    cohort.insert(3, "followup_years", followup)
    cohort.insert(4, "event_observed", event)
    cohort.insert(5, "transplanted", transplanted)
    cohort.insert(6, "fold", assign_folds(cohort, study))
    for horizon in study.settings.horizons_years:
        cohort[label_name(horizon)] = horizon_labels(followup, event, horizon, study.settings.labels)
    return COHORT.validate(cohort.reset_index(drop=True))


def assign_folds(cohort: pd.DataFrame, study: Study) -> NDArray[np.int64]:
    """Split scans into folds by patient, with similar shares of deaths.

    Parameters
    ----------
    cohort
        `patient_id`, `followup_years`, `event_observed`; one row per scan.
    study
        The study: number of folds, longest horizon and seed.

    Returns
    -------
    numpy.ndarray
        The fold of each scan, 0 to n_folds - 1, shape (n,). All 0 where there are fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_folds = study.settings.cohort.n_folds
    folds = np.zeros(len(cohort), dtype=np.int64)
    if cohort["patient_id"].nunique() < n_folds:
        return folds
    longest = max(study.settings.horizons_years)
    died = cohort["event_observed"] & (cohort["followup_years"] <= longest)
    ever = died.groupby(cohort["patient_id"]).transform("any")
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=study.settings.seed)
    for fold, (_, tested) in enumerate(splitter.split(cohort, ever, cohort["patient_id"])):
        folds[tested] = fold
    return folds
