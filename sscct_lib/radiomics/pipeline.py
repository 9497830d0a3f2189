"""One model from table to risk: a scikit-learn pipeline, tuned and fitted on training scans alone.

The steps are `harmonise` (optional), `impute`, `stable`, `distinct`, `scale` and `model`. `fit` tunes the last in inner
folds by patient, with weights for censoring and for repeat scans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from sscct_lib.cohort.outcomes import Floats, known_outcomes, patient_weights, survival_outcome
from sscct_lib.radiomics.combat import ComBat
from sscct_lib.radiomics.estimators import ESTIMATORS, MAIN, RiskModel, make_estimator
from sscct_lib.radiomics.feature_sets import (
    CLINICAL_CATEGORIES,
    CLINICAL_NUMBERS,
    PREFIXES,
    NotEstimableError,
    is_category,
)
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import years_text

# Columns beside the features that harmonisation looks at: the batch, the patient, and what it must not take away.
PRESERVED = ["age_years", "fvc_percent", "dlco_percent", "sex"]
HARMONISATION_COLUMNS = ["scanner", "patient_id", *PRESERVED]
INDICATOR = "missingindicator_"
BEND = "_bend"
MISSING = "missing"  # a category that is not known, as a category of its own

LEAST_RISK = 1e-4  # a risk of 0 or 1 would make one surprise count without limit
MIN_PATIENTS = 10  # with versions of a scan; the agreement of features over fewer would be a guess
UPPER = 0.975  # where a 95 % interval ends
FEWEST_PATIENTS = 2  # who died, and who lived, behind a horizon; a model of one patient is that patient's portrait


@dataclass(frozen=True)
class Fit:
    """A fitted model."""

    pipeline: Pipeline  # fitted; `predict` gives risks, a column each of `horizons_years`
    horizons_years: tuple[float, ...]  # those that could be estimated
    columns: list[str]  # the features that it was given
    harmonised: bool  # whether it begins with ComBat
    chosen: dict[str, Any]  # by tuning
    shares: dict[str, dict[str, float]]  # of the training scans, by category (`MISSING`: not known)
    counts: dict[float, dict[str, int]]  # of each horizon: training scans of known and unknown state, patients, deaths
    notes: dict[float, str] = field(default_factory=dict)  # by horizon; one that is not estimated says why
    others: tuple[Pipeline, ...] = ()  # the same, fitted to other imputations of what is missing

    def risks(self, table: pd.DataFrame) -> Floats:
        """Risk of each scan at each of `horizons_years`, shape (n, n_horizons): the mean over imputations."""
        data = design(table, self.columns, self.harmonised)
        each = [averaged_risks(pipeline, data, self.shares) for pipeline in (self.pipeline, *self.others)]
        return np.asarray(np.mean(each, axis=0))


def fit(
    table: pd.DataFrame, columns: Sequence[str], kind: str, study: Study, agreement: "pd.Series[float] | None" = None
) -> Fit:
    """Tune and fit a model of a kind (see `Model`) on training scans, by log loss on held-out training patients.

    NotEstimableError where no horizon has enough patients of either outcome, or no feature is usable.
    """
    settings, harmonised = study.settings, kind == "harmonised"
    outcome = survival_outcome(table["followup_years"].to_numpy(float), table["event_observed"].to_numpy(bool))
    states = {horizon: known_outcomes(outcome, horizon, settings.labels) for horizon in settings.horizons_years}
    patients = table["patient_id"]
    notes = {horizon: _why_not(*states[horizon], patients, horizon) for horizon in states}
    horizons = tuple(horizon for horizon in states if not notes[horizon])
    if not horizons:
        raise NotEstimableError("; ".join(notes.values()))
    # Missing numbers are drawn several times from what the others say of them; the model is tuned on the first draw,
    # fitted to each, and the risks are averaged (Rubin's rule for a mean; Wood AM, et al. Biom J 2015;57:614-32). No
    # outcome enters: that of a new scan is not known.
    draws: Sequence[int | None] = range(settings.tabular.n_imputations) if kind == "imputed" else [None]
    estimator = kind if kind in ESTIMATORS else MAIN
    pipeline, *others = (
        build_pipeline(
            columns, make_estimator(estimator, horizons, settings), settings, harmonised, draw, kind == "splines"
        )
        for draw in draws
    )
    data, weight = design(table, columns, harmonised), patient_weights(patients)
    chosen, note = _tune(
        data, outcome, weight, patients, [states[each] for each in horizons], pipeline, agreement, study
    )
    for each in (pipeline, *others):
        each["model"].set_params(**chosen)
        each.fit(data, outcome, stable__agreement=agreement, model__sample_weight=weight)
    return Fit(
        pipeline, horizons, list(columns), harmonised, chosen, category_shares(data, columns),
        {horizon: _counts(*states[horizon], patients) for horizon in states},
        notes | (dict.fromkeys(horizons, note) if note else {}), tuple(others),
    )  # fmt: skip


def _why_not(died: NDArray[np.int64], weight: Floats, patients: "pd.Series[str]", horizon: float) -> str:
    for state, words in ((1, "died within"), (0, "is known to be alive after")):
        n_patients = patients[(weight > 0) & (died == state)].nunique()
        if n_patients < FEWEST_PATIENTS:
            found = "no training patient" if n_patients == 0 else f"only {count_text(n_patients)} training patient(s)"
            return f"{found} {words} {years_text(horizon)}"
    return ""


def _counts(died: NDArray[np.int64], weight: Floats, patients: "pd.Series[str]") -> dict[str, int]:
    known = weight > 0
    return {
        "n_scans": int(known.sum()),
        "n_patients": int(patients[known].nunique()),
        "n_events": int(died[known].sum()),
        "n_unknown": int((~known).sum()),
    }


def _tune(
    data: pd.DataFrame,
    outcome: NDArray[np.void],
    weight: Floats,
    patients: "pd.Series[str]",
    states: list[tuple[NDArray[np.int64], Floats]],
    pipeline: Pipeline,
    agreement: "pd.Series[float] | None",
    study: Study,
) -> tuple[dict[str, Any], str]:
    """Choose an estimator's settings by the log loss on held-out training patients; also what is to be noted."""
    ever = states[-1][0].astype(bool)
    ever = pd.Series(ever).groupby(patients.to_numpy()).transform("any").to_numpy()
    fewest = min(patients[ever].nunique(), patients[~ever].nunique())
    n_folds = min(study.settings.tabular.n_inner_folds, fewest)
    if n_folds < 2:
        return {}, "too few patients to tune: the plainest settings were used"
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=study.settings.seed)
    tried: list[dict[str, Any]] = []
    losses: Any = 0.0
    for train, test in splitter.split(data, ever, patients):
        steps = clone(pipeline[:-1])
        known = steps.fit_transform(data.iloc[train], outcome[train], stable__agreement=agreement)
        held_out = steps.transform(data.iloc[test])
        results = list(pipeline["model"].tuning_risks(known, outcome[train], weight[train], held_out))
        tried = [settings for settings, _ in results]
        losses = losses + np.array(
            [[_log_loss(risk[:, i], *state, weight, test) for i, state in enumerate(states)] for _, risk in results]
        )
    if pipeline["model"].per_horizon:  # tuned at each by itself
        best = [tried[i] for i in losses.argmin(axis=0)]
        return {name: tuple(settings[name] for settings in best) for name in best[0]}, ""
    return tried[int(losses.sum(axis=1).argmin())], ""


