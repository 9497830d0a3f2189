"""Everything that the page on one scan shows, gathered from a run, and `prediction.json`, which says the same."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from sscct_lib.horizons.evaluation import Evaluation, averaged
from sscct_lib.horizons.models import chosen_models, pictured_for
from sscct_lib.horizons.patients import in_texts, in_words, middle_horizon, outcomes, similar_patients
from sscct_lib.lungs.figures import Overlay, overlay
from sscct_lib.lungs.segment import usable
from sscct_lib.radiomics.feature_sets import predictors
from sscct_lib.report import evidence
from sscct_lib.report.evidence import Likeness, Map, Part, Share, map_of_study
from sscct_lib.study.disclosure import age_text, coarse_age
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import COHORT, LUNGS, RADIOMICS, UNUSUAL
from sscct_lib.study.tables import read_predictions, read_table
from sscct_lib.study.words import NETWORK_WORDS, TRANSPLANT_COUNTS, feature_name

NEW = "new"  # id of a scan from outside the study, in files and on its page
STRANGE = "the scan is unlike those that it learned from"  # said of a scan that a network flags
UNLIKE = "is unlike those that"  # in every warning that a scan is out of the distribution of the training scans
FAILED = "The lung mask failed its checks"
ANYWAY = "Judged because of --anyway: no risk is given of a scan whose lung mask failed its checks."
# Heading of the reasons: they are those of one model, and not of the one whose risk is drawn.
WEIGHTS = "What weighs most in a model that can be read"
USE = "Research use, not for care. No risk in this file may guide the treatment of a patient."
FACTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "age_years": ("age", age_text),
    "sex": ("sex", str),
    "ssc_subtype": ("subtype", str),
    "fvc_percent": ("FVC", "{:.0f} %".format),
    "dlco_percent": ("DLCO", "{:.0f} %".format),
}


@dataclass(frozen=True)
class Tables:
    """The tables of a run against which a scan is held; `unusual` is empty where no network flags scans."""

    cohort: pd.DataFrame
    lungs: pd.DataFrame
    features: pd.DataFrame
    predictions: pd.DataFrame
    unusual: pd.DataFrame

    def training(self) -> pd.DataFrame:
        """Clinical values and features of the scans that the models learned from."""
        seen = self.cohort[self.cohort["scan_id"].isin(usable(self.lungs)["scan_id"])]
        columns = self.features[self.features["status"] == "ok"].drop(columns=["patient_id", "status", "reason"])
        return seen.merge(columns, on="scan_id").reset_index(drop=True)


@dataclass(frozen=True)
class Scan:
    """A scan, of the study or new."""

    scan_id: str  # in the study, or `new`
    patient_id: str | None  # None: a patient outside the study
    known: Mapping[str, Any]  # clinical and scanner columns and features, as far as they are known
    lungs: Mapping[str, Any]  # a row of schema `LUNGS`
    risks: pd.DataFrame  # `model`, `horizon_years`, `risk`, `risk_sd`


@dataclass(frozen=True)
class ScanReport:
    """What the page on a scan shows."""

    study_title: str
    run_name: str
    is_demo: bool
    scan_id: str
    model: str  # whose risk is shown: see `models.pictured_for`
    risks: pd.DataFrame  # as in `Scan`, of the models of the front page that judged the scan, and of `model`
    cohort_risks: NDArray[np.float64]  # of the cohort by the same model at the middle horizon, (n,)
    middle_years: float
    lower: float  # share of the cohort with a lower risk
    similar: pd.DataFrame  # from `patients.in_texts`
    similar_words: str
    facts: Mapping[str, str]  # clinical values in words; `not known` where they are missing
    reasons: pd.DataFrame  # from `evidence.weightiest_features`; no rows without a model that can be read
    explained: str  # the model that the reasons explain
    likeness: Likeness
    warnings: tuple[str, ...]  # what speaks against trusting the risk, in words
    overlay: Overlay | None = None  # None: not shown
    attribution: Map | None = None


def read_tables(study: Study) -> Tables:
    """Read the tables of a run that a page on a scan needs; StudyError names the stage that is missing."""
    predictions = read_predictions(study, stacked=True)
    unusual = pd.DataFrame(columns=list(UNUSUAL.columns))
    if study.table("unusual").is_file():
        unusual = read_table(study, "unusual", UNUSUAL)
    return Tables(
        read_table(study, "cohort", COHORT),
        read_table(study, "lungs", LUNGS),
        read_table(study, "radiomics", RADIOMICS),
        predictions,
        unusual,
    )


def of_study(study: Study, scan_id: str, tables: Tables | None = None) -> ScanReport:
    """Gather the page of a scan of the study; its risks are out of fold.

    Parameters
    ----------
    tables
        From `read_tables`; None: read here.

    Raises
    ------
    StudyError
        If the scan is not in the cohort, has no risk, or a stage has not run; `ScanError` where its image is gone.
    """
    tables = tables or read_tables(study)
    own = tables.cohort[tables.cohort["scan_id"] == scan_id]
    if own.empty:
        raise StudyError(
            f"There is no scan {scan_id!r} in the cohort of run {study.run_name}; it has {len(tables.cohort)}, for "
            f"example {', '.join(tables.cohort['scan_id'].head(3))}. A scan that was set aside has no page: the first "
            "chapters of the book say why."
        )
    risks = averaged(tables.predictions[tables.predictions["scan_id"] == scan_id])
    if risks.empty:
        raise StudyError(
            f"Scan {scan_id!r} has no risk in run {study.run_name}: its mask or features could not be used."
        )
    features = tables.features[tables.features["scan_id"] == scan_id].drop(columns=["patient_id", "scan_id"])
    known = first_row(own) | (first_row(features) if len(features) else {})
    lungs = first_row(tables.lungs[tables.lungs["scan_id"] == scan_id])
    scan = Scan(scan_id, str(own["patient_id"].iloc[0]), known, lungs, risks)
    pictures = overlay(study, lungs), map_of_study(study, scan_id, int(own["fold"].iloc[0]))
    return build(study, tables, scan, *pictures, _flags(tables, scan_id))


def _flags(tables: Tables, scan_id: str) -> tuple[str, ...]:
    """Say which networks found a scan of the study unusual, and why."""
    own = tables.unusual[(tables.unusual["scan_id"] == scan_id) & tables.unusual["unusual"].eq(True)]
    found = own[["network", "reasons"]].itertuples(index=False, name=None)
    return tuple(strange(network, words) for network, words in found)


def strange(network_name: str, why: str) -> str:
    """Say that a network flags a scan, and why."""
    return f"To {NETWORK_WORDS[network_name]} {STRANGE}: {why}."


def first_row(rows: pd.DataFrame) -> dict[str, Any]:
    """The first row of a table, by column."""
    return {str(name): value for name, value in rows.iloc[0].to_dict().items()}


def build(
    study: Study,
    tables: Tables,
    scan: Scan,
    picture: Overlay | None,
    attribution: Map | None,
    warnings: tuple[str, ...] = (),
) -> ScanReport:
    """Put together what the page on a scan shows; `warnings` are those that the caller has found already."""
    settings, middle = study.settings, middle_horizon(study.settings)
    model = pictured_for(scan.risks, tables.predictions)
    at = scan.risks[(scan.risks["model"] == model) & np.isclose(scan.risks["horizon_years"], middle)]
    risk = float(at["risk"].iloc[0]) if len(at) else np.nan
    evaluation = Evaluation(tables.cohort, tables.predictions, settings)
    cohort_risks = evaluation.risk(model, middle)
    cohort_risks = cohort_risks[np.isfinite(cohort_risks)]
    near = similar_patients(evaluation, model, risk, scan.patient_id)
    found = outcomes(near, settings)
    training = tables.training()
    others = training[training["patient_id"] != scan.patient_id].reset_index(drop=True)
    alike = evidence.likeness(scan.known, others)
    explained, weights = _weights(study, scan, training)
    own = predictors(study.settings.covariates)
    forms = FACTS | {name: (feature_name(name), str if one.levels else "{:g}".format) for name, one in own.items()}
    facts = {words: _fact(scan.known.get(name), form) for name, (words, form) in forms.items()}
    shown = scan.risks[scan.risks["model"].isin([*chosen_models(scan.risks), model])]
    meant = [TRANSPLANT_COUNTS] if settings.cohort.transplant == "as_death" else []
    return ScanReport(
        study_title=settings.title,
        run_name=study.run_name,
        is_demo=settings.demo is not None,
        scan_id=scan.scan_id,
        model=model,
        risks=shown,
        cohort_risks=cohort_risks,
        middle_years=middle,
        lower=float(np.mean(cohort_risks < risk)) if len(cohort_risks) else np.nan,
        similar=in_texts(found),
        similar_words=in_words(found),
        facts=facts,
        reasons=weights,
        explained=explained,
        likeness=alike,
        warnings=tuple(sorted((*warnings, *_warnings(scan, facts, alike, training, [*own]), *meant), key=_gravity)),
        overlay=picture,
        attribution=attribution,
    )


def _weights(study: Study, scan: Scan, training: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The model that is explained, and what weighs most in it; no rows where the scan has no features."""
    loaded = evidence.explained_model(study.models)
    none = pd.DataFrame(columns=["feature", "words", "hazard_ratio"])
    if loaded is None:
        return "", none
    has_features = pd.notna(scan.known.get("settings_hash"))
    return str(loaded[0]["model"]), evidence.weightiest_features(
        scan.known, training, *loaded
    ) if has_features else none


