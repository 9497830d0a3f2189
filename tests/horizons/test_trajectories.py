"""Change over time against known noise, closed forms and lifelines' Cox model with clustered errors."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.special import expit, logit
from scipy.stats import t as student_t

from sscct_lib.horizons import figures, trajectories
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.study.settings import HorizonSettings, Settings
from tests.horizons.cohorts import FEW
from tests.study.test_plots import texts

YEARS = 3.0
SD = 0.3


def make_study(n_patients: int, sd: float = SD, drift: float = 0.0, seed: int = 0, days: int = 60):
    """Scans of patients whose risk is measured with noise; a `drift` of the risk makes death sooner still."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_patients):
        level, slope = rng.normal(), drift * rng.normal()
        death = rng.exponential(8 / np.exp(0.8 * level + 4 * slope))
        until = min(death, rng.uniform(2, 9))
        for visit in range(4):
            when = visit * days / 365.25
            if until <= when:
                break
            rows.append(
                {
                    "scan_id": f"p{i}-{visit}", "patient_id": f"p{i}", "scan_day": visit * days, "fold": i % 3,
                    "followup_years": until - when, "event_observed": death <= until,
                    "risk": expit(level - 1 + slope * visit + rng.normal(0, sd)),
                }
            )  # fmt: skip
    cohort = pd.DataFrame(rows)
    columns = {"model": "Model", "horizon_years": YEARS, "repeat": 0}
    predictions = cohort[["scan_id", "patient_id", "fold", "risk"]].assign(**columns)
    return predictions, cohort.drop(columns="risk").sample(frac=1, random_state=0).reset_index(drop=True)


def series(*arguments, **values) -> pd.DataFrame:
    predictions, cohort = make_study(*arguments, **values)
    return trajectories.over_time(Evaluation(cohort, predictions, FEW), "Model", YEARS)


@pytest.fixture(scope="module")
def rows():
    return series(150)


def test_change_is_since_the_patients_own_scan_before(rows):
    one = rows[rows["patient_id"] == rows["patient_id"].iloc[0]]
    assert one["change"].isna().tolist() == [True] + [False] * (len(one) - 1)
    np.testing.assert_allclose(one["change"].iloc[1:], np.diff(logit(one["risk"])))
    np.testing.assert_allclose(one["risk_before"].iloc[1:], one["risk"].iloc[:-1])
    assert (rows["days_between"].dropna() == 60).all()
    assert rows["change"].isna().sum() == rows["patient_id"].nunique()


def test_noise_is_the_one_that_was_put_in(rows):
    table = trajectories.noise(rows, FEW).set_index("measure")
    assert table.loc["sd_logit", "ci_low"] < SD < table.loc["sd_logit", "ci_high"]
    assert table.loc["sd_logit", "estimate"] == pytest.approx(SD, rel=0.1)
    assert table.loc["factor_of_odds", "estimate"] == pytest.approx(
        np.exp(1.96 * np.sqrt(2) * table.loc["sd_logit", "estimate"])
    )
    assert table.loc["share_beyond", "estimate"] == pytest.approx(0.05, abs=0.02)
    assert table.loc["sd_logit", "n_pairs"] == rows["change"].notna().sum()


@pytest.mark.slow
def test_the_interval_of_the_noise_holds_it_in_most_studies():
    settings = Settings(horizons=HorizonSettings(n_bootstrap=100))
    held = []
    for seed in range(40):
        table = trajectories.noise(series(40, seed=seed), settings).set_index("measure")
        held.append(table.loc["sd_logit", "ci_low"] < SD < table.loc["sd_logit", "ci_high"])
    assert np.mean(held) >= 0.85


def test_scans_that_lie_far_apart_tell_nothing_of_the_noise():
    table = trajectories.noise(series(50, days=200), FEW)
    assert table["estimate"].isna().all()
    assert (table["n_pairs"].iloc[:2] == 0).all()
    assert trajectories.noise_in_words(table).empty


def test_noise_in_words_is_a_factor_of_the_odds():
    table = pd.DataFrame({"measure": ["factor_of_odds"], "estimate": [2.0], "ci_low": [1.5], "ci_high": [3.0]})
    # 20 % are odds of 1 to 4: twice that is 1 to 2, half is 1 to 8.
    row = trajectories.noise_in_words(table, (0.2,)).iloc[0]
    assert row["a rise is beyond noise above"] == "33 (27 to 43) %"
    assert row["a fall is beyond noise below"] == "11 (8 to 14) %"