def _log_loss(
    risk: Floats, died: NDArray[np.int64], censoring: Floats, weight: Floats, rows: NDArray[np.int64]
) -> float:
    risk = np.clip(risk, LEAST_RISK, 1 - LEAST_RISK)
    loss = np.where(died[rows] == 1, -np.log(risk), -np.log1p(-risk))
    return float((censoring * weight)[rows] @ loss)


def build_pipeline(
    columns: Sequence[str],
    estimator: RiskModel,
    settings: Settings,
    harmonised: bool,
    draw: int | None = None,
    splines: bool = False,
) -> Pipeline:
    """A model's pipeline, not yet fitted: from what `design` gives to risks, shape (n, n_horizons)."""
    images = [name for name in columns if name.startswith((*PREFIXES["qct"], *PREFIXES["radiomics"]))]
    steps: list[tuple[str, Any]] = [("harmonise", ComBat(images, preserve=PRESERVED))] if harmonised and images else []
    steps += [
        ("impute", imputation(columns, draw, splines)),
        ("stable", StableColumns(settings.tabular.min_icc)),
        ("distinct", DistinctColumns(settings.tabular.max_correlation)),
        ("scale", StandardScaler()),
    ]
    pipeline = Pipeline([*steps, ("model", estimator)]).set_output(transform="pandas")
    pipeline["scale"].set_output(transform="default")  # models take plain arrays
    return pipeline


