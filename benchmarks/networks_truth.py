"""Hold networks from scratch against clinical values, radiomics and the true risk, on a larger synthetic cohort.

`python benchmarks/networks_truth.py FOLDER [--patients 300] [--spacing 4] [--size 32] [--epochs 20] [--seed 7]` makes a
synthetic study in FOLDER, runs its notebooks up to 04 (a stopped one goes on where it was), and writes the table: AUC
of each model on patients that it never saw, its difference from clinical values alone, and the share that it attains
of what the true risk (the oracle) tells, each with an interval over patients. `--table-only` takes a finished run.

The cohort has another seed than the demo study, so that nothing is tuned on what the book shows.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from sscct_lib.horizons.comparison import attained, differences, true_risks
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.lungs.tables import usable_cohort
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.tables import read_predictions
from sscct_lib.study.words import years_text

REFERENCE = "Clinical"


def write_settings(folder: Path, given: argparse.Namespace) -> None:
    """Write the study's settings, unless it has some."""
    path = folder / "study.yaml"
    if path.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    network = {"size": given.size, "epochs": given.epochs}
    settings = {
        "title": "Networks against the truth",
        "seed": given.seed,
        "demo": {"n_patients": given.patients, "spacing_mm": given.spacing},
        "images": {"spacing_mm": given.spacing},
        "cohort": {"n_folds": 3},
        "radiomics": {"spacing_mm": given.spacing},
        "tabular": {"n_repeats": 1, "n_trees": 60, "compared_on": ["All features"]},
        "deep": {"preset": "demo", "resnet18": network, "densenet121": network, "swin": network, "n_explained": 1},
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def table(study: Study) -> pd.DataFrame:
    """Put AUC, difference from the reference and share of the oracle side by side, one row per model and horizon."""
    settings = study.settings
    cohort = usable_cohort(study)
    predictions, truth = read_predictions(study), true_risks(study, cohort)
    predictions = predictions[predictions["scan_id"].isin(cohort["scan_id"])]
    both = pd.concat([predictions, truth], ignore_index=True)
    keys = ["model", "horizon_years"]
    evaluation = Evaluation(cohort, both, settings)
    auc = evaluate(evaluation, ("auc",)).set_index(keys)
    counts = auc[["n_scans", "n_patients", "n_events"]]
    parts = {
        "auc": auc.rename(columns={"estimate": "auc"}),
        "more": differences(evaluation, REFERENCE, ("auc",)).rename(columns={"difference": "more"}),
        "attained": attained(Evaluation(cohort, predictions, settings), truth).rename(columns={"estimate": "attained"}),
    }
    columns = [
        part.reset_index().set_index(keys)[[name, "ci_low", "ci_high"]].add_prefix("" if name == "auc" else f"{name}_")
        for name, part in parts.items()
    ]
    named = pd.concat([counts, *columns], axis=1)
    return named.rename(columns={"more_more": "more", "attained_attained": "attained"}).reset_index()


def in_words(result: pd.DataFrame) -> pd.DataFrame:
    """Write each estimate with its interval, for the book."""

    def estimate(row: pd.Series, name: str, prefix: str) -> str:
        if pd.isna(row[name]):
            return ""
        return f"{row[name]:.2f} ({row[f'{prefix}ci_low']:.2f} to {row[f'{prefix}ci_high']:.2f})"

    return pd.DataFrame(
        {
            "model": result["model"],
            "horizon": [years_text(years) for years in result["horizon_years"]],
            "scans": result["n_scans"],
            "patients": result["n_patients"],
            "deaths": result["n_events"],
            "AUC": [estimate(row, "auc", "") for _, row in result.iterrows()],
            "more than clinical values": [estimate(row, "more", "more_") for _, row in result.iterrows()],
            "share of the attainable": [estimate(row, "attained", "attained_") for _, row in result.iterrows()],
        }
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--table-only", action="store_true", help="of a run that is finished")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not given.table_only:
        write_settings(given.folder, given)
        sscct = [sys.executable, "-m", "sscct_lib.cli"]
        subprocess.run([*sscct, "demo", str(given.folder)], check=True)
        for notebook in ("03_radiomics", "04_deep_models"):
            subprocess.run([*sscct, "run", str(given.folder), "--until", notebook], check=True)
    result = table(load_study(given.folder))
    print(result.round(3).to_string(index=False))
    if given.out:
        in_words(result).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
