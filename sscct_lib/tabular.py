"""Risk models on tables of clinical values and CT features: cross-validated, saved, and used on new scans."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from joblib import Parallel, delayed
from sklearn.pipeline import Pipeline

from sscct_lib import elastic_net
from sscct_lib.agreement import stable_columns
from sscct_lib.elastic_net import Fit, NotEstimableError
from sscct_lib.feature_sets import MODELS, add_change, feature_columns
from sscct_lib.study import Study, StudyError
from sscct_lib.tables import PREDICTIONS, atomic
from sscct_lib.wording import in_words

FOLDER = "tabular"  # within the folder of models
TRUSTED_TYPES = ["numpy.dtype"]  # beside scikit-learn's and numpy's own, which skops trusts


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation gives.

    Attributes
    ----------
    predictions
        Out-of-fold risks, schema `PREDICTIONS`.
    coefficients
        Log odds ratio per standard deviation: `model`, `horizon_years`, `fold`, `feature`, `coefficient`.
    notes
        What could not be done, and what was done instead: `model`, `horizon_years`, `fold`, `note`.
    fits
        The fitted models by model, horizon and the fold that they were not fitted on.
    """

    predictions: pd.DataFrame
    coefficients: pd.DataFrame
    notes: pd.DataFrame
    fits: dict[tuple[str, float, int], Fit]


def cross_validate(
    table: pd.DataFrame, study: Study, n_jobs: int = 1, versions: pd.DataFrame | None = None
) -> CrossValidation:
    """Predict each scan with models that never saw its patient.

    Imputation, scaling, tuning and censoring weights are learned from the training folds alone. Risks of one
    scan never fall with the horizon: each is the running maximum over the horizons up to it.

    Parameters
    ----------
    table
        From `feature_sets.join`; the folds are the cohort's.
    study
        The study: horizons, labels, inner folds and seed.
    n_jobs
        Processes that share the fits; -1 for all cores.
    versions
        From `stability.versions_of_scans`: features unstable in the training patients are left out. None: none is.

    Returns
    -------
    CrossValidation
        Where a model cannot be fitted, its predictions for that fold and horizon are absent and `notes` says why.

    Raises
    ------
    StudyError
        If the table is empty, or its features were made with different settings.
    """
    _one_settings_hash(table)
    folds = sorted(int(fold) for fold in table["fold"].unique())
    tasks = list(product(MODELS, study.settings.horizons_years, folds))
    done = Parallel(n_jobs=n_jobs)(
        delayed(_train)(table[table["fold"] != fold], model, horizon, study, versions) for model, horizon, fold in tasks
    )
    predictions, coefficients, notes = [], [], []
    for (model, horizon, fold), result in zip(tasks, done, strict=True):
        where: dict[str, Any] = {"model": model, "horizon_years": horizon, "fold": fold}
        if isinstance(result, str) or result.note:
            notes.append({**where, "note": result if isinstance(result, str) else result.note})
        if isinstance(result, Fit):
            tested = table[table["fold"] == fold]
            predictions.append(
                tested[["scan_id", "patient_id", "fold"]].assign(
                    model=model, horizon_years=horizon, risk=_risk(result.pipeline, tested), risk_sd=np.nan
                )
            )
            coefficients.append(_coefficients(result.pipeline).assign(**where))
    return CrossValidation(
        PREDICTIONS.validate(never_falling(_stack(predictions, list(PREDICTIONS.columns)))),
        _stack(coefficients, ["model", "horizon_years", "fold", "feature", "coefficient"]),
        pd.DataFrame(notes, columns=["model", "horizon_years", "fold", "note"]),
        {task: result for task, result in zip(tasks, done, strict=True) if isinstance(result, Fit)},
    )


def _train(
    table: pd.DataFrame, model: str, horizon_years: float, study: Study, versions: pd.DataFrame | None
) -> Fit | str:
    try:
        columns = feature_columns(model, table)
        if versions is not None and not versions.empty:
            columns = stable_columns(columns, versions, table["patient_id"], study.settings.tabular.min_icc)
            if not columns:
                return "no feature of this model is stable"
        return elastic_net.fit(table, columns, horizon_years, study)
    except NotEstimableError as error:
        return str(error)


