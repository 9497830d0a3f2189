"""Risk models on tables of clinical values and CT features, cross-validated by patient, with repeats."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from sscct_lib.cohort.selection import assign_folds
from sscct_lib.horizons.evaluation import risk_table
from sscct_lib.radiomics.estimators import ESTIMATORS, MAIN
from sscct_lib.radiomics.feature_sets import FEATURE_SETS, NotEstimableError, feature_columns
from sscct_lib.radiomics.pipeline import Fit, fit, training_agreement
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.results import told
from sscct_lib.study.schemas import IDENTITY, PREDICTIONS

# The main estimator with ComBat before it, with several imputations of what is missing (a check of the median, which
# is not shipped), or with curves for age and lung function: what is set, and the words.
VARIANTS = {"harmonised": "harmonised", "imputed": "multiple imputation", "splines": "splines"}


@dataclass(frozen=True)
class Model:
    """A tabular model: what it sees and how it learns."""

    feature_set: str
    kind: str = MAIN  # one of `ESTIMATORS`, or of `VARIANTS`

    @property
    def estimator(self) -> str:
        """Its name in `ESTIMATORS`."""
        return MAIN if self.kind in VARIANTS else self.kind

    @property
    def variant(self) -> str:
        """What is changed in it, in words."""
        return VARIANTS.get(self.kind, ESTIMATORS[self.estimator].variant)

    @property
    def name(self) -> str:
        """As tables and figures show it."""
        return f"{self.feature_set}, {self.variant}" if self.variant else self.feature_set


def models_of(study: Study) -> list[Model]:
    """A study's models: an elastic-net Cox regression for each feature set, then those compared with it."""
    settings = study.settings.tabular
    return [Model(name) for name in settings.feature_sets] + [
        Model(name, kind)
        for name in settings.compared_on
        for kind in settings.compared
        if (kind != "harmonised" or FEATURE_SETS[name] != ("clinical",))  # which have nothing to harmonise
        and (kind != "splines" or "clinical" in FEATURE_SETS[name])
    ]


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation gives."""

    predictions: pd.DataFrame  # out of fold, schema `PREDICTIONS`: each repeat by itself
    notes: pd.DataFrame  # what could not be done, and what was done instead: by model, horizon, repeat and fold
    fits: dict[tuple[str, int, int], Fit]  # elastic-net Cox models, by model, repeat and the fold they did not see
    folds: NDArray[np.int64]  # of each scan in each repeat, shape (n_repeats, n)

    def held_out(self, model: str) -> Iterator[tuple[Fit, NDArray[np.bool_], int]]:
        """Yield each fit of a model, the scans that it never saw, shape (n,), and the repeat."""
        for (name, repeat, fold), fitted in self.fits.items():
            if name == model:
                yield fitted, self.folds[repeat] == fold, repeat


def cross_validate(
    table: pd.DataFrame, study: Study, n_jobs: int = 1, versions: pd.DataFrame | None = None
) -> CrossValidation:
    """Predict each scan with models that never saw its patient, in several splits of the patients.

    Everything is learned from the training folds alone: imputation, harmonisation, which features are stable and
    distinct, scaling, tuning and censoring weights. In each repeat a scan is held out once, with all scans of its
    patient. Risks never fall with the horizon. Where some fits of a repeat cannot be made at a horizon, the repeat is
    left out there if another has more scans.

    Parameters
    ----------
    table
        From `feature_sets.join`; the folds of the first repeat are the cohort's.
    n_jobs
        Processes that share the fits; -1 for all cores.
    versions
        From `stability.versions_of_scans`: features unstable in the training patients are left out. None: none is.

    Returns
    -------
    CrossValidation
        Where a model cannot be fitted in any repeat, its predictions are absent and `notes` says why.

    Raises
    ------
    StudyError
        If the table is empty, or its features were made with different settings.
    """
    one_settings_hash(table)
    folds = repeated_folds(table, study)
    tasks = [
        (model, repeat, int(fold))
        for model in sorted(models_of(study), key=lambda each: each.estimator in ("cox", "logistic"))  # slowest first
        for repeat, row in enumerate(folds)
        for fold in np.unique(row)
    ]
    jobs = (
        delayed(_train_and_test)(table, folds[repeat] == fold, model, study, versions) for model, repeat, fold in tasks
    )
    results = told(Parallel(n_jobs=n_jobs, return_as="generator")(jobs), len(tasks), "tabular models: fit")
    done = dict(zip(tasks, results, strict=True))
    horizons = study.settings.horizons_years
    risks = {model.name: np.full((len(folds), len(table), len(horizons)), np.nan) for model in models_of(study)}
    notes = []
    for (model, repeat, fold), (predicted, noted, _) in done.items():
        risks[model.name][repeat, folds[repeat] == fold] = predicted
        for horizon, note in noted.items():
            notes.append((model.name, horizon, repeat, fold, note))
    return CrossValidation(
        PREDICTIONS.validate(
            pd.concat([_long(table, model, risks[model.name], folds, horizons) for model in models_of(study)])
        ),
        pd.DataFrame(notes, columns=["model", "horizon_years", "repeat", "fold", "note"]),
        {(model.name, repeat, fold): each for (model, repeat, fold), (_, _, each) in done.items() if each is not None},
        folds,
    )


def predict_removed(result: CrossValidation, table: pd.DataFrame, removed: pd.DataFrame) -> pd.DataFrame:
    """Predict scans on which nothing was trained, with the elastic-net Cox models that never saw their patients.

    `table` are the scans that were cross-validated, `removed` (also from `feature_sets.join`; may be empty) those that
    quality assurance removed. Schema `PREDICTIONS`, in each repeat by a model that never saw the patient.
    """
    # A patient without any scan in training was seen by no fit: the cohort's fold says which of a repeat predicts.
    frames = []
    for (model, repeat, fold), fitted in result.fits.items():
        of_patient = dict(zip(table["patient_id"], result.folds[repeat], strict=True))
        unseen = removed[removed["patient_id"].map(of_patient).fillna(removed["fold"]) == fold]
        if len(unseen):
            identity = unseen[["scan_id", "patient_id"]].assign(repeat=repeat, fold=fold)
            frames.append(risk_table(identity, model, fitted.horizons_years, risk=fitted.risks(unseen)))
    if not frames:
        return PREDICTIONS.validate(result.predictions[:0])
    of_model = ["model", "horizon_years", "repeat"]
    judged = result.predictions[[*of_model, *IDENTITY]].drop_duplicates(of_model)
    return PREDICTIONS.validate(pd.concat(frames).merge(judged, on=of_model))


def repeated_folds(table: pd.DataFrame, study: Study) -> NDArray[np.int64]:
    """Folds of the scans, by patient, anew for each repeat, shape (n_repeats, n); the first are the cohort's own."""
    n_folds = table["fold"].nunique()
    rows = [table["fold"].to_numpy(dtype=np.int64)]
    for repeat in range(1, study.settings.tabular.n_repeats):
        of_cohort = study.settings.cohort.model_copy(update={"n_folds": n_folds})
        changed = {"seed": study.settings.seed + repeat, "cohort": of_cohort}
        rows.append(assign_folds(table, replace(study, settings=study.settings.model_copy(update=changed))))
    return np.array(rows)


