"""Does ComBat take disease away together with the scanner, and what does a scanner do to features?

    python benchmarks/harmonisation.py [--patients 100] [--jobs 2]   # about 6 minutes of one core

Two cohorts of the same synthetic patients, whose disease is known: in one, scanners and kernels are drawn by chance; in
the other, patients with fibrosis of more than 8 % of the lungs are mostly on one scanner with its sharp kernel, and the
others on another one with its soft kernel. A ridge logistic regression tells these patients apart by quantitative CT
and PyRadiomics' features, on patients that it was not fitted on: in the cohort that it was fitted in, and in the other
one. `harmonisation.csv` holds the areas under the ROC curve, with and without ComBat and what it preserves.

The same anatomy is then drawn with a soft and a sharp kernel of one scanner. `kernels.csv` holds, for each class of
features, how many agree between the two, ICC(2,1), and which agree least. The book shows both tables.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from joblib import Parallel, delayed
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sscct_lib.demo.make import draw_scan
from sscct_lib.demo.patients import SCANNERS, demo_cohort
from sscct_lib.demo.render import Protocol, Volume, render
from sscct_lib.images.scanners import scanner
from sscct_lib.radiomics.combat import ComBat
from sscct_lib.radiomics.extract import extract
from sscct_lib.radiomics.pipeline import feature_agreement
from sscct_lib.study.settings import DemoSettings, RadiomicsSettings
from sscct_lib.study.words import feature_class, feature_name

SEED = 2026
SPACING_MM = 4.0
SCANS_PER_PATIENT = 2
N_KERNEL_PATIENTS = 40
FIBROSIS = 0.08
N_FOLDS, N_REPEATS, N_BOOTSTRAP = 5, 5, 500
PRESERVED = {
    "no ComBat": None,
    "ComBat": (),
    "ComBat, age and sex kept": ("age_years", "sex"),
    "ComBat, lung function kept too": ("age_years", "sex", "fvc_percent", "dlco_percent"),
}
BOOK = Path(__file__).parents[1] / "book"


def features_of(volume: Volume) -> dict[str, float]:
    """Features of a synthetic scan within its true lungs."""
    images = [sitk.GetImageFromArray(array) for array in (volume.hu, volume.lungs)]
    for image in images:
        image.SetSpacing([volume.spacing_mm] * 3)
        image.SetOrigin(volume.origin)
    return extract(*images, RadiomicsSettings(spacing_mm=SPACING_MM))


def cohort(n_patients: int, confounded: bool, n_jobs: int) -> pd.DataFrame:
    """The first scans of each patient: what a registry knows, features, scanner and true severity."""
    known, truth = demo_cohort(DemoSettings(n_patients=n_patients, confounded_scanner=confounded), SEED)
    few = known.groupby("patient_id").cumcount() < SCANS_PER_PATIENT
    known, truth = known[few].reset_index(drop=True), truth[few].reset_index(drop=True)
    rows = truth.to_dict("records")
    found = Parallel(n_jobs=n_jobs)(delayed(one_scan)(row) for row in rows)
    table = pd.concat([known, pd.DataFrame(found)], axis=1).astype({"fvc_percent": float, "dlco_percent": float})
    return table.assign(scanner=scanner(known), severe=truth["fibrosis"] > FIBROSIS)


def one_scan(row: dict) -> dict[str, float]:
    return features_of(draw_scan(row, SEED, SPACING_MM))


def model(features: list[str], preserve: tuple[str, ...] | None):
    """Harmonisation, imputation, scaling and ridge regression, all learned from the rows given to `fit`."""
    first = FunctionTransformer() if preserve is None else ComBat(features, preserve=preserve)
    chosen = FunctionTransformer(lambda table: table[features])
    ridge = LogisticRegression(C=0.01, max_iter=2000)
    return make_pipeline(first, chosen, SimpleImputer(), StandardScaler(), ridge)


def compare(by_chance: pd.DataFrame, by_severity: pd.DataFrame) -> pd.DataFrame:
    """Areas under the curve of held-out patients, for every way of training, harmonising and testing."""
    cohorts = {"by chance": by_chance, "by severity": by_severity}
    features = [name for name in by_chance if name.startswith(("original_", "qct_"))]
    rows = []
    for trained, train in cohorts.items():
        for way, preserve in PRESERVED.items():
            scores = {tested: np.zeros(len(table)) for tested, table in cohorts.items()}
            for repeat in range(N_REPEATS):
                folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=repeat)
                for fitted_on, _ in folds.split(train, train["severe"], train["patient_id"]):
                    seen = train.iloc[fitted_on]
                    fitted = model(features, preserve).fit(seen, seen["severe"])
                    for tested, table in cohorts.items():
                        new = ~table["patient_id"].isin(seen["patient_id"]).to_numpy()
                        scores[tested][new] += fitted.decision_function(table[new]) / N_REPEATS
            for tested, table in cohorts.items():
                auc = "{:.2f} ({:.2f} to {:.2f})".format(*area(table, scores[tested]))
                counts = {"scans": len(table), "patients": table["patient_id"].nunique()}
                rows.append({"trained on": trained, "tested on": tested, "harmonisation": way,
                             "AUC (95 % interval)": auc, **counts,
                             "with severe disease": int(table["severe"].sum())})  # fmt: skip
    return pd.DataFrame(rows)


def area(table: pd.DataFrame, score: np.ndarray) -> tuple[float, float, float]:
    """Area under the curve with its interval by bootstrap of patients."""
    severe = table["severe"].to_numpy()
    rows_of = list(table.groupby("patient_id").indices.values())
    rng = np.random.default_rng(0)
    drawn = [
        np.concatenate([rows_of[i] for i in rng.integers(0, len(rows_of), len(rows_of))]) for _ in range(N_BOOTSTRAP)
    ]
    areas = [roc_auc_score(severe[rows], score[rows]) for rows in drawn if 0 < severe[rows].sum() < len(rows)]
    return roc_auc_score(severe, score), *np.quantile(areas, [0.025, 0.975])


def kernels(n_jobs: int) -> pd.DataFrame:
    """Agreement of each feature between a soft and a sharp kernel of one scanner, of the same breath-hold."""
    _, truth = demo_cohort(DemoSettings(n_patients=N_KERNEL_PATIENTS), SEED)
    first = truth.drop_duplicates("patient_id").to_dict("records")
    versions = pd.DataFrame(
        [row for pair in Parallel(n_jobs=n_jobs)(delayed(both)(row) for row in first) for row in pair]
    )
    return by_class(feature_agreement(versions))


def by_class(agreement: pd.DataFrame) -> pd.DataFrame:
    """Count the features of each class that agree, and name the one that agrees least."""
    classes = agreement.groupby(agreement["feature"].map(feature_class))
    rows = []
    for name, features in classes:
        least = features.loc[features["icc"].idxmin()]
        interval = f"{least['icc']:.2f} ({least['ci_low']:.2f} to {least['ci_high']:.2f})"
        row = {"class": name, "features": len(features), "ICC of 0.75 or more": int((features["icc"] >= 0.75).sum())}
        row |= {"median ICC": f"{features['icc'].median():.2f}", "least": feature_name(least["feature"])}
        rows.append({**row, "its ICC (95 % interval)": interval})
    return pd.DataFrame(rows)


def both(row: dict) -> list[dict]:
    scanner_of = SCANNERS[2]
    soft = Protocol(False, scanner_of.soft_blur_mm, scanner_of.soft_noise_hu, 1.0, float(row["inspiration"]))
    sharp = replace(soft, sharp=True, blur_mm=scanner_of.sharp_blur_mm, noise_hu=scanner_of.sharp_noise_hu)
    patient = (SEED, int(row["patient_number"]), row["sex"] == "female")
    return [
        {"scan_id": row["scan_id"], "patient_id": row["patient_id"], "version": name,
         **features_of(render(patient, row, protocol, SPACING_MM, [SEED, patient[1], 6, 1]))}
        for name, protocol in (("soft", soft), ("sharp", sharp))
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    between = kernels(given.jobs)
    between.to_csv(BOOK / "kernels.csv", index=False)
    print(between.to_string())
    table = compare(*(cohort(given.patients, confounded, given.jobs) for confounded in (False, True)))
    table.to_csv(BOOK / "harmonisation.csv", index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
