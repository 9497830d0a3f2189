"""Tabular models on disk: saved with a model card, checked when they are loaded, and used on new scans."""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import version
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import TREE_LEAF, Tree

from sscct_lib.horizons.evaluation import never_falling, risk_table
from sscct_lib.images.scanners import scanner
from sscct_lib.radiomics.cross_validation import Model, models_of, one_settings_hash, train
from sscct_lib.radiomics.estimators import ESTIMATORS, Boosting
from sscct_lib.radiomics.feature_sets import add_change
from sscct_lib.radiomics.pipeline import Fit, averaged_risks, design
from sscct_lib.study.files import atomic, grows
from sscct_lib.study.folder import Study, StudyError

FOLDER = "tabular"  # within the folder of models
USE = "Research on groups of patients: the risk of death from any cause within some years of a chest CT."
JUDGED = "single fits of the same recipe, each on patients that it never saw; what predicts is one fit, of all scans"
LIMITS = (
    "Not validated outside the study that it was trained on, and not a medical device. How well it predicts there is "
    "in the performance table of the same run; scans of other scanners, kernels or patients may differ."
)

PREDICTED = ["model", "horizon_years", "scan_id", "risk", "n_missing"]
SCHEMA = "schema.json"  # the member of a model file that describes the others
# What a model file may hold beside plain values and arrays: what `pipeline` makes, and no other type that skops trusts.
TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn.compose._column_transformer.ColumnTransformer",
    "sklearn.impute._base.MissingIndicator",
    "sklearn.impute._base.SimpleImputer",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.MinMaxScaler",
    "sklearn.preprocessing._data.StandardScaler",
    "sklearn.preprocessing._encoders.OneHotEncoder",
    "sklearn.tree._classes.DecisionTreeRegressor",
    "sklearn.tree._tree.Tree",
    "sksurv.ensemble.boosting.GradientBoostingSurvivalAnalysis",
    "sksurv.ensemble.forest.RandomSurvivalForest",
    "sksurv.ensemble.survival_loss.CoxPH",
    "sksurv.functions.StepFunction",
    "sksurv.linear_model.coxph.BreslowEstimator",
    "sksurv.tree.tree.SurvivalTree",
    "sscct_lib.radiomics.combat.ComBat",
    "sscct_lib.radiomics.pipeline.Curves",
    "sscct_lib.radiomics.pipeline.DistinctColumns",
    "sscct_lib.radiomics.pipeline.StableColumns",
    *(f"{estimator.__module__}.{estimator.__name__}" for estimator in ESTIMATORS.values()),
]
PLAIN_TYPES = ("builtins.", "numpy.")  # of these, skops knows which are safe
# What scikit-learn keeps one number of for each column; an array of one number would count for all.
OF_COLUMNS = ("mean_", "scale_", "var_", "min_", "data_min_", "data_max_", "data_range_", "statistics_")