def train(table: pd.DataFrame, model: Model, study: Study, versions: pd.DataFrame | None) -> Fit | str:
    """Tune and fit one model on training scans; where that cannot be, why."""
    agreement = training_agreement(versions, table["patient_id"])
    try:
        columns = feature_columns(model.feature_set, table, study.settings.covariates)
        return fit(table, columns, model.kind, study, agreement)
    except NotEstimableError as error:
        return str(error)


def _train_and_test(
    table: pd.DataFrame, tested: NDArray[np.bool_], model: Model, study: Study, versions: pd.DataFrame | None
) -> tuple[NDArray[np.float64], dict[float, str], Fit | None]:
    """Risks of the tested scans, what is to be noted at each horizon, and the fit if it is to be explained."""
    horizons = study.settings.horizons_years
    risks = np.full((int(tested.sum()), len(horizons)), np.nan)
    fitted = train(table[~tested], model, study, versions)
    if isinstance(fitted, str):
        return risks, dict.fromkeys(horizons, fitted), None
    risks[:, [horizons.index(horizon) for horizon in fitted.horizons_years]] = fitted.risks(table[tested])
    notes = {horizon: note for horizon, note in fitted.notes.items() if note}
    return risks, notes, fitted if model.estimator == MAIN else None


def _long(
    table: pd.DataFrame,
    model: Model,
    risks: NDArray[np.float64],
    folds: NDArray[np.int64],
    horizons: tuple[float, ...],
) -> pd.DataFrame:
    """Lay out risks (n_repeats, n, n_horizons) as schema `PREDICTIONS`: at each horizon, repeats of the same scans."""
    scans = table[["scan_id", "patient_id"]].assign(model=model.name, family=model.feature_set, variant=model.variant)
    frames = [scans.assign(horizon_years=0.0, repeat=0, fold=0, risk=np.nan)[:0]]
    for i, horizon in enumerate(horizons):
        known = np.isfinite(risks[:, :, i])
        most = known[known.sum(axis=1).argmax()]  # a mean over repeats must be one over the same scans
        for repeat in np.flatnonzero((known == most).all(axis=1)):
            values = {"repeat": repeat, "fold": folds[repeat], "risk": risks[repeat, :, i]}
            frames.append(scans.assign(horizon_years=horizon, **values)[most])
    return pd.concat(frames, ignore_index=True)


def one_settings_hash(table: pd.DataFrame) -> str:
    """The one fingerprint of settings with which all features were made; StudyError if there are more, or none."""
    found = sorted(table["settings_hash"].dropna().unique())
    if len(found) != 1:
        raise StudyError(
            f"Expected scans whose features were all made with the same settings, found {len(table)} scan(s) with "
            f"{len(found)} different settings. Run `03_radiomics` again; it makes the features anew where needed."
        )
    return str(found[0])