def _fact(value: Any, form: Callable[[Any], str]) -> str:
    return "not known" if pd.isna(value) else form(value)


def _gravity(warning: str) -> int:
    """Order warnings: a failed mask first, then a scan unlike the training scans, then all others."""
    return 0 if warning == ANYWAY else 1 if warning.startswith(FAILED) else 2 if UNLIKE in warning else 3


def _warnings(
    scan: Scan, facts: Mapping[str, str], alike: Likeness, training: pd.DataFrame, own: list[str]
) -> list[str]:
    said = []
    verdict, findings = scan.lungs.get("verdict"), scan.lungs.get("findings")
    if verdict == "fail":
        said.append(f"{FAILED}: {findings}. No risk of this scan can be trusted.")
    elif verdict == "review":
        said.append(f"A person should look at the lung mask: {findings}")
    if alike.findings:
        said.append(f"The scan is unlike those that the models learned from: {'; '.join(alike.findings)}.")
    missing = [name for name, words in facts.items() if words == "not known"]
    if missing:
        taken = "; ".join(evidence.assumed(scan.known, training, own))
        said.append(f"Not known: {', '.join(missing)}." + (f" Models that need them take {taken}." if taken else ""))
    return said


class Risk(Part):
    """The risk that a model gives at a horizon."""

    model: str = Field(description="name of the model")
    horizon_years: float = Field(description="years after the scan")
    risk: Share = Field(description="probability of death within the horizon")
    risk_sd: float | None = Field(description="standard deviation over the networks of all folds; null for one model")
    n_missing: int | None = Field(description="columns of the model that were missing and filled in; null for networks")


