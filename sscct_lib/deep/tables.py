"""What was trained: tables of the deep models of a run, from the cards that lie beside them."""

from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.deep.prediction import cards
from sscct_lib.study.disclosure import count_text, is_small, of_patients
from sscct_lib.study.folder import Study
from sscct_lib.study.words import NETWORK_WORDS, percent_text, span_text, years_text

MODEL_COLUMNS = ["model", "network", "weights", "fold", "member", "size", "n_parameters", "n_patients", "n_scans"]
MODEL_COLUMNS += ["n_deaths", "not_estimable", "loss_tested", "loss_tested_without_image", "seconds", "waiting_share"]


def model_table(study: Study) -> pd.DataFrame:
    """List the deep models of a run, one row per fold and member.

    Returns
    -------
    pandas.DataFrame
        `model`, `network`, `weights`, `fold`, `member`, `size` (voxels per side), `n_parameters`; of the training
        `n_patients`, `n_scans`, `n_deaths`, `not_estimable` (horizons within which none of these patients died, or
        empty); `loss_tested` on the fold's patients and `loss_tested_without_image`, when every scan of theirs gets the
        risks of the training patients; `seconds` of training, and `waiting_share`, the share of these spent on reading
        and changing the next scans.
    """
    rows = []
    for card in (card for name in study.settings.deep.networks for card in cards(study, name)):
        deaths = {"n_deaths": sum(card["n_deaths"]), "not_estimable": _horizons_without_deaths(card)}
        told = card | deaths | {"size": card["settings"]["size"]}
        rows.append({name: told[name] for name in MODEL_COLUMNS})
    return pd.DataFrame(rows)


def _horizons_without_deaths(card: dict[str, Any]) -> str:
    deaths = zip(card["horizons_years"], np.cumsum(card["n_deaths"]), strict=True)
    return ", ".join(years_text(horizon) for horizon, n in deaths if n == 0)


def findings(models: pd.DataFrame) -> str:
    """Say of each deep model (`model_table`) in how many fits the image told something of patients never seen."""
    better = (models["loss_tested"] < models["loss_tested_without_image"]).groupby(models["model"], sort=False)
    told = [f"{model} in {n} of {of}" for model, n, of in better.agg(["sum", "size"]).itertuples()]
    return (
        "On patients whom it never saw, a network had a lower loss than one risk for everybody: "
        f"{', '.join(told)} fits. Where most fits had not, the network learned nothing of use from the images."
    )


def summary(models: pd.DataFrame) -> pd.DataFrame:
    """Put the folds of each deep model (`model_table`) in one row, for readers; a range where folds differ."""
    titles = {
        "weights": "Weights",
        "n_parameters": "Parameters",
        "size": "Side, voxels",
        "n_patients": "Training patients",
        "n_scans": "Training scans",
        "n_deaths": "Scans followed by death",
    }
    folds = models.groupby("model", sort=False)
    table = folds[list(titles)[1:]].agg(span_text)
    table.insert(0, "weights", folds["weights"].first())
    table["Seconds per fold"] = folds["seconds"].mean().map("{:,.0f}".format)
    waiting = folds["waiting_share"].mean() * 100
    table["Waiting for data"] = waiting.map("{:.0f} %".format)
    # A fold that cannot learn a horizon takes it from the whole model.
    lost = folds["not_estimable"].agg(lambda told: max(told, key=len))
    if lost.any():
        table["Not estimable"] = lost
    return table.rename(columns=titles).rename_axis("Model")


def learning_curves(study: Study) -> pd.DataFrame:
    """Give the training loss of every deep model of a run: `model`, `fold`, `member`, `epoch`, `loss`."""
    return pd.DataFrame(
        [
            {**{name: card[name] for name in ("model", "fold", "member")}, "epoch": epoch, "loss": loss}
            for network in study.settings.deep.networks
            for card in cards(study, network)
            for epoch, loss in enumerate(card["loss"], start=1)
        ]
    )


