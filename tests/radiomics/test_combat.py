import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy import stats
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline

from sscct_lib.images.scanners import scanner
from sscct_lib.radiomics.combat import ComBat

FEATURES = ["a", "b", "c", "d"]


@pytest.fixture
def scans() -> pd.DataFrame:
    """Thirty patients on three scanners that shift and scale four features; age and sex matter too."""
    rng = np.random.default_rng(7)
    code = np.repeat([0, 1, 2], [12, 10, 8])
    age = np.round(rng.normal(55, 10, 30))
    sex = np.where(rng.random(30) < 0.7, "female", "male")
    shift, scale = rng.normal(size=(3, 4)), rng.uniform(0.6, 1.7, (3, 4))
    values = rng.normal(size=(30, 4)) * scale[code] + shift[code] + 0.05 * age[:, None] + 0.5 * (sex == "male")[:, None]
    return pd.DataFrame(np.round(values, 3), columns=FEATURES).assign(
        scanner=np.array(["GE soft", "Philips sharp", "Siemens soft"], dtype=object)[code],
        patient_id=[f"p{i}" for i in range(30)],
        age_years=age,
        sex=sex,
    )


def values(table: pd.DataFrame) -> np.ndarray:
    return table[FEATURES].to_numpy(dtype=float)


# Rows 0, 11, 12 and 29 of neuroCombat 0.2.12 on these scans, iterated to its fixed point, in double precision.
PLAIN = [
    [2.0117428, 2.39289202, 1.28683084, 3.15728748],
    [3.9687636, 1.00223079, 3.35168063, 2.64186912],
    [3.73472209, 2.63094868, 0.95279489, 4.33449316],
    [3.97356604, -0.10669203, 2.9995301, 3.68495176],
]
AGE_AND_SEX_KEPT = [
    [2.1394136, 2.52093046, 1.36565511, 3.31204439],
    [4.11880626, 1.18508327, 3.473677, 3.05694955],
    [3.7498251, 2.49697598, 0.88294111, 4.17818591],
    [4.09214398, -0.13418317, 3.11684547, 3.69403377],
]


@pytest.mark.parametrize(("preserve", "theirs"), [((), PLAIN), (("age_years", "sex"), AGE_AND_SEX_KEPT)])
def test_numbers_are_those_of_neurocombat(scans, preserve, theirs) -> None:
    ours = ComBat(FEATURES, preserve=preserve).fit_transform(scans)
    assert values(ours)[[0, 11, 12, 29]] == pytest.approx(np.array(theirs), abs=1e-7)


def test_shift_and_scale_of_many_patients_are_those_of_the_scanners() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    code = rng.integers(0, 2, n)
    healthy = rng.normal(size=(n, 6))
    seen = np.where(code[:, None] == 1, 3 + 2 * healthy, healthy)
    table = pd.DataFrame(seen, columns=list("abcdef")).assign(
        scanner=np.where(code, "sharp", "soft"), patient_id=np.arange(n)
    )
    harmonised = ComBat(list("abcdef")).fit_transform(table)[list("abcdef")].to_numpy()
    soft, sharp = harmonised[code == 0], harmonised[code == 1]
    assert soft.mean(axis=0) == pytest.approx(sharp.mean(axis=0), abs=0.05)
    assert soft.std(axis=0) == pytest.approx(sharp.std(axis=0), rel=0.03)
    # Within a scanner the order of patients is kept.
    assert np.corrcoef(sharp[:, 0], healthy[code == 1, 0])[0, 1] == pytest.approx(1)


def confounded(agreement: float, lung_function_sd: float, n: int = 40_000) -> pd.DataFrame:
    """Scans where the sicker half is on the sharp scanner in a share of cases; it shifts features by 1."""
    rng = np.random.default_rng(1)
    severity = rng.normal(size=n)
    sharp = (severity > 0) == (rng.random(n) < agreement)
    features = severity[:, None] + rng.normal(scale=0.5, size=(n, 4)) + sharp[:, None]
    return pd.DataFrame(features, columns=FEATURES).assign(
        scanner=np.where(sharp, "sharp", "soft"),
        patient_id=np.arange(n),
        severity=severity,
        fvc_percent=severity + rng.normal(scale=lung_function_sd, size=n),
    )


def taken_away(table: pd.DataFrame, **settings) -> float:
    """Mean difference between scanners that ComBat removed."""
    harmonised = ComBat(FEATURES, **settings).fit_transform(table)
    sharp = (table["scanner"] == "sharp").to_numpy()
    moved = values(table) - values(harmonised)
    return float((moved[sharp].mean(axis=0) - moved[~sharp].mean(axis=0)).mean())


@pytest.mark.parametrize("agreement", [0.5, 0.7, 0.9])
def test_confounded_disease_is_removed_as_far_as_theory_says(agreement: float) -> None:
    """Severity is N(0, 1), so the scanners' patients differ by 4 (2 p - 1) phi(0), all of which is taken away.

    With lung function preserved, which is severity with an error of variance v, the bias of an omitted variable is
    c v / ((1 + v) / 4 - c^2), where c = (2 p - 1) phi(0) is the covariance of severity and scanner. All four features
    are shifted alike, so shrinkage towards their mean changes nothing.
    """
    c = (2 * agreement - 1) * stats.norm.pdf(0)
    table = confounded(agreement, lung_function_sd=0.5)
    assert taken_away(table) == pytest.approx(1 + 4 * c, abs=0.03)
    v = 0.25
    bias = c * v / ((1 + v) / 4 - c**2)
    assert taken_away(table, preserve=["fvc_percent"]) == pytest.approx(1 + bias, abs=0.03)
    assert taken_away(table, preserve=["severity"]) == pytest.approx(1, abs=0.03)


