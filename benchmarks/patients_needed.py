"""How many patients does a model need? The same models on ever larger parts of a simulated study.

    python benchmarks/patients_needed.py STUDY [--jobs 2]

STUDY is a demo study whose features are made: `sscct demo STUDY`, then `sscct run STUDY --until 03_radiomics`. The
table in the book is of the last 290 of the 577 patients that `demo: {n_patients: 577, spacing_mm: 4.0}` makes, with
images and features at 4 mm too. Patients are drawn at random, and models are cross-validated among them alone. They are
judged by the true risk of death: the AUC that their predictions are expected to have, so that chance in the outcomes of
the tested patients does not matter, only in those of the training patients. Shown is the share of the attainable,
(AUC - 0.5) over that of the true risk itself: mean of five draws, lowest and highest.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sscct_lib.cohort.selection import assign_folds
from sscct_lib.horizons import comparison
from sscct_lib.horizons.sensitivity import expected_auc
from sscct_lib.radiomics import cross_validation, feature_sets
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.schemas import COHORT, RADIOMICS
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import years_text

SIZES = (40, 75, 150, 290)
N_DRAWS = 5
SETS = ("Clinical", "Quantitative CT", "Clinical + quantitative CT", "Radiomics")
OUT = Path(__file__).parents[1] / "book" / "patients_needed.csv"


def draw(study: Study, table: pd.DataFrame, n_patients: int, number: int) -> tuple[Study, pd.DataFrame]:
    """Draw patients with all of their scans, and divide them into folds of their own."""
    chosen = study.settings.tabular.model_copy(
        update={"feature_sets": SETS, "compared_on": (), "n_repeats": 1, "n_trees": 10}
    )
    settings = study.settings.model_copy(update={"seed": study.settings.seed + number, "tabular": chosen})
    study = replace(study, settings=settings)
    patients = np.random.default_rng(number).permutation(table["patient_id"].unique())[:n_patients]
    part = table[table["patient_id"].isin(patients)].reset_index(drop=True)
    return study, part.assign(fold=assign_folds(part, study))


def shares(study: Study, part: pd.DataFrame, jobs: int) -> pd.DataFrame:
    """Share of the attainable, a row per model and horizon; none where a model could not be fitted."""
    predictions = cross_validation.cross_validate(part, study, n_jobs=jobs).predictions
    truth = comparison.true_risks(study, part)
    rows = []
    for (model, horizon, _), found in predictions.groupby(["model", "horizon_years", "repeat"]):
        known = truth[truth["horizon_years"] == horizon].set_index("scan_id").loc[found["scan_id"], "risk"].to_numpy()
        fit = found["fold"].to_numpy()
        share = (expected_auc(found["risk"].to_numpy(), fit, known) - 0.5) / (expected_auc(known, fit, known) - 0.5)
        rows.append({"model": model, "horizon_years": horizon, "share": share})
    return pd.DataFrame(rows).groupby(["model", "horizon_years"], sort=False)["share"].mean().reset_index()


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """A row per model and horizon, a column a size: mean over the draws, lowest and highest."""
    grouped = found.groupby(["model", "horizon_years", "patients"])["share"]
    text = grouped.agg(lambda share: f"{share.mean():.2f} ({share.min():.2f} to {share.max():.2f})").unstack("patients")
    deaths = found.groupby("patients")["patients_who_died"].mean().round().astype(int)
    text.columns = [f"{size} patients, {deaths[size]} died" for size in text.columns]
    text = text.reset_index().sort_values(["horizon_years", "model"])
    return text.assign(horizon_years=text["horizon_years"].map(years_text)).rename(columns={"horizon_years": "horizon"})


def main() -> None:
    """Draw, cross-validate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    study = load_study(arguments.study)
    cohort = read_table(study, "cohort", COHORT)
    table = feature_sets.join(cohort, read_table(study, "radiomics", RADIOMICS))
    found = []
    for size in SIZES:
        for number in range(N_DRAWS):
            drawn, part = draw(study, table, size, number)
            died = part.loc[part["event_observed"], "patient_id"].nunique()
            found.append(shares(drawn, part, arguments.jobs).assign(patients=size, patients_who_died=died))
            print(size, number, len(part), died, flush=True)
    result = wide(pd.concat(found, ignore_index=True))
    result.to_csv(OUT, index=False)
    print(result.to_string(index=False))


if __name__ == "__main__":
    main()