def weights_table(study: Study) -> pd.DataFrame:
    """List the pretrained weights of each model of a run, and what of them was used, a row per model and file.

    Tensors of the encoder that were `Matched` and `Missing` in it, `Unexpected` tensors of the file, the beginning of
    its SHA-256, and its licence where it is known. Empty when all start from scratch.
    """
    rows = {
        (card["model"], loaded["sha256"]): {
            "Model": card["model"],
            "File": loaded["file"],
            "Matched": loaded["n_matched"],
            "Missing": loaded["n_expected"] - loaded["n_matched"],
            "Unexpected": loaded["n_unexpected"],
            "SHA-256": loaded["sha256"][:12] + "…",
            "Licence": card["weights_licence"],
        }
        for name in study.settings.deep.networks
        for card in cards(study, name)
        if (loaded := card["weights_loaded"])
    }
    return pd.DataFrame(list(rows.values()))


def crossings(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count the scans whose risk (schema `PREDICTIONS`) falls from one horizon to a later one, which no true risk does.

    One row per model: `Scans`, `Risks that cross`, and `Largest fall`, in percentage points. Hazards give 0 by
    construction; separate classifiers may not.
    """
    rows = {}
    for model, own in predictions.groupby("model", sort=False):
        wide = own.pivot(index="scan_id", columns="horizon_years", values="risk").sort_index(axis=1)
        fall = (-wide.diff(axis=1).min(axis=1)).clip(lower=0).fillna(0)
        rows[model] = {
            "Scans": len(wide),
            "Risks that cross": int((fall > 0).sum()),
            "Largest fall": f"{100 * fall.max():.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Model")


def flag_counts(unusual: pd.DataFrame, share: float) -> pd.DataFrame:
    """Count the scans and patients that each network flags (schema `UNUSUAL`), beside the share expected."""
    rows, expected = {}, percent_text(share)
    for network, own in unusual.groupby("network", sort=False):
        flagged = own[own["unusual"]]
        rows[NETWORK_WORDS[str(network)]] = {
            "Scans": len(own),
            "Flagged": _flagged(len(flagged), len(own), flagged["patient_id"].nunique()),
            "Of patients": " of ".join(count_text(rows["patient_id"].nunique()) for rows in (flagged, own)),
            "Expected of ordinary scans": expected if own["threshold"].max() < float("inf") else "too few patients",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Network")


def _flagged(n: int, n_scans: int, n_patients: int) -> str:
    return of_patients(n, n_patients) + ("" if is_small(n_patients) else f" ({percent_text(n / n_scans, 1)})")


def flagged_scans(unusual: pd.DataFrame) -> pd.DataFrame:
    """List the flagged scans, the farthest first: how far, as a multiple of the threshold, and why, in words."""
    flagged = unusual[unusual["unusual"]]
    ratio = (flagged["distance"] / flagged["threshold"]).sort_values(ascending=False)
    distance = ratio.map("{:.2f} times the threshold".format)
    table = flagged.loc[ratio.index].assign(network=flagged["network"].map(NETWORK_WORDS), distance=distance)
    titles = {"scan_id": "Scan", "reasons": "What is unusual", "distance": "Distance", "network": "Network"}
    return table[list(titles)].rename(columns=titles)


def flag_sentence(unusual: pd.DataFrame, scan_id: str) -> str:
    """Say beside an explained risk whether a network finds the scan unlike its training scans; empty if none flags."""
    own = unusual[unusual["scan_id"] == scan_id]
    if own.empty:
        return ""
    networks = [NETWORK_WORDS[str(name)] for name in own.loc[own["unusual"], "network"]]
    if not networks:
        return f"Scan {scan_id} is not flagged above as unlike the training scans."
    return (
        f"**Scan {scan_id} is flagged above as unlike the training scans ({', '.join(networks)}): the highest risk of "
        "the run is also one that deserves less trust.**"
    )
