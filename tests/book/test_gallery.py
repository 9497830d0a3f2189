"""The scans of the gallery follow its rules, and stay few."""

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from sscct_lib.book import gallery
from sscct_lib.book.chapters import filled
from sscct_lib.horizons.models import STACKED
from sscct_lib.study.settings import Settings

SETTINGS = Settings(horizons_years=(1.0, 5.0))


def tables(n_patients: int, scans_each: int = 1, seed: int = 0):
    random = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:04d}" for i in range(n_patients)], scans_each)
    number = np.tile(np.arange(scans_each), n_patients)
    died = np.repeat(random.random(n_patients) < 0.5, scans_each)
    cohort = pd.DataFrame(
        {
            "scan_id": [f"{patient}-{i}" for patient, i in zip(patients, number, strict=True)],
            "patient_id": patients,
            "scan_day": 100 * number,
            "followup_years": np.where(died, 2.0, 7.0),
            "event_observed": died,
            "label_1y": pd.array([0] * len(patients), dtype="Int8"),
            "label_5y": pd.array(died.astype(int), dtype="Int8"),
        }
    )
    frames = [
        cohort[["scan_id", "patient_id"]].assign(model=model, horizon_years=5.0, risk=random.random(len(cohort)))
        for model in ("Clinical", "Radiomics", "A model of no source")
    ]
    lungs = cohort[["scan_id", "patient_id"]].assign(verdict="pass", findings="", flags="")
    return pd.concat(frames, ignore_index=True), lungs, cohort


def chosen(predictions, lungs, cohort) -> dict[str, list[str]]:
    table = gallery.choose_scans(predictions, lungs, cohort, SETTINGS)
    assert list(table.columns) == gallery.COLUMNS
    return {str(rule): rows["scan_id"].tolist() for rule, rows in table.groupby("rule")}


def test_extremes_are_those_of_a_plain_search():
    predictions, lungs, cohort = tables(60)
    main = predictions[predictions["model"] != "A model of no source"]
    risk = main.groupby("scan_id")["risk"].mean()
    died = cohort.set_index("scan_id")["event_observed"]
    found = chosen(predictions, lungs, cohort)
    assert found[gallery.RIGHT] == [risk[died].idxmax(), risk[~died].idxmin()]
    assert found[gallery.WRONG] == [risk[~died].idxmax(), risk[died].idxmin()]
    spread = main.groupby("scan_id")["risk"].agg(np.ptp).nlargest(2)
    assert found[gallery.UNCERTAIN] == list(spread.index)


def test_of_the_explained_scans_those_with_the_highest_risk_are_shown_one_a_patient():
    predictions, lungs, cohort = tables(20, scans_each=2)
    explained = cohort["scan_id"].iloc[::3]
    table = gallery.choose_scans(predictions, lungs, cohort, SETTINGS, explained)
    risk = predictions[predictions["model"] != "A model of no source"].groupby("scan_id")["risk"].mean()[explained]
    of_patients = risk.groupby(risk.index.str[:5]).idxmax()
    expected = risk[of_patients].nlargest(2).index.tolist()
    assert table.loc[table["rule"] == gallery.EXPLAINED, "scan_id"].tolist() == expected
    assert gallery.EXPLAINED not in chosen(predictions, lungs, cohort)
    without = predictions[~predictions["scan_id"].isin(explained)]
    table = gallery.choose_scans(without, lungs, cohort, SETTINGS, explained)  # their maps are there all the same
    assert table.loc[table["rule"] == gallery.EXPLAINED, "risk"].isna().tolist() == [True, True]


def test_failed_masks_come_first_and_a_patient_who_died_is_followed():
    predictions, lungs, cohort = tables(20, scans_each=6)
    lungs.loc[3, ["verdict", "findings", "flags"]] = ["review", "odd", "a b"]
    lungs.loc[50, ["verdict", "findings", "flags"]] = ["fail", "leak", "a"]
    table = gallery.choose_scans(predictions, lungs, cohort, SETTINGS)
    masks = table[table["rule"] == gallery.MASKS]
    assert masks["scan_id"].tolist() == [lungs.loc[50, "scan_id"], lungs.loc[3, "scan_id"]]
    assert masks["findings"].tolist() == ["leak", "odd"]
    series = table[table["rule"] == gallery.OVER_TIME]
    assert len(set(series["patient_id"])) == 1
    assert series["state"].str.startswith("died").all()
    assert [scan_id[-1] for scan_id in series["scan_id"]] == ["0", "1", "3", "5"]


@pytest.mark.parametrize("n_patients", [1, 2, 5, 640])
def test_the_gallery_stays_small(n_patients):
    predictions, lungs, cohort = tables(n_patients, scans_each=3)
    lungs["verdict"] = "fail"
    assert 0 < len(gallery.choose_scans(predictions, lungs, cohort, SETTINGS, cohort["scan_id"])) <= 15


def test_without_predictions_masks_and_the_course_of_a_patient_are_left():
    predictions, lungs, cohort = tables(5, scans_each=2)
    lungs.loc[0, "verdict"] = "review"
    assert set(chosen(predictions.head(0), lungs, cohort)) == {gallery.MASKS, gallery.OVER_TIME}


def test_a_horizon_at_which_nobody_is_known_to_have_died_is_not_shown():
    predictions, lungs, cohort = tables(30)
    cohort["label_5y"] = pd.array([0] * len(cohort), dtype="Int8")
    cohort["label_1y"] = pd.array([0, 1] * 15, dtype="Int8")
    both = pd.concat([predictions, predictions.assign(horizon_years=1.0)])
    assert set(gallery.choose_scans(both, lungs, cohort, SETTINGS)["horizon_years"]) == {1.0}


def test_a_scan_has_the_stacked_risk_of_the_front_page_where_the_run_has_one():
    predictions, lungs, cohort = tables(20)
    stacked = predictions[predictions["model"] == "Clinical"].assign(model=STACKED, risk=0.123)
    table = gallery.choose_scans(pd.concat([predictions, stacked], ignore_index=True), lungs, cohort, SETTINGS)
    assert table["risk"].eq(0.123).all()
    assert (table["lowest"] != 0.123).all()


def test_ids_and_words_on_the_page_cannot_be_read_as_html():
    scan = {"id": '"><b>', "words": "odd <script>", "is_first": True}
    parts = [
        {"rule": "A rule", "words": "", "side_by_side": True, "scans": [scan | {"file": name}]} for name in ("x", "")
    ]
    page = filled("gallery.md", viewer=True, parts=parts, has_files=False)
    assert page.count("odd &lt;script&gt;") == 3  # two captions, and what the viewer shows
    assert "<b>" not in page
    assert "<script>" not in page
    with pytest.raises(UndefinedError):  # a value that a template lacks is no blank
        filled("gallery.md", viewer=True, parts=parts)