def save_models(
    table: pd.DataFrame, study: Study, n_jobs: int = 1, versions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Fit every model on all scans and save it for use on new ones; those imputed several times are no such models.

    `study.models` receives `tabular/<model>.skops` and the model card `tabular/<model>.json`; files of models that are
    not the study's any more are removed.

    Parameters
    ----------
    table
        From `feature_sets.join`.
    n_jobs
        Processes that share the fits; -1 for all cores.
    versions
        From `stability.versions_of_scans`: features unstable in the training patients are left out. None: none is.

    Returns
    -------
    pandas.DataFrame
        One row per model and horizon: `model`, `horizon_years`, `n_scans`, `n_patients`, `n_events`, `n_unknown`,
        `note`, and `megabytes` on disk; the numbers are empty where the model cannot be fitted.
    """
    import skops.io  # walks through all of scikit-learn: seconds, which processes that share the fits need not spend

    settings_hash = one_settings_hash(table)
    models = [model for model in models_of(study) if model.kind != "imputed"]
    done = Parallel(n_jobs=n_jobs)(delayed(train)(table, model, study, versions) for model in models)
    folder = study.models / FOLDER
    wanted = {_slug(model.name) for model, fitted in zip(models, done, strict=True) if isinstance(fitted, Fit)}
    for path in [*folder.glob("*.json"), *folder.glob("*.skops")]:
        if path.stem not in wanted:
            path.unlink()
    rows = []
    for model, fitted in zip(models, done, strict=True):
        if isinstance(fitted, str):
            rows += [
                {"model": model.name, "horizon_years": each, "note": fitted} for each in study.settings.horizons_years
            ]
            continue
        path = folder / f"{_slug(model.name)}.skops"
        with atomic(path) as partial:
            partial.write_bytes(_without_addresses(skops.io.dumps(fitted.pipeline)))
        with atomic(path.with_suffix(".json")) as partial:
            card = _card(model, fitted, table, study, settings_hash) | {"sha256": sha256(path.read_bytes()).hexdigest()}
            partial.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        size = round(path.stat().st_size / 1e6, 2)
        rows += [{"model": model.name, **row, "megabytes": size} for row in card["horizons"]]
    return pd.DataFrame(rows)


def predict_risks(models: Path, features: pd.DataFrame) -> pd.DataFrame:
    """Give new scans their risks.

    Parameters
    ----------
    models
        The folder of trained models of a run, `study.models`.
    features
        Schema `RADIOMICS`, with clinical and scanner columns of schema `COHORT` where they are known, and `scan_day`
        where change since a patient's earlier scan in this table is to count.

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
    usable = usable.assign(scanner=scanner(usable))
    if {"patient_id", "scan_day"} <= set(usable.columns):
        usable = add_change(usable)
    if not cards:
        raise StudyError(f"{models} holds no trained model. Run `03_radiomics` first; it trains and saves them.")
    results = [found for card in cards if len(found := _predict_with(card, usable))]
    return never_falling(pd.concat(results or [pd.DataFrame(columns=PREDICTED)]))


def load_model(card_path: Path) -> tuple[dict[str, Any], Any]:
    """Load a model after checking that its file is the one that its card describes.

    Parameters
    ----------
    card_path
        The model card, `<model>.json`.

    Returns
    -------
    card : dict
        What the card says.
    pipeline : sklearn.pipeline.Pipeline
        Fitted; its input is what `pipeline.design` gives for `columns` and `harmonised` of the card.

    Raises
    ------
    StudyError
        If a file is missing, changed, holds any type but numpy's and `TRUSTED_TYPES`, or is not what `save_models`
        writes: trees that lead nowhere or in a circle, numbers for other columns than it takes.
    """
    import skops.io

    path = card_path.with_suffix(".skops")
    again = "Run `03_radiomics` again to make it anew."
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise StudyError(f"{card_path.stem}: the model or its card cannot be read ({error}). {again}") from error
    if "category_shares" not in card:
        raise StudyError(f"{card_path} is of an earlier version, which took an unknown category for another. {again}")
    if sha256(content).hexdigest() != card["sha256"]:
        raise StudyError(f"{path} is not the file that {card_path.name} describes. {again}")
    if grows(BytesIO(content), len(content)):
        raise StudyError(f"{path} is an archive that grows when it is read; models are stored as they are. {again}")
    try:
        unknown = sorted(_types(json.loads(ZipFile(BytesIO(content)).read(SCHEMA))) - set(TRUSTED_TYPES))
        if unknown:
            raise StudyError(f"{path} holds types that are not trusted: {', '.join(unknown)}. {again}")
        pipeline = skops.io.loads(content, trusted=TRUSTED_TYPES)
        fault = _fault(pipeline)
    except StudyError:
        raise
    except Exception as error:  # what skops and scikit-learn raise for odd content is not written anywhere
        raise StudyError(f"{path} is no model that can be read ({type(error).__name__}: {error}). {again}") from error
    if fault:
        raise StudyError(f"{path} is not what this software saves: {fault}. {again}")
    return card, pipeline


def _types(schema: Any) -> set[str]:
    """The types that skops will make, without plain ones."""
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    found = set().union(*map(_types, inner))
    if isinstance(schema, dict) and "__class__" in schema:
        name = f"{schema.get('__module__')}.{schema['__class__']}"
        found |= set() if name.startswith(PLAIN_TYPES) else {name}
    return found


def _parts(thing: Any, seen: set[int]) -> Iterator[Any]:
    """A model and all that it is made of."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield thing
    if isinstance(thing, np.ndarray):
        inner: Any = thing.ravel().tolist() if thing.dtype == object else []
    else:
        inner = thing if isinstance(thing, list | tuple) else getattr(thing, "__dict__", thing)
        inner = inner.values() if isinstance(inner, Mapping) else inner if isinstance(inner, list | tuple) else []
    for each in inner:
        yield from _parts(each, seen)


def _fault(pipeline: Any) -> str:
    """Say what of a pipeline compiled code would trip over, or would be taken for the numbers of other columns."""
    if not isinstance(pipeline, Pipeline) or not isinstance(pipeline["model"], tuple(ESTIMATORS.values())):
        return "it is no pipeline that ends in one of the models"
    model, n_columns = pipeline["model"], len(pipeline["scale"].get_feature_names_out())
    of_columns = [np.shape(getattr(model, name))[-1:] for name in ("coef_", "edges_") if hasattr(model, name)]
    if any(found != (n_columns,) for found in of_columns):
        return f"its numbers are not of the {n_columns} columns that it takes"
    if isinstance(model, Boosting):
        stages = np.asarray(model.trees_.estimators_)
        trees = [getattr(each, "tree_", None) for each in stages.ravel() if type(each) is DecisionTreeRegressor]
        if (
            stages.shape != (stages.size, 1)
            or model.trees_.n_trees_per_iteration_ != 1
            or [type(tree) for tree in trees] != [Tree] * stages.size
        ):
            return "its stages are not one tree each"
    for part in _parts(pipeline, set()):
        if isinstance(part, Tree) and (fault := _fault_of_tree(part, n_columns)):
            return fault
        if isinstance(part, BaseEstimator) and (n := vars(part).get("n_features_in_")) is not None:
            odd = [name for name in OF_COLUMNS if name in vars(part) and np.shape(vars(part)[name]) not in ((n,), ())]
            if odd:
                return f"{', '.join(odd)} of {type(part).__name__} are not of its {n} columns"
    return ""


def _fault_of_tree(tree: Tree, n_columns: int) -> str:
    """Say what is wrong in a tree; scikit-learn goes from node to node without looking."""
    if not 0 < tree.node_count == tree.capacity:
        return "a tree says that it has other nodes than it has"
    inner = np.flatnonzero(tree.children_left != TREE_LEAF)
    children = np.stack([tree.children_left[inner], tree.children_right[inner]])
    if (children <= inner).any() or (children >= tree.node_count).any():
        return "a tree leads in a circle or past its nodes"
    feature = tree.feature[inner]
    if tree.n_features != n_columns or (feature < 0).any() or (feature >= n_columns).any():
        return f"a tree asks for other columns than the {n_columns} that the model takes"
    if not (np.isfinite(tree.threshold[inner]).all() and np.isfinite(tree.value).all()):
        return "a tree has thresholds or values that are no numbers"
    return ""


def _slug(model: str) -> str:
    return re.sub(r"\W+", "_", model.lower())


def _card(model: Model, fitted: Fit, table: pd.DataFrame, study: Study, settings_hash: str) -> dict[str, Any]:
    settings = study.settings
    return {
        "model": model.name,
        "kind": ESTIMATORS[model.estimator].kind
        + (", after ComBat over scanners" if model.kind == "harmonised" else "")
        + (", with splines for age and lung function" if model.kind == "splines" else ""),
        "intended_use": USE,
        "limits": LIMITS,
        "study": settings.title,
        "trained_on": {
            "n_scans": len(table),
            "n_patients": int(table["patient_id"].nunique()),
            "n_deaths": int(table.loc[table["event_observed"].astype(bool), "patient_id"].nunique()),
            "weights": "every patient counts once, shared among the scans",
        },
        "horizons": [
            {"horizon_years": horizon, **counts, "note": fitted.notes.get(horizon, "")}
            for horizon, counts in fitted.counts.items()
        ],
        "horizons_years": list(fitted.horizons_years),
        "labels": settings.labels,
        "columns": fitted.columns,
        "columns_used": [str(name) for name in fitted.pipeline["scale"].get_feature_names_out()],
        "harmonised": fitted.harmonised,
        "category_shares": fitted.shares,
        "chosen_by_tuning": fitted.chosen,
        "settings": settings.tabular.model_dump(mode="json"),
        "seed": settings.seed,
        "settings_hash": settings_hash,
        "judged": JUDGED,
        "performance": "tables/performance.parquet of the same run, from tables/predictions/03_radiomics.parquet",
        "versions": {name: version(name) for name in ("sscct", "scikit-learn", "scikit-survival", "pyradiomics")},
    }


def _without_addresses(content: bytes) -> bytes:
    """Number the parts of a model file: skops names them by memory addresses and notes the time of writing."""
    numbers: dict[str, str] = {}
    order, written = count(), BytesIO()
    with ZipFile(BytesIO(content)) as found, ZipFile(written, "w") as numbered:
        schema = re.sub(r'(?<="__id__": )\d+', lambda _: str(next(order)), found.read(SCHEMA).decode())
        for name in dict.fromkeys(re.findall(r'(?<="file": ")[^"]+', schema)):
            numbers[name] = f"{len(numbers)}{Path(name).suffix}"
            numbered.writestr(ZipInfo(numbers[name]), found.read(name))
        schema = re.sub(r'(?<="file": ")[^"]+', lambda name: numbers[name[0]], schema)
        numbered.writestr(ZipInfo(SCHEMA), schema)
    return written.getvalue()


def _predict_with(path: Path, features: pd.DataFrame) -> pd.DataFrame:
    card, pipeline = load_model(path)
    try:
        return _risks(card, pipeline, features)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise StudyError(
            f"{path.stem}: the model and its card do not fit each other ({error}). Run `03_radiomics` again to make "
            "both anew."
        ) from error


def _risks(card: dict[str, Any], pipeline: Pipeline, features: pd.DataFrame) -> pd.DataFrame:
    other = set(features["settings_hash"]) - {card["settings_hash"]}
    if other:
        raise StudyError(
            f"The features were made with other settings than those of model {card['model']!r} "
            f"({', '.join(map(str, other))}, expected {card['settings_hash']}). Make them again with the sections "
            "`images` and `radiomics` of the study.yaml with which the model was trained."
        )
    columns = card["columns"]
    n_missing = design(features, columns, harmonised=False).isna().sum(axis=1)
    judged = features.assign(n_missing=n_missing)[n_missing < len(columns)]
    if judged.empty:
        return pd.DataFrame(columns=PREDICTED)
    wanted = (len(judged), len(card["horizons_years"]))
    risks = averaged_risks(pipeline, design(judged, columns, card["harmonised"]), card["category_shares"])
    if risks.shape != wanted or not ((risks >= 0) & (risks <= 1)).all():
        raise ValueError("what it gives are not risks of each scan at each horizon")
    return risk_table(judged[["scan_id", "n_missing"]], card["model"], card["horizons_years"], risk=risks)[PREDICTED]