def imputation(columns: Sequence[str], draw: int | None = None, splines: bool = False) -> ColumnTransformer:
    """The step that fills in missing values, clips numbers to the training range and encodes categories."""
    # With the number of a draw, clinical numbers and quantitative CT are drawn from a regression on each other.
    # Rates of change are missing together, where there is no earlier scan; `change_years` says so for all.
    rates = [name for name in columns if name.startswith("change_") and name != "change_years"]
    curved = [name for name in columns if splines and name in CLINICAL_NUMBERS]
    numbers = [name for name in columns if not is_category(name) and name not in [*rates, *curved]]
    categories = [name for name in columns if name in CLINICAL_CATEGORIES]
    groups = [name for name in columns if is_category(name) and name not in categories]
    of_images = (*PREFIXES["radiomics"], *PREFIXES["change"])
    drawn = [] if draw is None else [name for name in numbers if not name.startswith(of_images)]
    encode = OneHotEncoder(
        categories=[[*CLINICAL_CATEGORIES[name], MISSING] for name in categories],
        handle_unknown="ignore",
        sparse_output=False,
    )
    of_training = OneHotEncoder(handle_unknown="ignore", sparse_output=False)  # what a study declares, as it is found
    fill = SimpleImputer(strategy="constant", fill_value=MISSING)
    several = [] if draw is None else [("drawn", make_pipeline(_drawn(draw), MinMaxScaler(clip=True)), drawn)]
    return ColumnTransformer(
        [
            *several,
            ("curved", make_pipeline(_numbers(add_indicator=True), Curves()), curved),
            ("numbers", _numbers(add_indicator=True), [name for name in numbers if name not in drawn]),
            ("rates", _numbers(add_indicator=False), rates),
            ("categories", make_pipeline(fill, encode), categories),
            ("groups", make_pipeline(fill, of_training), groups),
        ],
        verbose_feature_names_out=False,
    )


def _drawn(draw: int) -> IterativeImputer:
    """Columns without a gap among the training scans get the median where a new scan has one."""
    return IterativeImputer(
        sample_posterior=True, skip_complete=True, initial_strategy="median", keep_empty_features=True,
        random_state=draw,
    )  # fmt: skip


def _numbers(add_indicator: bool) -> Pipeline:
    # A value beyond the training range counts as its end, so that an unusual scan is not extrapolated.
    impute = SimpleImputer(strategy="median", add_indicator=add_indicator, keep_empty_features=True)
    return make_pipeline(impute, MinMaxScaler(clip=True))