def test_hazard_is_that_of_lifelines_with_patients_as_clusters(rows):
    table = trajectories.hazard_of_change(rows)
    later = rows[rows["change"].notna()]
    plain = CoxPHFitter().fit(
        later[["patient_id", "followup_years", "event_observed", "standing", "change"]],
        "followup_years", "event_observed", cluster_col="patient_id",
    )  # fmt: skip
    doubled = np.exp(np.log(2) * plain.params_[["standing", "change"]])
    np.testing.assert_allclose(table["hazard_ratio"], doubled, rtol=1e-4)
    quantile = student_t.ppf(0.975, later.loc[later["event_observed"], "patient_id"].nunique() - 1)
    np.testing.assert_allclose(
        np.log(table["ci_high"] / table["ci_low"]),
        2 * quantile * np.log(2) * plain.standard_errors_[["standing", "change"]], rtol=1e-3,
    )  # fmt: skip


def test_pure_noise_makes_the_mean_of_two_scans_the_better_guess_and_a_true_rise_does_not():
    noisy = trajectories.hazard_of_change(series(400, sd=0.8))
    assert noisy["ci_high"].iloc[1] < 1
    rising = trajectories.hazard_of_change(series(400, sd=0.05, drift=0.4))
    assert rising["ci_low"].iloc[1] > 1


def evaluation_of(**values) -> Evaluation:
    predictions, cohort = make_study(400, **values)
    return Evaluation(cohort, predictions, FEW)


def test_a_true_rise_raises_the_auc_and_every_number_has_its_counts():
    rising = evaluation_of(sd=0.05, drift=0.4)
    performance, difference = trajectories.gain_of_change(rising, "Model", YEARS)
    assert performance["model"].tolist() == list(trajectories.WAYS)
    back, once_more = difference.set_index("model").loc[list(trajectories.WAYS)[1:]].itertuples()
    assert once_more.difference > 0.01
    assert once_more.ci_low > 0 > back.ci_high
    later = trajectories.over_time(rising, "Model", YEARS).dropna(subset="change")
    assert performance["n_scans"].unique().tolist() == [len(later)]
    assert performance["n_patients"].unique().tolist() == [later["patient_id"].nunique()]


def test_where_change_is_noise_the_mean_of_two_scans_is_the_better_guess():
    _, difference = trajectories.gain_of_change(evaluation_of(sd=0.8), "Model", YEARS)
    back, once_more = difference.set_index("model").loc[list(trajectories.WAYS)[1:]].itertuples()
    assert back.ci_low > 0 > once_more.ci_high


def test_no_outcome_enters_what_is_made_of_risks():
    """Weights learned from the risks of other folds know the tested patients, by the fits of those folds."""
    predictions, cohort = make_study(60)
    three = pd.concat([predictions.assign(repeat=i, fold=(predictions["fold"] + i) % 3) for i in range(3)])
    turned = cohort.assign(event_observed=~cohort["event_observed"])
    before, after = (
        trajectories.with_change(Evaluation(each, three, FEW), "Model", YEARS) for each in (cohort, turned)
    )
    pd.testing.assert_frame_equal(before, after)
    assert before.groupby(["model", "scan_id"])["repeat"].nunique().eq(3).all()


def test_nobody_who_dies_or_comes_back_gives_empty_tables():
    predictions, cohort = make_study(30)
    alive = Evaluation(cohort.assign(event_observed=False), predictions, FEW)
    assert trajectories.hazard_of_change(trajectories.over_time(alive, "Model", YEARS)).empty
    assert trajectories.gain_of_change(alive, "Model", YEARS) is None
    assert trajectories.hazard_of_change(series(80).assign(change=0.0)).empty
    first = cohort.drop_duplicates("patient_id")
    once = Evaluation(first, predictions[predictions["scan_id"].isin(first["scan_id"])], FEW)
    rows = trajectories.over_time(once, "Model", YEARS)
    assert trajectories.hazard_of_change(rows).empty
    assert trajectories.gain_of_change(once, "Model", YEARS) is None
    assert trajectories.noise(rows, FEW)["estimate"].isna().all()


def test_figure_counts_patients_and_marks_each_death(rows):
    figure = figures.risks_over_time(rows, "Model", YEARS)
    repeated = rows[rows.groupby("patient_id")["scan_id"].transform("size") > 1]
    died = repeated[repeated["event_observed"]]["patient_id"].nunique()
    assert f"{died} patients who died" in texts(figure)
    crosses = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == died
