import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.cohort.outcomes import censoring_weights, horizon_labels
from sscct_lib.cohort.selection import (
    FlowStep,
    build_cohort,
    check_can_be_modelled,
    flow_text,
    followed,
    horizons_without_deaths,
    select,
    select_features,
    select_masks,
)
from sscct_lib.cohort.tables import characteristics, findings, fold_counts, label_counts, missing_by_outcome
from sscct_lib.horizons.bootstrap import horizon_outcome, resample_patients
from sscct_lib.study.disclosure import HIDDEN, protect
from sscct_lib.study.folder import StudyError


def images_of(manifest, failed=()):
    status = ["failed" if scan_id in failed else "ok" for scan_id in manifest["scan_id"]]
    return pd.DataFrame({"scan_id": manifest["scan_id"], "status": status})


def many_patients(n=40, seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for patient in range(n):
        last = int(random.integers(200, 3000))
        died = int(random.random() < 0.4)
        rows += [
            {
                "scan_id": f"p{patient}-{scan}",
                "patient_id": f"p{patient}",
                "scan_day": str(scan * 90),
                "last_contact_day": str(last),
                "event_observed": str(died),
                "image": f"scans/{patient}-{scan}.nii.gz",
                "age_years": str(40 + patient / 2),
                "sex": "female" if patient % 4 else "male",
            }
            for scan in range(random.integers(1, 3))
        ]
    return pd.DataFrame(rows)


def test_a_scan_followed_for_less_than_the_horizon_is_unknown():
    labels = horizon_labels(np.array([0.5, 0.5, 2.0, 1.0]), np.array([True, False, False, True]), 1.0)
    assert labels.tolist() == [1, pd.NA, 0, 1]


def test_as_published_counts_it_as_alive():
    labels = horizon_labels(np.array([0.5, 0.5]), np.array([True, False]), 1.0, "as_published")
    assert labels.tolist() == [1, 0]


def test_weights_equal_scikit_survivals():
    random = np.random.default_rng(1)
    followup, event = random.exponential(4, 300), random.random(300) < 0.5
    reference = CensoringDistributionEstimator().fit(Surv.from_arrays(event, followup))
    for horizon in (1.0, 3.0, 5.0):
        weights = censoring_weights(followup, event, horizon)
        died = event & (followup <= horizon)
        expected = np.zeros(300)
        expected[died] = reference.predict_ipcw(Surv.from_arrays(event, followup))[died]
        expected[followup > horizon] = 1 / reference.predict_proba(np.array([horizon]))
        np.testing.assert_allclose(weights, expected, rtol=1e-9)


@given(hnp.arrays(float, st.integers(2, 40), elements=st.floats(0.01, 20)))
def test_without_censoring_every_weight_is_one(followup):
    np.testing.assert_allclose(censoring_weights(followup, np.ones(len(followup), bool), 3.0), 1.0)


def test_weighted_deaths_equal_kaplan_meier():
    from lifelines import KaplanMeierFitter

    random = np.random.default_rng(2)
    followup, event = random.exponential(4, 500).round(1) + 0.1, random.random(500) < 0.6
    weights = censoring_weights(followup, event, 3.0)
    died = weights[event & (followup <= 3.0)].sum() / 500
    assert died == pytest.approx(1 - KaplanMeierFitter().fit(followup, event).predict(3.0), abs=1e-9)


def test_flow_counts_every_scan_once(study_of, manifest_frame):
    manifest_frame.loc[3, ["last_contact_date", "event_observed"]] = ""
    manifest_frame.loc[2, "last_contact_date"] = manifest_frame.loc[2, "scan_date"]
    manifest = read_manifest(study_of(manifest_frame))
    kept, flow = select(manifest, images_of(manifest, failed=["a1"]))
    assert kept["scan_id"].tolist() == ["a2"]
    assert [step.n_scans for step in flow] == [4, 1, 1, 1, 1]
    assert [step.n_patients for step in flow] == [3, 1, 1, 1, 1]
    assert kept["followup_years"].item() == pytest.approx(731 / 365.25)


def with_transplants(manifest_frame):
    """a: two scans, transplanted between them; the others never."""
    days = pd.to_datetime(manifest_frame["scan_date"])
    manifest_frame["transplant_date"] = ""
    own = manifest_frame["patient_id"] == "a"
    manifest_frame.loc[own, "transplant_date"] = str((days[own].min() + pd.Timedelta(days=100)).date())
    return manifest_frame


@pytest.mark.parametrize(("meaning", "died"), [("ends_followup", False), ("as_death", True)])
def test_a_transplant_ends_follow_up_and_counts_as_the_study_says(study_of, manifest_frame, meaning, died):
    study = study_of(with_transplants(manifest_frame), f"cohort: {{transplant: {meaning}}}")
    manifest = read_manifest(study)
    kept, flow = select(manifest, images_of(manifest))
    after = next(step for step in flow if step.label == "Scanned after a lung transplant")
    cohort = build_cohort(kept, study).set_index("scan_id")
    assert (after.n_scans, after.n_patients, after.excluded) == (1, 1, True)
    assert cohort.loc["a1", "followup_years"] == pytest.approx(100 / 365.25)
    assert cohort.loc["a1", "transplanted"]
    assert cohort.loc["a1", "event_observed"] == died
    assert not cohort.drop("a1")["transplanted"].any()


def test_a_transplant_after_last_contact_is_refused_by_name(study_of, manifest_frame):
    manifest_frame["transplant_date"] = "2039-01-01"
    with pytest.raises(StudyError, match=r"column transplant_date: found '2039-01-01'; expected not after"):
        read_manifest(study_of(manifest_frame))


def test_a_study_without_follow_up_gives_an_empty_cohort(study_of, manifest_frame):
    manifest_frame[["last_contact_date", "event_observed"]] = ""
    study = study_of(manifest_frame)
    manifest = read_manifest(study)
    kept, flow = select(manifest, images_of(manifest))
    cohort = build_cohort(kept, study)
    assert len(cohort) == 0
    assert flow[2].n_scans == 4
    assert label_counts(cohort, (1.0,))["Scans"].item() == "0"
    assert characteristics(cohort).empty
    assert findings(cohort, 1.0).startswith("0 scans of 0 patients are studied; 0 patients died.")
    assert fold_counts(cohort, (1.0,)).empty


def test_folds_hold_whole_patients_and_spread_deaths(study_of):
    study = study_of(many_patients(), "cohort: {n_folds: 4}")
    manifest = read_manifest(study)
    cohort = build_cohort(followed(manifest), study)
    assert cohort.groupby("patient_id")["fold"].nunique().max() == 1
    protect(1)
    counts = fold_counts(cohort, (5.0,)).astype(int)
    assert len(counts) == 4
    assert counts["Scans, died within 5 y"].min() >= 1
    died = cohort[cohort["label_5y"].eq(1).fillna(False)]
    assert counts["Patients, died within 5 y"].sum() == died["patient_id"].nunique()
    assert counts["Scans"].sum() == len(cohort)
    again = build_cohort(followed(manifest), study)
    pd.testing.assert_frame_equal(cohort, again)


@pytest.mark.parametrize(("n_patients", "words"), [(1, "1 patient"), (3, "3 patient")])
def test_too_few_patients_are_refused(study_of, n_patients, words):
    study = study_of(many_patients(n_patients), "cohort: {n_folds: 5}")
    with pytest.raises(StudyError, match=words):
        check_can_be_modelled(followed(read_manifest(study)), study)


def test_nobody_died_is_refused_and_a_horizon_without_deaths_is_named(study_of):
    frame = many_patients()
    study = study_of(frame.assign(event_observed="0"), "cohort: {n_folds: 3}")
    with pytest.raises(StudyError, match="0 died"):
        check_can_be_modelled(followed(read_manifest(study)), study)
    late = frame.assign(last_contact_day="1500", event_observed="1")
    kept = followed(read_manifest(study_of(late)))
    assert horizons_without_deaths(kept, study) == [1.0, 3.0]


def test_table_one_counts_patients_not_scans(study_of):
    study = study_of(many_patients())
    cohort = build_cohort(followed(read_manifest(study)), study)
    table = characteristics(cohort)
    assert table.columns.tolist() == ["Missing", "Overall", "alive at last contact", "died"]
    assert int(table["Overall"].iloc[0]) == cohort["patient_id"].nunique() == 40


def rare_cohort() -> pd.DataFrame:
    """70 patients with one scan each: 16 died, 3 of them men and 2 of unknown subtype; 8 men; FVC of 4 who died."""
    n, died = 70, np.arange(70) < 16
    place = np.arange(n)
    men = (place < 3) | ((place >= 60) & (place < 65))
    subtype = np.where((place < 2) | (place > 66), None, np.where(place % 2, "diffuse", "limited"))
    fvc = np.where(died & (place > 3), np.nan, 80.0)
    return pd.DataFrame({
        "scan_id": [f"s{i}" for i in place], "patient_id": [f"p{i}" for i in place], "scan_day": 0, "fold": place % 3,
        "event_observed": died, "age_years": np.where(place < 20, 97.3, 60.9), "sex": np.where(men, "male", "female"),
        "ssc_subtype": subtype, "fvc_percent": fvc, "dlco_percent": np.nan,
        "followup_years": np.where(died, 0.5, 4.0), "label_1y": pd.array(np.where(died, 1, 0), dtype="Int64"),
    })  # fmt: skip


def test_table_one_tells_no_small_count_nor_what_gives_it_away():
    table = characteristics(rare_cohort())
    men = table.loc[("Sex, n (%)", "male")]
    assert list(men) == ["", "8 (11.4)", "5 (9.3)", "<5"] or HIDDEN in list(men)
    sexes = table.loc["Sex, n (%)", ["Overall", "alive at last contact", "died"]].map(lambda cell: cell.split(" ")[0])
    for direction in (sexes, sexes.T):  # each line with a small count has another that is not told
        hidden = direction.map(lambda cell: not cell.isdigit())
        assert not (hidden.sum(axis=1) == 1).any()
    fvc = table.loc[("FVC, % predicted, median [Q1,Q3]", "")]
    assert fvc["died"] == HIDDEN
    assert fvc["Missing"] == "12"
    assert table.loc[("Age, years, median [Q1,Q3]", ""), "died"] == "90 [90,90]"
    counts = table.drop(index=[row for row in table.index if "median" in row[0]])
    cells = [str(cell).split(" ")[0] for cell in counts.to_numpy().ravel()]
    assert not [cell for cell in cells if cell.isdigit() and 0 < int(cell) < 5]
    protect(1)
    assert characteristics(rare_cohort()).loc[("Sex, n (%)", "male"), "died"] == "3 (18.8)"


def test_few_deaths_are_told_by_no_table_of_the_cohort():
    cohort = rare_cohort().assign(label_1y=pd.array([1] * 3 + [0] * 60 + [None] * 7, dtype="Int64"))
    row = label_counts(cohort, (1.0,)).iloc[0]
    assert row.to_dict() == {
        "Scans": "70", "Died": "<5", "Alive": "60", "Unknown": HIDDEN, "Patients who died": "<5",
        "Patients alive": "60", "Died, % of all scans": HIDDEN,
    }  # fmt: skip
    said = findings(cohort, 1.0)
    assert said.startswith("70 scans of 70 patients are studied; 16 patients died. Most often missing is diffusing")
    followed = cohort.assign(label_1y=pd.array([1] * 20 + [0] * 20 + [None] * 30, dtype="Int64"))
    assert "after 1 year is unknown for 30 scans: results there rest much on the weights" in findings(followed, 1.0)
    folds = fold_counts(cohort, (1.0,))
    assert set(folds["Patients, died within 1 y"]) == {"<5"}
    assert list(folds["Scans"]) == ["24", "23", "23"]
    lacking = missing_by_outcome(cohort, 1.0)
    assert lacking.loc["forced vital capacity"].to_dict() == {
        "missing of those who died": "0 of <5", "of those alive": "12 of 60", "difference, points": HIDDEN,
    }  # fmt: skip


def test_flow_goes_on_to_the_masks(study_of, manifest_frame):
    study = study_of(manifest_frame)
    cohort = build_cohort(followed(read_manifest(study)), study)
    lungs = pd.DataFrame({"scan_id": ["a1", "a2", "b1"], "verdict": ["pass", "fail", "review"], "decision": None})
    flow = select_masks(cohort, lungs)
    protect(1)
    assert [step.n_scans for step in flow] == [4, 1, 1, 2]
    assert flow_text(flow).startswith("Scans in the cohort: 4 scans of 3 patients. No mask could be made: 1 scan of 1")


def test_scans_whose_features_failed_are_counted():
    cohort = pd.DataFrame({"scan_id": ["a1", "a2", "b1", "c1"], "patient_id": ["a", "a", "b", "c"]})
    features = pd.DataFrame({"scan_id": ["b1", "a1", "a2"], "status": ["failed", "ok", "ok"]})
    flow = select_features(cohort, features)
    assert [(step.n_scans, step.n_patients, step.excluded) for step in flow] == [
        (3, 2, False), (1, 1, True), (2, 1, False),
    ]  # fmt: skip
    protect(1)
    assert "Features could not be computed: 1 scan of 1 patient, left out." in flow_text(flow)
    protect(5)
    assert not re.search(r"(?<!<)\d", flow_text(flow))
    flow = [FlowStep("all", 90, 40, False), FlowStep("a", 6, 3, True), FlowStep("b", 9, 5, True)]
    flow.append(FlowStep("kept", 75, 38, False))  # two patients are lost altogether
    assert flow_text(flow) == (
        "all: 90 scans of 40 patients. a: scans of <5 patients, left out. b: scans of 5 patients, left out. "
        "kept: 75 scans of a hidden number of patients."
    )


def test_flow_counts_what_a_person_decided(study_of, manifest_frame):
    study = study_of(manifest_frame)
    cohort = build_cohort(followed(read_manifest(study)), study)
    words = ["fail changed to pass by KM: x", "pass changed to fail by KM: y", None, None]
    verdicts = ["pass", "fail", "fail", "pass"]
    flow = select_masks(cohort, pd.DataFrame({"scan_id": cohort["scan_id"], "verdict": verdicts, "decision": words}))
    assert [step.n_scans for step in flow] == [4, 0, 1, 1, 2]
    assert flow[3].label == "Left out by a person"
    assert flow[4].label == "Scans that the models see, 1 by a person's decision"


def test_alive_exactly_at_the_horizon_is_alive_in_training_and_in_judging():
    followup, event = np.array([3.0, 3.0, 5.0, 1.0, 2.0]), np.array([False, True, False, True, False])
    outcome = horizon_outcome(followup, event, 3.0, resample_patients(np.arange(5), 0, 0))
    np.testing.assert_allclose(censoring_weights(followup, event, 3.0), outcome.weights[0])
    assert outcome.alive.tolist() == [True, False, True, False, False]
    assert outcome.weights[0, 0] > 0


def test_missing_values_are_compared_between_outcomes_with_newcombes_interval_and_counts_of_patients():
    """Table II of Newcombe 1998: 56/70 and 48/80 differ by 0.2 (0.0524 to 0.3339) by his method 10."""
    died, missing = [1] * 70 + [0] * 80 + [None] * 9, [1] * 56 + [0] * 14 + [1] * 48 + [0] * 32 + [1] * 9
    first = pd.DataFrame({"patient_id": [f"p{i}" for i in range(159)], "scan_day": 0,
                          "label_3y": pd.array(died, dtype="Int64"),
                          "fvc_percent": np.where(missing, np.nan, 80.0), "age_years": 60.0})  # fmt: skip
    later = first.assign(scan_day=400, fvc_percent=80.0)  # a second scan, with the value, counts nowhere
    table = missing_by_outcome(pd.concat([later, first]), 3.0)
    assert list(table.index) == ["forced vital capacity"]
    assert list(table.iloc[0]) == ["56 of 70", "48 of 80", "20 (5 to 33)"]
    assert missing_by_outcome(first.assign(fvc_percent=80.0), 3.0).empty
    assert missing_by_outcome(first[first["label_3y"].eq(0).fillna(False)], 3.0).empty
