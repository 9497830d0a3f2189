"""The page of model cards: what each saved model is, learned from, is for, and how well it did."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from sscct_lib.card_texts import FOLDER, LIMITS, USE
from sscct_lib.schemas import PERFORMANCE
from sscct_lib.study import Study
from sscct_lib.summary import estimate_text, years_text
from sscct_lib.tables import read_table
from sscct_lib.wording import in_words

NONE = "This run has saved no model.\n"
NOT_JUDGED = "not judged in this run"
LEFT_OUT = ("weights", "weights_sha256")
MOST_COLUMNS = 8
LABEL_WORDS = {
    "censored_unknown": "unknown there, not alive",
    "as_published": "counted as alive, as presumably published",
}


def page(study: Study) -> str:
    """Write a card for each saved model of a run, in MyST Markdown.

    Parameters
    ----------
    study
        The study and run.

    Returns
    -------
    str
        One section a model: the networks of all folds are one model.
    """
    performance = (
        read_table(study.table("performance"), PERFORMANCE, "05_horizons")
        if study.table("performance").is_file()
        else pd.DataFrame(columns=list(PERFORMANCE.columns))
    )
    tabular = [json.loads(path.read_text(encoding="utf-8")) for path in _paths(study, FOLDER)]
    networks: dict[str, list[dict[str, Any]]] = {}
    for path in _paths(study, "deep"):
        card = json.loads(path.read_text(encoding="utf-8"))
        networks.setdefault(card["model"], []).append(card)
    sections = [_tabular(card, performance) for card in sorted(tabular, key=lambda card: str(card["model"]))]
    sections += [_network(name, cards, performance) for name, cards in sorted(networks.items())]
    head = (
        "# Model cards\n\nOne card for each model that this run saved; `sscct predict` uses them. Performance is that "
        "of the same recipe out of fold, on patients that the tested model never saw, with 95 % intervals. Each file "
        "is checked against its SHA-256 before it is used.\n\n"
        f"**Intended use.** {USE}\n\n**Limits.** {LIMITS}\n"
    )
    return "\n".join([head, *sections]) if sections else f"{head}\n{NONE}"


def _paths(study: Study, folder: str) -> list[Any]:
    return sorted((study.models / folder).glob("[!.]*.json"))


def _tabular(card: Mapping[str, Any], performance: pd.DataFrame) -> str:
    learned = card["trained_on"]
    tuned = ", ".join(f"{name} {value:g}" for name, value in card["chosen_by_tuning"].items() if _is_number(value))
    used = card["columns_used"]
    rows = {
        "Kind": card["kind"],
        "Learned from": f"{learned['n_scans']:,} scans of {learned['n_patients']:,} patients, {learned['n_deaths']} of "
        f"whom died; {learned['weights']}",
        "Sees": f"{len(card['columns'])} columns; weighs {len(used)} numbers made and chosen of them: {_few(used)}",
        "Chosen by tuning": tuned or "nothing",
        "Not followed to a horizon": LABEL_WORDS[card["labels"]],
        **_performance(str(card["model"]), performance),
        "Settings of features": f"`{card['settings_hash']}`",
        "SHA-256": f"`{card['sha256']}`",
        "Software": ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    }
    return _section(str(card["model"]), rows)


def _network(name: str, cards: list[dict[str, Any]], performance: pd.DataFrame) -> str:
    first = cards[0]
    settings = {key: value for key, value in first["settings"].items() if key not in LEFT_OUT and value is not None}
    deaths = [card["n_deaths"] for card in cards]
    rows = {
        "Kind": f"network {first['network']}, {first['n_parameters'] / 1e6:.1f} million parameters; {len(cards)} "
        "models, one for each fold and member, whose mean predicts",
        "Learned from": f"{_span([card['n_scans'] for card in cards])} scans of "
        f"{_span([card['n_patients'] for card in cards])} patients a model; followed by death up to the longest "
        f"horizon: {_span([sum(each) for each in deaths])} scans",
        "Weights at the start": first["weights"],
        "Sees": f"the lungs from {first['hu_range'][0]:g} to {first['hu_range'][1]:g} HU",
        "Settings": ", ".join(f"{key} {value:g}" for key, value in settings.items() if _is_number(value)),
        "Not followed to a horizon": LABEL_WORDS[first["labels"]],
        **_performance(name, performance),
        "SHA-256": "<br>".join(f"fold {card['fold']}, member {card['member']}: `{card['sha256']}`" for card in cards),
        "Software": ", ".join(f"{key} {version}" for key, version in first["versions"].items()),
    }
    return _section(name, rows)


def _performance(model: str, performance: pd.DataFrame) -> dict[str, str]:
    """Write AUC and calibration at each horizon, with the counts behind them."""
    rows = performance[performance["model"] == model]
    found: dict[str, str] = {}
    for horizon in sorted(rows["horizon_years"].unique()):
        at = rows[rows["horizon_years"] == horizon].set_index("metric")
        if not {"auc", "observed_expected"} <= set(at.index):
            continue
        numbers = at[["estimate", "ci_low", "ci_high"]].astype(float).to_dict("index")
        said = [estimate_text(*numbers[metric].values()) for metric in ("auc", "observed_expected")]
        counts = at[["n_events", "n_scans", "n_patients", "n_unknown"]].to_dict("index")["auc"]
        found[f"Within {years_text(horizon)}"] = (
            f"AUC {said[0]}; died : expected {said[1]}; of {counts['n_scans']:,} scans of {counts['n_patients']:,} "
            f"patients {counts['n_events']:,} followed by death, {counts['n_unknown']:,} unknown"
        )
    return found or {"Performance": NOT_JUDGED}


def _section(name: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {what} | {words} |" for what, words in rows.items()]
    return "\n".join([f"## {name}", "", "| What | Of this model |", "|---|---|", *lines, ""])


def _few(names: list[str]) -> str:
    shown = "; ".join(in_words(name) for name in names[:MOST_COLUMNS])
    return shown + (f"; and {len(names) - MOST_COLUMNS} more" if len(names) > MOST_COLUMNS else "")


def _span(counts: list[int]) -> str:
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
