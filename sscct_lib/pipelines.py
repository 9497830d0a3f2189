"""A model from table to risk, as one scikit-learn pipeline that learns everything from the scans given to `fit`.

The steps are `harmonise` (optional), `impute`, `stable`, `distinct`, `scale` and `model`.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from sscct_lib.feature_sets import CLINICAL_CATEGORIES, PREFIXES, NotEstimableError
from sscct_lib.harmonisation import ComBat
from sscct_lib.risk_models import CoxNet, LogisticNet, RiskModel
from sscct_lib.study import Settings
from sscct_lib.tree_models import Boosting, Forest

# Columns beside the features that harmonisation looks at: the batch, the patient, and what it must not take away.
PRESERVED = ["age_years", "fvc_percent", "dlco_percent", "sex"]
HARMONISATION_COLUMNS = ["scanner", "patient_id", *PRESERVED]
TEXT = {"scanner", "patient_id", *CLINICAL_CATEGORIES}
INDICATOR = "missingindicator_"


def make_pipeline_of(columns: Sequence[str], estimator: RiskModel, settings: Settings, harmonised: bool) -> Pipeline:
    """Build a model's pipeline, not yet fitted.

    Missing numbers become the median and a column says so; missing categories are a category of their own. A value
    beyond the range of the training scans counts as the end of that range, so that an unusual scan is not
    extrapolated. `fit` takes the agreement of features as `stable__agreement` and weights as `model__sample_weight`.

    Parameters
    ----------
    columns
        The model's columns of features.
    estimator
        The last step.
    settings
        Of the study: the limits of stability and correlation.
    harmonised
        Whether ComBat brings the image features of all scanners to one scale first; then the pipeline's input has
        `HARMONISATION_COLUMNS` too.

    Returns
    -------
    sklearn.pipeline.Pipeline
        It takes what `design` gives; `predict` gives risks, shape (n, n_horizons).
    """
    images = [name for name in columns if name.startswith((*PREFIXES["qct"], *PREFIXES["radiomics"]))]
    steps: list[tuple[str, Any]] = [("harmonise", ComBat(images, preserve=PRESERVED))] if harmonised and images else []
    steps += [
        ("impute", imputation(columns)),
        ("stable", StableColumns(settings.tabular.min_icc)),
        ("distinct", DistinctColumns(settings.tabular.max_correlation)),
        ("scale", StandardScaler()),
    ]
    pipeline = Pipeline([*steps, ("model", estimator)]).set_output(transform="pandas")
    pipeline["scale"].set_output(transform="default")  # models take plain arrays
    return pipeline


def imputation(columns: Sequence[str]) -> ColumnTransformer:
    """Build the step that fills in missing values, clips numbers to the training range and encodes categories.

    Parameters
    ----------
    columns
        Of features, as `design` gives them.

    Returns
    -------
    sklearn.compose.ColumnTransformer
        Not yet fitted. A missing number becomes the median, and a column `missingindicator_...` says so.
    """
    # Rates of change are missing together, where there is no earlier scan; `change_years` says so for all.
    rates = [name for name in columns if name.startswith("change_") and name != "change_years"]
    numbers = [name for name in columns if name not in CLINICAL_CATEGORIES and name not in rates]
    categories = [name for name in columns if name in CLINICAL_CATEGORIES]
    encode = OneHotEncoder(
        categories=[[*CLINICAL_CATEGORIES[name], "missing"] for name in categories],
        handle_unknown="ignore",
        sparse_output=False,
    )
    return ColumnTransformer(
        [
            ("numbers", _numbers(add_indicator=True), numbers),
            ("rates", _numbers(add_indicator=False), rates),
            (
                "categories",
                make_pipeline(SimpleImputer(strategy="constant", fill_value="missing"), encode),
                categories,
            ),
        ],
        verbose_feature_names_out=False,
    )


def _numbers(add_indicator: bool) -> Pipeline:
    impute = SimpleImputer(strategy="median", add_indicator=add_indicator, keep_empty_features=True)
    return make_pipeline(impute, MinMaxScaler(clip=True))


def design(table: pd.DataFrame, columns: Sequence[str], harmonised: bool) -> pd.DataFrame:
    """Take a pipeline's columns in the types that it expects.

    Parameters
    ----------
    table
        Columns of features; one that is absent counts as missing.
    columns
        The model's columns.
    harmonised
        Whether the pipeline begins with ComBat.

    Returns
    -------
    pandas.DataFrame
        Numbers as float, categories as objects with NaN for missing.
    """
    names = list(dict.fromkeys([*columns, *(HARMONISATION_COLUMNS if harmonised else [])]))
    frame = table.reindex(columns=names)
    frame = frame.astype({name: object if name in TEXT else float for name in names})
    return frame.where(frame.notna(), np.nan)


def prepared(pipeline: Pipeline, data: pd.DataFrame) -> pd.DataFrame:
    """Take data through every step of a fitted pipeline before its model; the columns are those that the model sees."""
    return pd.DataFrame(pipeline[:-1].transform(data), data.index, pipeline["scale"].get_feature_names_out())


def make_estimator(name: str, horizons_years: tuple[float, ...], settings: Settings) -> RiskModel:
    """Make an estimator by its name in the settings: `cox`, `logistic`, `forest` or `boosting`."""
    made: dict[str, RiskModel] = {
        "cox": CoxNet(horizons_years),
        "logistic": LogisticNet(horizons_years, settings.labels),
        "forest": Forest(horizons_years, n_trees=settings.tabular.n_trees, seed=settings.seed),
        "boosting": Boosting(horizons_years, seed=settings.seed),
    }
    return made[name]


class _Selection(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Keep some columns of a table, which `fit` chooses."""

    kept_: list[str]

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803  scikit-learn's own name
        """Keep the chosen columns."""
        return X[self.kept_]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Give the columns that are kept."""
        return np.asarray(self.kept_, dtype=object)


class StableColumns(_Selection):
    """Leave out features that do not agree between versions of a scan, and columns without any variation.

    Parameters
    ----------
    min_icc
        Agreement below which a feature is left out, and its rate of change and its indicator with it.
    """

    def __init__(self, min_icc: float = 0.75) -> None:
        self.min_icc = min_icc

    def fit(self, X: pd.DataFrame, y: Any = None, agreement: "pd.Series[float] | None" = None) -> Self:  # noqa: N803
        """Choose the columns.

        Parameters
        ----------
        X
            Imputed columns.
        y
            Ignored: the outcome must not choose.
        agreement
            ICC of each image feature in the training patients; NaN where it cannot be told. None: every feature is
            taken as stable.

        Returns
        -------
        StableColumns

        Raises
        ------
        NotEstimableError
            If no column is left.
        """
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
    """Of columns that say nearly the same, keep the first: clinical values before quantitative CT before texture.

    Parameters
    ----------
    max_correlation
        Largest absolute correlation (Pearson) that two kept columns may have.
    """

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
