"""The tables of notebook 03, as readers see them."""

import numpy as np
import pandas as pd

from sscct_lib.study.disclosure import count_text
from sscct_lib.study.words import feature_name, feature_unit, p_text, years_text

DECIMALS = {"litres": 2, "HU": 0, "%": 1}
SHARE = "_share"


def quantitative_ct(features: pd.DataFrame) -> pd.DataFrame:
    """Describe the quantitative CT of a cohort, a row per measure in words.

    `unit`, the median and the 10th and 90th percentile over scans as text, and how many `scans` have it. Shares of the
    lung are in per cent.
    """
    measures = features[features["status"] == "ok"].filter(regex="^qct_").astype(float)
    rows = []
    for name in map(str, measures):
        unit = "%" if SHARE in name else feature_unit(name)
        factor = 100 if SHARE in name else 1
        ends = (factor * measures[name].quantile(share) for share in (0.5, 0.1, 0.9))
        texts = ["not known" if pd.isna(value) else f"{value:z.{DECIMALS.get(unit, 2)}f}" for value in ends]
        rows.append((feature_name(name), unit, *texts, int(measures[name].notna().sum())))
    columns = ["measure", "unit", "median", "one in ten below", "one in ten above", "scans"]
    return pd.DataFrame(rows, columns=columns).set_index("measure")


def saved_models(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out what the saved models (`saved.save_models`) learned from, a row per model.

    A column per horizon, with the deaths among the scans of known state, their patients, and the scans of unknown
    state; the size of the file, and a note where there is one.
    """
    texts = []
    for row in table.to_dict("records"):
        known = row.get("n_scans")
        counts = "not fitted" if known is None or pd.isna(known) else (
            f"{count_text(row['n_events'])} of {count_text(known)} ({count_text(row['n_patients'])} patients; "
            f"{count_text(row['n_unknown'])} unknown)"
        )  # fmt: skip
        texts.append(counts)
    shown = table.assign(text=texts, horizon=[f"{years_text(years)}: died" for years in table["horizon_years"]])
    wide = shown.pivot(index="model", columns="horizon", values="text")
    wide = wide.reindex(index=shown["model"].unique(), columns=shown["horizon"].unique())
    by_model = shown.groupby("model", sort=False)
    if "megabytes" in table:
        wide["file, MB"] = by_model["megabytes"].first().map("{:.1f}".format, na_action="ignore").fillna("")
    notes = by_model["note"].agg(lambda said: "; ".join(dict.fromkeys(filter(None, said.fillna("")))))
    if notes.ne("").any():
        wide["note"] = notes
    return wide.rename_axis(columns=None)


def fitting_notes(notes: pd.DataFrame) -> pd.DataFrame:
    """Gather what could not be fitted (`model`, `horizon_years`, `note`): one row for several models in the same fits.

    `models`, `horizons`, `fits` (how many, of each model and horizon), `what happened`.
    """
    keys = ["model", "horizon_years", "note"]
    fits = notes.groupby(keys, sort=False).size().rename("fits").reset_index()
    fits["horizons"] = [years_text(years) for years in fits["horizon_years"].astype(float)]
    by_model = fits.groupby(["model", "fits", "note"], sort=False)["horizons"].agg(", ".join).reset_index()
    rows = by_model.groupby(["horizons", "fits", "note"], sort=False)["model"].agg("; ".join).reset_index()
    shown = rows.rename(columns={"model": "models", "note": "what happened"})
    return shown[["models", "horizons", "fits", "what happened"]]


def hazards_over_time(tested: pd.DataFrame) -> pd.DataFrame:
    """Lay out `explain.proportional_hazards` for readers: whether what a value tells changes with time."""
    told = np.where(tested["grows"].astype(bool), "tells more as time goes on", "tells less as time goes on")
    return pd.DataFrame(
        {
            "Clinical value": tested["feature"].map(feature_name),
            "Hazard ratio, 1 SD": tested["hazard_ratio"].map("{:.2f}".format),
            "p": tested["p"].map(p_text),
            "Patients (died)": tested["n_patients"].map(count_text) + " (" + tested["n_events"].map(count_text) + ")",
            "In words": np.where(tested["p"] < 0.05, told, "no sign of a change"),
        }
    ).set_index("Clinical value")


def always_chosen(weights: pd.DataFrame) -> str:
    """Say which features every fit of a model chose, by `explain.feature_weights`; empty where nothing was fitted."""
    if weights.empty:
        return ""
    chosen = weights.assign(chosen=weights["coefficient"] != 0).groupby("feature", sort=True)["chosen"].all()
    names = [feature_name(str(name)) for name in chosen.index[chosen]]
    if not names:
        return "No feature was chosen by every fit: no single weight of this run is a finding."
    return f"Chosen by every fit: {'; '.join(names)}."
