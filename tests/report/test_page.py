"""Pages on single scans: small, odd and large studies each give a page, and the page says what it knows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sscct_lib.book import gallery
from sscct_lib.horizons import decisions, evaluate
from sscct_lib.horizons import models as horizon_models
from sscct_lib.horizons import patients as horizon_patients
from sscct_lib.horizons.decisions import risks_in_words
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.report import evidence, page
from sscct_lib.report import figure as report_figure
from sscct_lib.report.evidence import Likeness
from sscct_lib.report.page import Prediction, fields_described, prediction_of
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import UNUSUAL
from sscct_lib.study.settings import HorizonSettings, Settings
from sscct_lib.study.words import percent_text
from tests.horizons.cohorts import make_cohort, make_predictions

NOT_FLAGGED = pd.DataFrame(columns=list(UNUSUAL.columns))
FEW = Settings(title="A study", horizons=HorizonSettings(n_bootstrap=20))
CLINICAL = {"age_years": 60.0, "sex": "female", "fvc_percent": np.nan}


def tables_of(cohort, models=("Radiomics", "Clinical")):
    lungs = pd.DataFrame(
        {"scan_id": cohort["scan_id"], "verdict": "pass", "findings": "", "high_attenuation_share": 0.1}
    )
    features = cohort[["scan_id", "patient_id"]].assign(
        status="ok", reason="", settings_hash="x", qct_mean_hu=np.linspace(-850, -700, len(cohort))
    )
    given = pd.concat([make_predictions(cohort, model=name) for name in models], ignore_index=True)
    return page.Tables(cohort, lungs, features, given, NOT_FLAGGED)


def report_of(tables, tmp_path, known=None, lungs=None, settings=FEW):
    own = tables.cohort.iloc[0]
    known, lungs = {"qct_mean_hu": -800.0, **(known or CLINICAL)}, lungs or {"verdict": "pass", "findings": ""}
    risks = tables.predictions[tables.predictions["scan_id"] == own["scan_id"]]
    scan = page.Scan(own["scan_id"], own["patient_id"], known, lungs, risks)
    return page.build(Study(tmp_path, settings), tables, scan, None, None), scan


def words_of(figure):
    figure.canvas.draw()
    axes = [text.get_text() for axis in figure.axes for text in [*axis.texts, axis.title, axis.xaxis.label]]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    return "\n".join([*(text.get_text() for text in figure.texts), *axes, *titles])


def test_a_page_says_who_how_sure_and_what_is_missing(tmp_path):
    tables = tables_of(make_cohort(60))
    report, _ = report_of(tables, tmp_path)
    assert report.model == "Radiomics"
    text = words_of(report_figure.scan_page(report))
    for expected in ("Research use, not for care", "FVC: not known", "DLCO: not known", "age: 60", "A study"):
        assert expected in text
    assert "synthetic" not in text
    own = report.risks[(report.risks["model"] == "Radiomics") & (report.risks["horizon_years"] == 3)]["risk"].item()
    assert report.lower == pytest.approx((report.cohort_risks < own).mean())
    assert percent_text(own) in text


def test_failed_masks_and_strangers_are_warned_of_on_the_page(tmp_path):
    tables = tables_of(make_cohort(60))
    lungs = {"verdict": "fail", "findings": "the mask leaks into the bowel"}
    report, _ = report_of(tables, tmp_path, {"qct_mean_hu": -300.0}, lungs)
    text = words_of(report_figure.scan_page(report))
    assert "leaks into the bowel" in " ".join(text.split())
    assert "No risk of this scan can be trusted" in " ".join(text.split())
    assert "unlike those that the models learned from" in " ".join(text.split())


def test_warnings_come_in_the_order_of_their_weight(tmp_path):
    tables = tables_of(make_cohort(60))
    own = tables.cohort.iloc[0]
    risks = tables.predictions[tables.predictions["scan_id"] == own["scan_id"]]
    scan = page.Scan(page.NEW, None, {"qct_mean_hu": -300.0}, {"verdict": "fail", "findings": "a leak"}, risks)
    said = ("No ensemble risk", page.strange("resnet18", "far away"), page.ANYWAY)
    report = page.build(Study(tmp_path, FEW), tables, scan, None, None, said)
    assert report.warnings[0] == page.ANYWAY
    assert report.warnings[1].startswith("The lung mask failed its checks: a leak.")
    assert report.warnings[2].startswith("To ResNet-18 the scan is unlike")
    assert report.warnings[3].startswith("The scan is unlike those that the models learned from")
    assert report.warnings[4] == "No ensemble risk"
    assert "Judged because of --anyway" in words_of(report_figure.scan_page(report))


def test_a_demo_study_is_called_synthetic_and_a_new_scan_is_not(tmp_path):
    demo = Settings(demo={}, horizons=HorizonSettings(n_bootstrap=20))
    report, _ = report_of(tables_of(make_cohort(40)), tmp_path, settings=demo)
    assert "A synthetic patient of the demo study" in " ".join(words_of(report_figure.scan_page(report)).split())
    text = " ".join(words_of(report_figure.scan_page(replace(report, scan_id="new"))).split())
    assert "A synthetic patient" not in text
    assert "models learned from synthetic patients" in text


@pytest.mark.parametrize("n_patients", [3, 5])
def test_a_study_of_few_patients_gives_words_instead_of_numbers(tmp_path, n_patients):
    cohort = make_cohort(n_patients, seed=4)
    tables = tables_of(cohort)
    report, _ = report_of(tables, tmp_path)
    assert report.likeness.nearer is None
    assert "It cannot be told" in words_of(report_figure.scan_page(report))
    performance = evaluate.evaluate(Evaluation(cohort, tables.predictions, FEW))
    assert len(horizon_models.headline(performance)) == 2
    assert decisions.worked_example(Evaluation(cohort, tables.predictions, FEW), "Radiomics")["example_similar"]
    assert (
        len(horizon_patients.most_wrong(Evaluation(cohort, tables.predictions, FEW), tables.lungs, "Radiomics", 3.0))
        <= n_patients
    )


@pytest.mark.parametrize("lacking", [["Radiomics"], ["Radiomics", "Clinical"]])
def test_a_horizon_without_deaths_and_a_model_without_a_horizon_give_a_page(tmp_path, lacking):
    cohort = make_cohort(30).assign(event_observed=False)
    tables = tables_of(cohort)
    lacks = tables.predictions["model"].isin(lacking) & (tables.predictions["horizon_years"] == 3)
    given = tables.predictions[~lacks].reset_index(drop=True)
    lacking_tables = replace(tables, cohort=cohort, predictions=given)
    report, _ = report_of(lacking_tables, tmp_path)
    assert np.isnan(report.lower) == (len(lacking) == 2)
    report_figure.scan_page(report).canvas.draw()
    # The patients of the book's pages are chosen by the model that their pages picture.
    assert report.model == horizon_models.pictured_model(given)
    assert bool(gallery.choose_patients(lacking_tables, FEW)) == np.isfinite(report.lower)


def test_a_pictured_model_that_is_not_on_the_front_page_is_on_the_page(tmp_path):
    tables = tables_of(make_cohort(20), models=("Clinical", "Age and sex"))
    lacks = (tables.predictions["model"] == "Clinical") & (tables.predictions["horizon_years"] == 3)
    given = tables.predictions[~lacks].reset_index(drop=True)
    report, _ = report_of(replace(tables, predictions=given), tmp_path)
    assert report.model == "Age and sex"
    assert set(report.risks["model"]) == {"Age and sex", "Clinical"}
    assert gallery.page_in_words(report, "x.png").startswith("Age and sex: ")
    assert " within 3 years" in gallery.page_in_words(report, "x.png")


def test_a_scan_that_the_pictured_model_did_not_judge_shows_another():
    cohort = make_cohort(20)
    given = tables_of(cohort).predictions
    own = given[given["scan_id"] == cohort["scan_id"].iloc[0]]
    assert horizon_models.pictured_for(own, given) == "Radiomics"
    assert horizon_models.pictured_for(own[own["model"] == "Clinical"], given) == "Clinical"
    one_year = own[(own["model"] == "Clinical") | (own["horizon_years"] == 1)]
    assert horizon_models.pictured_for(one_year, given) == "Radiomics"


def test_ids_with_odd_characters_do_not_become_markup(tmp_path):
    cohort = make_cohort(30)
    cohort["scan_id"] = "a_b_" + cohort["scan_id"] + "_c.d"
    tables = tables_of(cohort)
    report, _ = report_of(tables, tmp_path)
    words = gallery.page_in_words(report, "x.png")
    assert "a\\_b\\_p000-0\\_c.d" in words
    assert set(gallery.choose_patients(tables, FEW).values()) <= set(cohort["scan_id"])


def test_chosen_scans_are_few_and_do_not_look_at_what_happened():
    cohort = make_cohort(1063)
    tables = tables_of(cohort)
    assert len(cohort) > 1900
    chosen = gallery.choose_patients(tables, FEW)
    assert list(chosen) == ["lowest", "middle", "example", "highest"]
    other = replace(tables, cohort=cohort.assign(event_observed=False))
    assert gallery.choose_patients(other, FEW) == chosen
    wrong = horizon_patients.most_wrong(Evaluation(cohort, tables.predictions, FEW), tables.lungs, "Radiomics", 3.0)
    assert len(wrong) == 10
    near = horizon_patients.similar_patients(Evaluation(cohort, tables.predictions, FEW), "Radiomics", 0.2)
    assert len(near) == 20


def test_pages_can_be_switched_off_and_old_ones_go(tmp_path):
    study = Study(tmp_path, Settings(book={"patients": False}))
    (tmp_path / "patients").mkdir()
    (tmp_path / "patients" / "old.png").write_bytes(b"x")
    assert "shows no page of a single patient" in gallery.write_patients(study, tmp_path / "patients")
    assert not list((tmp_path / "patients").iterdir())
    assert "No scan of this run has a risk, so there is no page." in gallery.write_patients(
        Study(tmp_path, Settings()), tmp_path / "patients"
    )


def test_the_file_holds_what_the_page_shows_and_reads_back(tmp_path):
    report, scan = report_of(tables_of(make_cohort(60)), tmp_path)
    lungs = {"verdict": "review", "findings": "look", "volume_l": 4.0, "mean_hu": np.nan}
    scan = page.Scan(scan.scan_id, None, scan.known, lungs, scan.risks.assign(n_missing=np.nan))
    made = prediction_of(report, scan, {"age_years": 60.0, "sex": "female"}, {"a.skops": "0" * 64})
    back = Prediction.model_validate_json(made.model_dump_json())
    assert back == made
    assert made.lungs.mean_hu is None
    assert {one.risk for one in made.risks} == set(scan.risks["risk"])
    assert "NaN" not in made.model_dump_json()
    fields = fields_described()
    assert set(made.model_dump()) == {name.rstrip("[]") for name in fields["field"] if "." not in name}
    assert (fields["meaning"] != "").all()


def test_likeness_of_nothing_is_no_claim(tmp_path):
    report, _ = report_of(tables_of(make_cohort(60)), tmp_path)
    plain = replace(report, likeness=Likeness(nearer=0.5, n_scans=60, findings=[]))
    assert "Yes: 50% of the 60 training scans" in words_of(report_figure.scan_page(plain))


def test_risks_in_words_are_in_order():
    risks = pd.DataFrame({"horizon_years": [5.0, 1.0], "risk": [0.4, 0.1]})
    assert risks_in_words(risks) == "10 % within 1 year, 40 % within 5 years"


def test_a_scan_that_a_network_flags_is_not_called_alike(tmp_path):
    tables = tables_of(make_cohort(60))
    row = {"network": "resnet18", "scan_id": "p000-0", "patient_id": "p000", "fold": 0, "distance": 2.0}
    told = row | {
        "threshold": 1.0,
        "unusual": True,
        "reasons": "no single measure is unusual; the pattern as a whole is",
    }
    flagged = replace(tables, unusual=pd.DataFrame([told, told | {"scan_id": "p002-0", "unusual": False}]))
    warnings = page._flags(flagged, "p000-0")
    assert warnings == ("To ResNet-18 the scan is unlike those that it learned from: " + str(told["reasons"]) + ".",)
    assert page._flags(flagged, "p001-0") == page._flags(flagged, "p002-0") == ()
    assert page._flags(tables, "p000-0") == ()
    report, _ = report_of(tables, tmp_path)
    assert "Yes: " in words_of(report_figure.scan_page(report))
    flagged = words_of(report_figure.scan_page(replace(report, warnings=warnings)))
    assert "Yes: " not in flagged
    assert "No: the box at the top" in flagged


def test_a_category_that_is_not_known_is_not_called_another():
    cohort = pd.DataFrame({"sex": ["female", "male"]})
    assert evidence.feature_words("sex_female", {"sex": None}, cohort) == (
        "sex: not known, as in some of the training scans"
    )
    assert evidence.feature_words("sex_female", {"sex": "male"}, cohort) == "sex: not female"
    assert evidence.feature_words("sex_female", {"sex": "female"}, cohort) == "sex: female"


def test_the_reasons_stand_in_words_beside_the_picture(tmp_path):
    report, _ = report_of(tables_of(make_cohort(60)), tmp_path)
    why = pd.DataFrame({"feature": ["sex_female"], "words": ["sex: female"], "hazard_ratio": [1.5]})
    words = gallery.page_in_words(replace(report, reasons=why, explained="Clinical"), "x.png")
    assert "- sex: female: hazard ×1.50" in words
    assert f"{page.WEIGHTS}: Clinical" in words