def _columns(pipeline: Pipeline) -> list[str]:
    return [str(name) for name in pipeline.feature_names_in_]


def _risk(pipeline: Pipeline, table: pd.DataFrame) -> Any:
    return pipeline.predict_proba(elastic_net.design(table, _columns(pipeline)))[:, 1]


def _coefficients(pipeline: Pipeline) -> pd.DataFrame:
    names = pipeline["prepare"].get_feature_names_out()
    return pd.DataFrame({"feature": names, "coefficient": pipeline["model"].coef_[0]})


def _stack(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def never_falling(predictions: pd.DataFrame) -> pd.DataFrame:
    """Make the risks of each scan rise with the horizon, by their running maximum.

    Horizons are fitted apart, and nothing but this keeps a 3-year risk from lying below a 1-year risk.

    Parameters
    ----------
    predictions
        `model`, `scan_id`, `horizon_years`, `risk`.

    Returns
    -------
    pandas.DataFrame
        The same rows, sorted by model, horizon and scan.
    """
    ordered = predictions.sort_values(["model", "horizon_years", "scan_id"], ignore_index=True)
    return ordered.assign(risk=ordered.groupby(["model", "scan_id"])["risk"].cummax())


def leading_features(result: CrossValidation, model: str, horizon_years: float, n: int = 12) -> pd.DataFrame:
    """Find the features that weigh most in a model.

    Parameters
    ----------
    result
        From `cross_validate`.
    model
        A name in `feature_sets.MODELS`.
    horizon_years
        Years after the scan.
    n
        Features to keep.

    Returns
    -------
    pandas.DataFrame
        One row a feature and fold, the heaviest feature first: `feature` in words, `fold`, `coefficient` (log
        odds ratio per standard deviation; 0 where the fold did not choose it).
    """
    table = result.coefficients
    table = table[(table["model"] == model) & (table["horizon_years"] == horizon_years)]
    # A column that one fold lacks, such as "not measured", weighs nothing there.
    wide = table.pivot_table(index="feature", columns="fold", values="coefficient").fillna(0.0)
    heaviest = wide.mean(axis=1).abs().nlargest(n).index
    shown = wide.loc[heaviest].rename(index=in_words)
    return shown.reset_index().melt("feature", var_name="fold", value_name="coefficient")


def _one_settings_hash(table: pd.DataFrame) -> str:
    found = sorted(table["settings_hash"].dropna().unique())
    if len(found) != 1:
        raise StudyError(
            f"Expected scans whose features were all made with the same settings, found {len(table)} scan(s) with "
            f"{len(found)} different settings. Run `03_radiomics` again; it makes the features anew where needed."
        )
    return str(found[0])


def save_models(
    table: pd.DataFrame, study: Study, n_jobs: int = 1, versions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Fit every model on all scans and save it for use on new ones.

    Parameters
    ----------
    table
        From `feature_sets.join`.
    study
        The study; `study.models` receives `tabular/<model>.skops` and the model card `tabular/<model>.json`.
    n_jobs
        Processes that share the fits; -1 for all cores.
    versions
        From `stability.versions_of_scans`: features unstable in the training patients are left out. None: none is.

    Returns
    -------
    pandas.DataFrame
        One row a model and horizon: `model`, `horizon_years`, `penalty`, `l1_ratio`, `n_scans`, `n_patients`,
        `n_events`, `n_unknown`, `note`; the numbers are empty where the model cannot be fitted.
    """
    settings_hash = _one_settings_hash(table)
    tasks = list(product(MODELS, study.settings.horizons_years))
    done = Parallel(n_jobs=n_jobs)(delayed(_train)(table, model, horizon, study, versions) for model, horizon in tasks)
    rows = []
    for model in MODELS:
        fits = {horizon: result for (name, horizon), result in zip(tasks, done, strict=True) if name == model}
        made = {f"{horizon:g}": result.pipeline for horizon, result in fits.items() if isinstance(result, Fit)}
        described = [{"model": model, "horizon_years": horizon, **_describe(fits[horizon])} for horizon in fits]
        rows += described
        path = study.models / FOLDER / f"{_slug(model)}.skops"
        with atomic(path) as partial:
            skops.io.dump(made, partial)
        card = {
            "model": model,
            "kind": "elastic-net logistic regression of death within each horizon, censored scans weighted",
            "study": study.settings.title,
            "labels": study.settings.labels,
            "features": sorted({name for pipeline in made.values() for name in _columns(pipeline)}),
            "settings_hash": settings_hash,
            "seed": study.settings.seed,
            "horizons": [{name: row[name] for name in row if name != "model"} for row in described],
            "versions": {name: version(name) for name in ("sscct", "scikit-learn", "pyradiomics")},
            "sha256": sha256(path.read_bytes()).hexdigest(),
            "limits": "Research only. Not validated outside the study it was trained on.",
        }
        with atomic(path.with_suffix(".json")) as partial:
            partial.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return pd.DataFrame(rows)


def _describe(result: Fit | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"note": result}
    return {name: value for name, value in vars(result).items() if name != "pipeline"}


def _slug(model: str) -> str:
    return re.sub(r"\W+", "_", model.lower())


def predict_risks(models: Path, features: pd.DataFrame) -> pd.DataFrame:
    """Give new scans their risks.

    Parameters
    ----------
    models
        The folder of trained models of a run, `study.models`.
    features
        Schema `RADIOMICS`, with clinical columns of schema `COHORT` where they are known, and `scan_day` where
        change since a patient's earlier scan in this table is to count.

    Returns
    -------
    pandas.DataFrame
        `model`, `horizon_years`, `scan_id`, `risk` and `n_missing`, the number of the model's columns that were
        missing and imputed. Scans set aside, and scans without any value that a model needs, have no row.

    Raises
    ------
    StudyError
        If there is no model, a file is damaged, or the features were made with other settings.
    """
    cards = sorted((models / FOLDER).glob("[!.]*.json"))
    usable = features[features["status"] == "ok"] if "status" in features else features
    if {"patient_id", "scan_day"} <= set(usable.columns):
        usable = add_change(usable)
    if not cards:
        raise StudyError(f"{models} holds no trained model. Run `03_radiomics` first; it trains and saves them.")
    results = [frame for card in cards for frame in _predict_with(card, usable)]
    return never_falling(_stack(results, ["model", "horizon_years", "scan_id", "risk", "n_missing"]))


def _predict_with(path: Path, features: pd.DataFrame) -> Iterator[pd.DataFrame]:
    card, pipelines = load_model(path)
    other = set(features["settings_hash"]) - {card["settings_hash"]}
    if other:
        raise StudyError(
            f"The features were made with other settings than those of model {card['model']!r} "
            f"({', '.join(map(str, other))}, expected {card['settings_hash']}). Make them again with the sections "
            "`images` and `radiomics` of the study.yaml with which the model was trained."
        )
    for horizon, pipeline in pipelines.items():
        n_missing = elastic_net.design(features, _columns(pipeline)).isna().sum(axis=1)
        some = n_missing < len(_columns(pipeline))
        if some.any():
            yield features.loc[some, ["scan_id"]].assign(
                model=card["model"],
                horizon_years=float(horizon),
                risk=_risk(pipeline, features[some]),
                n_missing=n_missing[some],
            )


def load_model(card_path: Path) -> tuple[dict[str, Any], dict[str, Pipeline]]:
    """Load a model after checking that its file is the one that its card describes.

    Parameters
    ----------
    card_path
        The model card, `<model>.json`.

    Returns
    -------
    card : dict
        What the card says.
    pipelines : dict
        Fitted pipeline by horizon, years.

    Raises
    ------
    StudyError
        If a file is missing, changed, or holds anything but scikit-learn's own types.
    """
    path = card_path.with_suffix(".skops")
    again = "Run `03_radiomics` again to make it anew."
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise StudyError(f"{card_path.stem}: the model or its card cannot be read ({error}). {again}") from error
    if sha256(content).hexdigest() != card["sha256"]:
        raise StudyError(f"{path} is not the file that {card_path.name} describes. {again}")
    unknown = sorted(set(skops.io.get_untrusted_types(data=content)) - set(TRUSTED_TYPES))
    if unknown:
        raise StudyError(f"{path} holds types that are not trusted: {', '.join(unknown)}. {again}")
    return card, skops.io.loads(content, trusted=TRUSTED_TYPES)