def test_held_out_scans_change_nothing_that_is_learned(scans) -> None:
    learned = ComBat(FEATURES, preserve=["age_years"]).fit(scans.iloc[::2])
    alone = values(learned.transform(scans.iloc[[1]]))
    others = scans.iloc[1::2].copy()
    others.loc[others.index != 1, FEATURES] = 1e6
    assert np.array_equal(values(learned.transform(others))[0], alone[0])


def test_an_unseen_unknown_or_small_scanner_passes_with_a_flag(scans) -> None:
    few = scans["scanner"] != "Siemens soft"
    few |= scans.groupby("scanner").cumcount() < 4
    learned = ComBat(FEATURES).fit(scans[few])
    new = scans.iloc[[0, 12, 29, 0, 0]].reset_index(drop=True)
    new.loc[3, "scanner"], new.loc[4, "scanner"] = "Canon soft", None
    assert list(learned.unharmonised(new)) == [False, False, True, True, True]
    changed = (values(learned.transform(new)) != values(new)).any(axis=1)
    assert list(changed) == [True, True, False, False, False]


def test_one_scanner_leaves_everything_as_it_is(scans) -> None:
    one = scans[scans["scanner"] == "GE soft"]
    learned = ComBat(FEATURES, preserve=["sex"]).fit(one)
    pd.testing.assert_frame_equal(learned.transform(one), one)
    assert learned.unharmonised(one).all()


def test_a_patient_counts_once_however_many_scans_there_are(scans) -> None:
    again = pd.concat([scans, scans.iloc[[3, 3, 3, 15]]], ignore_index=True)
    once, often = (ComBat(FEATURES, preserve=["age_years", "sex"]).fit(table) for table in (scans, again))
    assert often.gamma_ == pytest.approx(once.gamma_)
    assert often.delta_ == pytest.approx(once.delta_)


def test_missing_values_stay_missing_and_are_left_out(scans) -> None:
    scans = scans.assign(e=np.nan)
    spoilt = scans.copy()
    spoilt.loc[[2, 14, 25], "b"] = np.nan
    spoilt.loc[4, ["age_years", "sex"]] = np.nan
    harmonised = ComBat([*FEATURES, "e"], preserve=["age_years", "sex"]).fit_transform(spoilt)
    assert harmonised[[*FEATURES, "age_years", "sex"]].isna().equals(spoilt[[*FEATURES, "age_years", "sex"]].isna())
    complete = scans.drop(index=[2, 14, 25])
    first = ComBat(["b"]).fit(spoilt.drop(columns="e"))
    second = ComBat(["b"]).fit(complete)
    assert first.gamma_ == pytest.approx(second.gamma_)
    assert first.delta_ == pytest.approx(second.delta_)


def test_a_feature_that_never_changes_is_left_alone(scans) -> None:
    harmonised = ComBat([*FEATURES, "limit"]).fit_transform(scans.assign(limit=600.1))
    assert harmonised["limit"].to_numpy() == pytest.approx(600.1)


def test_the_outcome_is_never_looked_at_and_never_preserved(scans) -> None:
    died = (scans["a"] > 3).to_numpy()
    first, second = (ComBat(FEATURES).fit(scans, y).gamma_ for y in (died, ~died))
    assert np.array_equal(first, second)
    for name in ("label_5y", "event_observed", "followup_years"):
        with pytest.raises(ValueError, match=name):
            ComBat(FEATURES, preserve=["age_years", name]).fit(scans.assign(**{name: 1.0}))


def test_a_pipeline_carries_the_scanner_through_cross_validation_by_patient(scans) -> None:
    chosen = ColumnTransformer([("numbers", SimpleImputer(), [*FEATURES, "age_years"])])
    pipeline = Pipeline(
        [
            ("harmonise", ComBat(FEATURES, preserve=("age_years",), min_patients=3)),
            ("prepare", chosen),
            ("model", LogisticRegression()),
        ]
    )
    died = (scans["a"] > scans["a"].median()).astype(int)
    risks = cross_val_predict(
        pipeline, scans, died, groups=scans["patient_id"], cv=GroupKFold(3), method="predict_proba"
    )
    assert np.isfinite(risks).all()
    fitted = clone(pipeline).fit(scans, died)
    assert list(fitted.feature_names_in_) == list(scans)
    again = skops.io.loads(skops.io.dumps(fitted), trusted=["numpy.dtype", "sscct_lib.radiomics.combat.ComBat"])
    assert np.array_equal(again.predict_proba(scans), fitted.predict_proba(scans))


def test_scanners_are_named_by_maker_and_kind_of_kernel() -> None:
    table = pd.DataFrame(
        {"manufacturer": ["GE", "Siemens", "Siemens", "Philips", "Canon", None], "kernel": list("x") * 6}
    ).assign(kernel=["LUNG", "B31f", "Bl57d", "ZZ9", None, "B"])
    assert list(scanner(table))[:5] == [
        "GE sharp", "Siemens soft", "Siemens sharp", "Philips ZZ9", "Canon, kernel not known",
    ]  # fmt: skip
    assert scanner(table).isna().tolist() == [False] * 5 + [True]
    assert scanner(table[["kernel"]]).isna().all()