class Similar(Part):
    """What became of the patients of the study with the nearest risk."""

    horizon_years: float = Field(description="years after the scan")
    died: str = Field(description="patients who had died by then; `<5` and `hidden` as in the book")
    alive: str = Field(description="patients known to be alive then, likewise")
    unknown: str = Field(description="patients not followed that long, likewise")
    observed: Share | None = Field(
        description="Kaplan-Meier risk of death; null where nobody is followed that long, or it would give a small "
        "count away"
    )
    ci_low: Share | None = Field(description="lower end of its 95 % interval")
    ci_high: Share | None = Field(description="upper end of its 95 % interval")


class Lungs(Part):
    """The lung mask and its checks."""

    verdict: Literal["pass", "review", "fail"] = Field(description="whether the mask can be trusted")
    findings: str = Field(description="what the verdict rests on, in words")
    volume_l: float | None = Field(description="volume of both lungs, litres")
    mean_hu: float | None = Field(description="mean density of the lungs, HU")


class Prediction(Part):
    """The whole file."""

    format: Literal["sscct-prediction-2"] = Field("sscct-prediction-2", description="version of this format")
    intended_use: str = Field(USE, description="what the risks are for")
    study: str = Field(description="title of the study whose models judged the scan")
    run: str = Field(description="run of that study")
    synthetic: bool = Field(description="whether those models learned from synthetic patients")
    shown_model: str = Field(description="model whose risk is drawn on the page")
    risks: list[Risk] = Field(description="every model at every horizon")
    lower_share: Share | None = Field(description="share of the study's scans with a lower risk, at the middle horizon")
    similar: list[Similar] = Field(description="the patients of the study with the nearest risk")
    lungs: Lungs = Field(description="the lung mask")
    likeness: Likeness = Field(description="likeness to the training scans")
    clinical: dict[str, str | float] = Field(
        description="clinical and scanner values that were known; age in whole years, 90: older than 89"
    )
    missing: list[str] = Field(description="clinical values that were not known")
    warnings: list[str] = Field(description="what speaks against trusting the risks, in words")
    models: dict[str, str] = Field(description="SHA-256 of every model file that was used, by its name")


