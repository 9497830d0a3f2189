from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sscct_lib.cohort.outcomes import censoring_weights, horizon_labels
from sscct_lib.demo import patients
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.study.settings import DemoSettings

FULL = {"n_patients": 640, "n_scans": 2125}
PUBLISHED_PERCENT = {1: 8.5, 3: 15.3, 5: 20.1}


@cache
def cohort(seed: int = 2026, **switches: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    return demo_cohort(DemoSettings(**FULL, **switches), seed)


def followup(manifest: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    years = ((manifest.last_contact_day - manifest.scan_day) / 365.25).to_numpy(float)
    return years, manifest.event_observed.to_numpy(bool)


def features(manifest: pd.DataFrame, truth: pd.DataFrame, kind: str) -> np.ndarray:
    if kind == "extent":
        return truth[["fibrosis", "age_years"]].to_numpy()
    if kind == "clinical":
        values = manifest[["age_years", "fvc_percent", "dlco_percent"]].astype(float)
        values = values.fillna(values.median())
        return np.column_stack([values, manifest.sex == "male", manifest.ssc_subtype == "diffuse"]).astype(float)
    dummies = pd.get_dummies(manifest[["manufacturer", "kernel"]]).astype(float)
    return np.column_stack([dummies, manifest.slice_thickness_mm])


def auc(kind: str, years: int, **switches: bool) -> float:
    """IPCW AUC at a horizon on the cohort of one seed; models learn from the cohorts of two other seeds."""

    def known(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        manifest, truth = cohort(seed, **switches)
        time, event = followup(manifest)
        labels = horizon_labels(time, event, years)
        kept = ~np.asarray(labels.isna())
        weights = censoring_weights(time, event, years)[kept]
        labels = labels.to_numpy(dtype=float, na_value=0)[kept]
        if kind == "oracle":
            return labels, weights, truth[f"true_risk_{years}y"].to_numpy()[kept]
        return labels, weights, features(manifest, truth, kind)[kept]

    labels, weights, tested = known(2026)
    if kind == "oracle":
        return float(roc_auc_score(labels, tested, sample_weight=weights))
    learn = [np.concatenate(parts) for parts in zip(known(11), known(12), strict=True)]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(learn[2], learn[0], logisticregression__sample_weight=learn[1])
    return float(roc_auc_score(labels, model.decision_function(tested), sample_weight=weights))


@pytest.mark.slow
@pytest.mark.parametrize("years", [1, 3, 5])
def test_shares_of_deaths_are_the_published_ones(years):
    manifest, _ = cohort()
    assert len(manifest) == 2125
    assert 540 <= manifest.patient_id.nunique() <= 640
    died = horizon_labels(*followup(manifest), years, "as_published").to_numpy(float)
    assert 100 * died.mean() == pytest.approx(PUBLISHED_PERCENT[years], abs=1.5)


@pytest.mark.slow
def test_extent_and_age_reach_the_oracle_and_clinical_values_do_not():
    attained = {
        kind: [(auc(kind, h) - 0.5) / (auc("oracle", h) - 0.5) for h in (1, 3, 5)] for kind in ("extent", "clinical")
    }
    assert min(attained["extent"]) >= 0.95
    assert np.mean(attained["clinical"]) <= 0.85


@pytest.mark.slow
def test_scanner_tells_nothing_about_the_risk_unless_confounded():
    def association(**switches: bool) -> float:
        """Share of the variance of the true 3-year risk between kernels, against that of shuffled patients."""
        manifest, truth = cohort(**switches)
        rng = np.random.default_rng(0)
        risk = truth.groupby("patient_id").true_risk_3y.transform("mean").to_numpy()
        index = np.unique(manifest.patient_id, return_inverse=True)[1]
        of_person = pd.Series(risk).groupby(index).first().to_numpy()

        def between(values: np.ndarray) -> float:
            return float(pd.Series(values).groupby(manifest.kernel.to_numpy()).mean().std())

        shuffled = [between(rng.permutation(of_person)[index]) for _ in range(200)]
        return float(np.mean(np.array(shuffled) >= between(risk)))

    assert association() > 0.05
    assert association(confounded_scanner=True) == 0


def expected_auc(score: np.ndarray, risk: np.ndarray) -> float:
    """AUC that a score is expected to have when every scan is followed by death with its true risk."""
    died = np.repeat([1, 0], len(risk))
    return float(roc_auc_score(died, np.tile(score, 2), sample_weight=np.concatenate([risk, 1 - risk])))


def scanner_auc(years: int, **switches: bool) -> float:
    """Mean expected AUC, over eight cohorts, of a model that learnt scanner and protocol from two others."""
    learn = [cohort(seed, **switches) for seed in (11, 12)]
    score = LogisticRegression()
    score.fit(
        np.concatenate([features(*tables, "scanner") for tables in learn]),
        np.concatenate([horizon_labels(*followup(manifest), years, "as_published") for manifest, _ in learn]).astype(
            int
        ),
    )
    tested = [cohort(seed, **switches) for seed in range(1, 9)]
    return float(
        np.mean(
            [
                expected_auc(
                    score.decision_function(features(*tables, "scanner")), tables[1][f"true_risk_{years}y"].to_numpy()
                )
                for tables in tested
            ]
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("years", [1, 3, 5])
def test_scanner_alone_predicts_no_better_than_chance_unless_confounded(years):
    # The true risk, not the observed deaths: newer scanners come with shorter follow-up, which weights by the overall
    # share still followed do not undo.
    assert scanner_auc(years) == pytest.approx(0.5, abs=0.02)
    assert scanner_auc(years, confounded_scanner=True) > 0.65


@pytest.mark.slow
def test_lung_function_falls_with_disease_within_plausible_ranges():
    manifest, truth = cohort()
    fvc, dlco = manifest.fvc_percent.astype(float), manifest.dlco_percent.astype(float)
    assert -0.75 < fvc.corr(truth.fibrosis) < -0.4
    assert -0.8 < dlco.corr(truth.fibrosis) < -0.45
    assert 0.2 < fvc.corr(dlco) < 0.9
    assert dlco.mean() < fvc.mean()
    assert 0.04 < fvc.isna().mean() < 0.12
    assert 0.10 < dlco.isna().mean() < 0.20


def test_cohort_of_a_given_number_of_scans():
    manifest, truth = demo_cohort(DemoSettings(n_patients=30, n_scans=25), 1)
    whole, _ = demo_cohort(DemoSettings(n_patients=30), 1)
    assert len(manifest) == len(truth) == 25
    pd.testing.assert_frame_equal(manifest, whole.iloc[:25])


def test_cause_of_death_is_given_exactly_for_the_dead():
    manifest, _ = demo_cohort(DemoSettings(), 2026)
    assert (manifest.cause_of_death.notna() == (manifest.event_observed == 1)).all()
    assert {"lung", "other"} >= set(manifest.cause_of_death.dropna())


def test_scanners_change_over_calendar_years():
    manifest, truth = demo_cohort(DemoSettings(n_patients=200), 3)
    early = manifest[truth.scan_year < 2008].manufacturer
    late = manifest[truth.scan_year > 2018].manufacturer
    assert early.mode()[0] == "GE"
    assert late.mode()[0] == "Siemens"


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"n_patients": 0}, "n_patients"), ({"n_patients": 10**6}, "n_patients"), ({"spacing_mm": -1}, "spacing_mm"),
     ({"spacing_mm": 50}, "spacing_mm"), ({"n_scans": 0}, "n_scans"), ({"spacing": 3}, "spacing")],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(bad, named):
    with pytest.raises(ValueError, match=named):
        DemoSettings(**bad)


def test_the_book_page_states_the_hazard_of_the_code():
    page = (Path(__file__).parents[2] / "book" / "demo_cohort.md").read_text(encoding="utf-8")
    stated = [f"{number:.4f}" for number in (patients.LUNG_BASELINE, patients.OTHER_BASELINE)]
    for effects in (patients.LUNG_EFFECTS, patients.OTHER_EFFECTS):
        stated += [f"exp({effect:.2f}) = {np.exp(effect):.2f}" for effect in effects.values()]
    stated += [f"E(t) = {patients.LARGEST_EXTENT:.2f} /", f"{100 * patients.LOST_PER_YEAR:.0f} % per year"]
    stated += [f"exp({patients.DROPOUT_EFFECT:.0f} (F"]
    assert [text for text in stated if text not in page] == []


@pytest.mark.slow
def test_the_book_page_states_the_cohort_of_the_code():
    page = (Path(__file__).parents[2] / "book" / "demo_cohort.md").read_text(encoding="utf-8")
    manifest, _ = cohort()
    causes = manifest.groupby("patient_id").cause_of_death.first().value_counts()
    stated = [f"{manifest.patient_id.nunique()} patients for these 2,125 scans, of whom {causes['lung']} die of lung"]
    stated += [f"and {causes['other']} of another cause"]
    for years in (1, 3, 5):
        died = 100 * horizon_labels(*followup(manifest), years, "as_published").to_numpy(float).mean()
        stated.append(f"| {PUBLISHED_PERCENT[years]} % | {died:.1f} % |")
    attained = np.mean([(auc("clinical", h) - 0.5) / (auc("oracle", h) - 0.5) for h in (1, 3, 5)])
    stated.append(f"attain {100 * attained:.0f} % on average")
    assert [text for text in stated if text not in " ".join(page.split())] == []
