"""The file `prediction.json`: what `sscct predict` found about a scan that was never in the study."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from sscct_lib.report.page import Scan, ScanReport

USE = "Research use, not for care. No risk in this file may guide the treatment of a patient."
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of the file: no other fields, and plain numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


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
    died: int = Field(description="patients who had died by then")
    alive: int = Field(description="patients known to be alive then")
    unknown: int = Field(description="patients not followed that long")
    observed: Share | None = Field(description="Kaplan-Meier risk of death; null where nobody is followed that long")
    ci_low: Share | None = Field(description="lower end of its 95 % interval")
    ci_high: Share | None = Field(description="upper end of its 95 % interval")


class Lungs(Part):
    """The lung mask and its checks."""

    verdict: Literal["pass", "review", "fail"] = Field(description="whether the mask can be trusted")
    findings: str = Field(description="what the verdict rests on, in words")
    volume_l: float | None = Field(description="volume of both lungs, litres")
    mean_hu: float | None = Field(description="mean density of the lungs, HU")


class Likeness(Part):
    """Whether the scan is like those that the models learned from."""

    nearer: Share | None = Field(description="share of training scans that lie nearer to the others; null: cannot tell")
    n_scans: int = Field(description="training scans that were compared")
    findings: list[str] = Field(description="what is unlike, in words; empty when nothing is")


class Prediction(Part):
    """The whole file."""

    format: Literal["sscct-prediction-1"] = Field("sscct-prediction-1", description="version of this format")
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
    clinical: dict[str, str | float] = Field(description="clinical and scanner values that were known")
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
        lower_share=_number(report.lower),
        similar=[Similar(**_plain(row, Similar)) for row in report.similar.to_dict("records")],
        lungs=Lungs(**_plain(scan.lungs, Lungs)),
        likeness=Likeness(
            nearer=_number(report.likeness.nearer),
            n_scans=report.likeness.n_scans,
            findings=list(report.likeness.findings),
        ),
        clinical={name: value if isinstance(value, str) else float(value) for name, value in clinical.items()},
        missing=[name for name, words in report.facts.items() if words == "not known"],
        warnings=list(report.warnings),
        models=dict(models),
    )


def _plain(row: Mapping[Any, Any], part: type[Part]) -> dict[str, Any]:
    """Take the fields of a part from a row; what is missing becomes null."""
    return {name: None if pd.isna(row.get(name)) else row[name] for name in part.model_fields}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


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