def prediction_of(report: ScanReport, scan: Scan, clinical: Mapping[str, Any], models: Mapping[str, str]) -> Prediction:
    """The content of the file; `clinical`: what was known, `models`: SHA-256 of each model file by its name."""
    return Prediction(
        study=report.study_title,
        run=report.run_name,
        synthetic=report.is_demo,
        shown_model=report.model,
        risks=[Risk(**_plain(row, Risk)) for row in scan.risks.to_dict("records")],
        lower_share=None if math.isnan(report.lower) else report.lower,
        similar=[Similar(**_plain(row, Similar)) for row in report.similar.to_dict("records")],
        lungs=Lungs(**_plain(scan.lungs, Lungs)),
        likeness=report.likeness,
        clinical={name: _told(name, value) for name, value in clinical.items()},
        missing=[name for name, words in report.facts.items() if words == "not known"],
        warnings=list(report.warnings),
        models=dict(models),
    )


def _told(name: str, value: Any) -> str | float:
    """A clinical value as it may travel: the age in whole years, 90 for all who are older than 89."""
    if isinstance(value, str):
        return value
    return coarse_age(float(value)) if name == "age_years" else float(value)


def _plain(row: Mapping[Any, Any], part: type[Part]) -> dict[str, Any]:
    """Take the fields of a part from a row; what is missing becomes null."""
    return {name: None if pd.isna(row.get(name)) else row[name] for name in part.model_fields}


def fields_described() -> pd.DataFrame:
    """List the fields of the file, for the data dictionary: `field` (`[]`: a list) and `meaning`."""
    rows: list[dict[str, str]] = []

    def add(part: type[BaseModel], prefix: str) -> None:
        for name, field in part.model_fields.items():
            kinds = get_args(field.annotation) or (field.annotation,)
            parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part)]
            is_list = get_origin(field.annotation) is list
            rows.append({"field": prefix + name + "[]" * is_list, "meaning": field.description or ""})
            for each in parts:
                add(each, f"{prefix}{name}{'[]' * is_list}.")

    add(Prediction, "")
    return pd.DataFrame(rows)
