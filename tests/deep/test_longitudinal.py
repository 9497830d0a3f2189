import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sscct_lib.deep import longitudinal
from sscct_lib.deep.heads import HazardHead, hazard_targets

K = 3


def scans_of(counts, rng, n_inputs=3):
    """Scans of patients, in no order, with random inputs and logits."""
    rows = [(f"p{i}", day) for i, n in enumerate(counts) for day in np.sort(rng.integers(0, 3000, n))]
    table = pd.DataFrame(rows, columns=["patient_id", "scan_day"])
    table["scan_id"] = [f"s{i}" for i in range(len(table))]
    table = table.sample(frac=1, random_state=int(rng.integers(1000))).reset_index(drop=True)
    inputs = rng.standard_normal((len(table), n_inputs)).astype(np.float32)
    return longitudinal.Seen(table, inputs, rng.standard_normal((len(table), K)).astype(np.float32))


def network(n_inputs=3):
    torch.manual_seed(0)
    made = longitudinal.LongitudinalNetwork(n_inputs)
    torch.nn.init.normal_(made.correction.weight)
    return made.eval()


@settings(max_examples=40)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 10_000))
def test_later_scans_change_nothing(counts, seed):
    rng = np.random.default_rng(seed)
    seen = scans_of(counts, rng)
    model = network()
    logits = longitudinal.predict(model, seen)
    day = seen.scans["scan_day"].sample(random_state=seed).item()
    until = (seen.scans["scan_day"] <= day).to_numpy()
    # Removed:
    kept = longitudinal.Seen(seen.scans[until].reset_index(drop=True), seen.inputs[until], seen.logits[until])
    np.testing.assert_allclose(longitudinal.predict(model, kept), logits[until], atol=1e-5)
    # Changed, and moved in time:
    inputs, own = seen.inputs.copy(), seen.logits.copy()
    inputs[~until] = 9
    own[~until] = -9
    later = seen.scans.assign(scan_day=seen.scans["scan_day"].where(until, seen.scans["scan_day"] + 500))
    changed = longitudinal.Seen(later, inputs, own)
    np.testing.assert_allclose(longitudinal.predict(model, changed)[until], logits[until], atol=1e-5)


def test_earlier_scans_their_time_and_no_other_patient_matter():
    rng = np.random.default_rng(1)
    seen = scans_of([3, 2], rng)
    model = network()
    logits = longitudinal.predict(model, seen)
    last = seen.scans.groupby("patient_id")["scan_day"].idxmax()
    first = seen.scans.groupby("patient_id")["scan_day"].idxmin()
    inputs = seen.inputs.copy()
    inputs[first["p0"]] += 1
    moved = longitudinal.predict(model, longitudinal.Seen(seen.scans, inputs, seen.logits))
    assert np.abs(moved - logits)[last["p0"]].max() > 1e-4
    other = (seen.scans["patient_id"] == "p1").to_numpy()
    np.testing.assert_allclose(moved[other], logits[other], atol=1e-6)
    earlier = seen.scans.copy()
    earlier.loc[first["p0"], "scan_day"] -= 700
    moved = longitudinal.predict(model, longitudinal.Seen(earlier, seen.inputs, seen.logits))
    assert np.abs(moved - logits)[last["p0"]].max() > 1e-4


def test_sequences_by_hand():
    scans = pd.DataFrame(
        {
            "scan_id": ["c", "a", "b", "d"],
            "patient_id": ["p", "p", "q", "p"],
            "scan_day": [365.25, 0, 10, 365.25],
        }
    )
    rows, years = longitudinal.sequences(scans)
    assert rows.tolist() == [[1, 0, 3], [2, -1, -1]]
    np.testing.assert_allclose(years, [[0, 1, 0], [0, 0, 0]])


def cohort(n, rng):
    """Patients with two scans each; the second is followed by death where the score rose, the first tells nothing."""
    seen = scans_of([2] * n, rng, n_inputs=1)
    order = seen.scans.sort_values(["patient_id", "scan_day"])
    change = rng.choice([-1.0, 1.0], n)
    inputs = seen.inputs.copy()
    second = order.index[1::2]
    inputs[order.index[::2], 0] = rng.standard_normal(n)
    inputs[second, 0] = inputs[order.index[::2], 0] + 2 * change
    event = np.zeros(2 * n, dtype=bool)
    event[second] = change > 0
    seen = longitudinal.Seen(seen.scans, inputs, np.full((2 * n, K), -1.5, dtype=np.float32))
    died, survived = hazard_targets(np.where(event, 0.5, 6.0), event, (1.0, 3.0, 5.0))
    return seen, died, survived, second, change


@pytest.mark.slow
def test_a_rise_is_learned_and_the_same_seed_gives_the_same(monkeypatch):
    monkeypatch.setattr(longitudinal, "N_STEPS", 300)
    rng = np.random.default_rng(3)
    seen, died, survived, *_ = cohort(60, rng)
    models = [longitudinal.train(seen, died, survived, HazardHead(1, K), seed) for seed in (1, 1, 2)]
    new, _, _, second, change = cohort(60, rng)
    found = [longitudinal.predict(model, new)[second, 0] for model in models]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3
    rises, falls = found[0][change > 0], found[0][change < 0]
    assert np.mean(rises[:, None] > falls) > 0.85


def test_untrained_it_corrects_nothing():
    seen = scans_of([3, 1], np.random.default_rng(0))
    np.testing.assert_allclose(longitudinal.predict(longitudinal.LongitudinalNetwork(3).eval(), seen), seen.logits)