class Curves(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Add to each column the bend of a restricted cubic spline with knots at its 10th, 50th and 90th percentile.

    A column and its bend together are any curve that is cubic between the knots and a straight line beyond. The bend is
    taken off its regression on the column, or the two would say nearly the same; it is zero where the knots are not
    three different values.

    Harrell FE. Regression modeling strategies. 2nd ed. Springer 2015, section 2.4.5.
    """

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: N803  scikit-learn's own name
        """Find the knots, shape (3, n_columns)."""
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        values = X.to_numpy(dtype=float)
        self.knots_ = np.quantile(values, [0.1, 0.5, 0.9], axis=0)
        bends, self.middle_ = self._bends(values), values.mean(axis=0)
        around = values - self.middle_
        spread = (around**2).sum(axis=0)
        self.slope_ = (around * bends).sum(axis=0) / np.where(spread > 0, spread, 1.0)
        return self

    def _bends(self, values: Floats) -> Floats:
        low, middle, high = self.knots_
        at_low, at_middle, at_high = (np.maximum(values - knot, 0) ** 3 for knot in self.knots_)
        bent = (low < middle) & (middle < high)
        above, width = np.where(bent, high - middle, 1.0), np.where(bent, high - low, 1.0)
        bends = at_low - (at_middle * width - at_high * (middle - low)) / above
        return np.asarray(np.where(bent, bends, 0.0) / width**2)

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Put the bends behind the columns."""
        values = X.to_numpy(dtype=float)
        bends = self._bends(values) - self.slope_ * (values - self.middle_)
        return pd.concat([X, pd.DataFrame(bends, X.index, [f"{name}{BEND}" for name in X])], axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The columns, and then their bends."""
        names = self.feature_names_in_
        return np.asarray([*names, *(f"{name}{BEND}" for name in names)], dtype=object)


def design(table: pd.DataFrame, columns: Sequence[str], harmonised: bool) -> pd.DataFrame:
    """Take a pipeline's columns in the types that it expects; `harmonised`: whether it begins with ComBat.

    Numbers as float, categories as objects, NaN where missing; a column that the table has not counts as missing.
    """
    names = list(dict.fromkeys([*columns, *(HARMONISATION_COLUMNS if harmonised else [])]))
    frame = table.reindex(columns=names)
    text = {name for name in names if name in ("scanner", "patient_id") or is_category(name)}
    frame = frame.astype({name: object if name in text else float for name in names})
    return frame.where(frame.notna(), np.nan)


def category_shares(data: pd.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of each category among training scans, by column of `design`."""
    named = [name for name in columns if is_category(name)]
    counts = {name: data[name].fillna(MISSING).value_counts(normalize=True) for name in named}
    return {name: {str(value): float(share) for value, share in of.items()} for name, of in counts.items()}


def unseen(data: pd.DataFrame, name: str, shares: Mapping[str, Mapping[str, float]]) -> NDArray[np.bool_]:
    """Which rows have a category that no training scan had; not to be known counts as one."""
    return ~data[name].fillna(MISSING).isin(list(shares[name])).to_numpy(dtype=bool)


def averaged_risks(pipeline: Pipeline, data: pd.DataFrame, shares: Mapping[str, Mapping[str, float]]) -> Floats:
    """Risks (n, n_horizons) of what `design` gives; a category that no training scan had is averaged over theirs."""
    # Encoded as none it would be judged as one, whichever the encoding left out: an unknown sex as that of a man.
    risks = np.asarray(pipeline.predict(data), dtype=float)
    for name, of_value in shares.items():
        rows = unseen(data, name, shares)
        if rows.any():
            others = {other: values for other, values in shares.items() if other != name}
            known = {value: data[rows].assign(**{name: np.nan if value == MISSING else value}) for value in of_value}
            risks[rows] = sum(of_value[value] * averaged_risks(pipeline, known[value], others) for value in known)
            rest = ~rows
            if rest.any():
                risks[rest] = averaged_risks(pipeline, data[rest], others)
            break
    return risks


def prepared(pipeline: Pipeline, data: pd.DataFrame) -> pd.DataFrame:
    """Take data through every step of a fitted pipeline before its model; the columns are those that the model sees."""
    return pd.DataFrame(pipeline[:-1].transform(data), data.index, pipeline["scale"].get_feature_names_out())


class _Selection(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Keep some columns of a table, which `fit` chooses."""

    kept_: list[str]

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803  scikit-learn's own name
        """Keep the chosen columns."""
        return X[self.kept_]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The columns that are kept."""
        return np.asarray(self.kept_, dtype=object)


class StableColumns(_Selection):
    """Leave out features that do not agree between versions of a scan, and columns without any variation."""

    def __init__(self, min_icc: float = 0.75) -> None:
        self.min_icc = min_icc

    def fit(self, X: pd.DataFrame, y: Any = None, agreement: "pd.Series[float] | None" = None) -> Self:  # noqa: N803
        """Choose the columns; the outcome must not, and where `agreement` is None every feature is taken as stable."""
        unstable = set() if agreement is None else set(agreement.index[~(agreement >= self.min_icc)])
        varies = (X.max() > X.min()).to_numpy()
        base = [str(name).removeprefix(INDICATOR).removeprefix("change_") for name in X]
        self.kept_ = [
            str(name) for name, of, moves in zip(X, base, varies, strict=True) if moves and of not in unstable
        ]
        if not self.kept_:
            raise NotEstimableError("no feature of this model is stable and differs between scans")
        return self


class DistinctColumns(_Selection):
    """Of columns that say nearly the same, keep the first: clinical values before quantitative CT before texture."""

    def __init__(self, max_correlation: float = 0.95) -> None:
        self.max_correlation = max_correlation

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: N803
        """Choose the columns of a table in which every column varies."""
        correlation = np.abs(np.corrcoef(X.to_numpy(dtype=float), rowvar=False)).reshape(X.shape[1], -1)
        kept: list[int] = []
        for column in range(X.shape[1]):
            if not (correlation[column, kept] > self.max_correlation).any():
                kept.append(column)
        self.kept_ = [str(X.columns[column]) for column in kept]
        return self


def feature_agreement(versions: pd.DataFrame) -> pd.DataFrame:
    """Estimate how well each feature agrees between versions of the same scans.

    Versions are from `stability.versions_of_scans`; every scan has each. One row per feature that no scan lacks:
    `feature`, `icc`, `ci_low`, `ci_high`, `n_scans`.
    """
    features = versions.drop(columns=["scan_id", "patient_id", "version"]).dropna(axis=1).columns
    ordered = versions.sort_values(["scan_id", "version"])
    n_scans = ordered["scan_id"].nunique()
    values = ordered[features].to_numpy(dtype=float).reshape(n_scans, -1, len(features))
    icc, low, high = intraclass_correlation(values)
    return pd.DataFrame({"feature": features, "icc": icc, "ci_low": low, "ci_high": high, "n_scans": n_scans})


def training_agreement(versions: pd.DataFrame | None, patients: "pd.Series[str]") -> "pd.Series[float] | None":
    """ICC by feature over versions of the training patients' scans; NaN where some scan lacks the feature."""
    if versions is None or versions.empty:
        return None
    known = versions[versions["patient_id"].isin(set(patients))]
    if known["patient_id"].nunique() < MIN_PATIENTS:
        return None
    icc = feature_agreement(known).set_index("feature")["icc"]
    return icc.reindex(known.columns.drop(["scan_id", "patient_id", "version"]))


def intraclass_correlation(values: Floats) -> tuple[Floats, Floats, Floats]:
    """ICC(2,1) of values (n_subjects, n_measurements, n_features): estimate, low and high, each (n_features,)."""
    # Two-way random effects, absolute agreement, single measurement (Shrout PE, Fleiss JL. Psychol Bull 1979;86:420-8)
    # with the interval of McGraw KO, Wong SP. Psychol Methods 1996;1:30-46. NaN for a feature that never changes.
    n, k, _ = values.shape
    grand = values.mean(axis=(0, 1))
    by_subject, by_measurement = values.mean(axis=1), values.mean(axis=0)
    between = k * ((by_subject - grand) ** 2).sum(axis=0) / (n - 1)
    raters = n * ((by_measurement - grand) ** 2).sum(axis=0) / (k - 1)
    residual = values - by_subject[:, None] - by_measurement[None] + grand
    error = (residual**2).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        icc = (between - error) / (between + (k - 1) * error + k * (raters - error) / n)
        ratio = raters / error
        spread = n * (1 + (k - 1) * icc) - k * icc
        freedom = (k - 1) * (n - 1) * (k * icc * ratio + spread) ** 2
        freedom /= (n - 1) * k**2 * icc**2 * ratio**2 + spread**2
        upper_f, lower_f = stats.f.ppf(UPPER, n - 1, freedom), stats.f.ppf(UPPER, freedom, n - 1)
        rest = k * raters + (k * n - k - n) * error
        low = n * (between - upper_f * error) / (upper_f * rest + n * between)
        high = n * (lower_f * between - error) / (rest + n * lower_f * between)
    perfect = (error == 0) & (icc == 1)
    return icc, np.where(perfect, 1.0, low), np.where(perfect, 1.0, high)
