import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from sscct_lib.deep import heads, networks
from sscct_lib.deep.heads import N_VALUES, ClinicalBranch, clinical_values

HORIZONS = (1.0, 3.0, 5.0)


def targets(followup, event):
    followup, event = np.asarray(followup, dtype=float), np.asarray(event, dtype=bool)
    return [torch.from_numpy(part) for part in heads.hazard_targets(followup, event, HORIZONS)]


def test_classifiers_learn_from_known_states_alone():
    head = heads.ClassifierHead(4, 3)
    logits = torch.tensor([[0.3, -0.2, 0.9]]).expand(6, 3)
    # died at 0.5; died at 2; alive at 6; censored at 2, at 0.5; alive at exactly 3.
    losses = head.losses(logits, *targets([0.5, 2, 6, 2, 0.5, 3], [1, 1, 0, 0, 0, 0]))
    dead, alive = functional.softplus(-logits[0]), functional.softplus(logits[0])
    expected = [dead.sum(), alive[0] + dead[1] + dead[2], alive.sum(), alive[0], 0 * alive[0], alive[0] + alive[1]]
    torch.testing.assert_close(losses, torch.stack(expected))


def test_counted_as_alive_every_scan_teaches_every_classifier():
    head = heads.ClassifierHead(4, 3)
    logits = torch.zeros(1, 3)
    as_published = head.losses(logits, *targets([np.inf], [0]))
    assert as_published.item() == pytest.approx(3 * np.log(2))


def test_classifiers_start_at_the_risks_of_the_cohort_and_can_cross():
    torch.manual_seed(0)
    network = networks.HazardNetwork(torch.nn.Flatten(), 8, 3, head="classifiers")
    network.head.start_at(np.array([0.1, 0.2, 0.3]))
    risk = network.risks(network(torch.zeros(1, 1, 2, 2, 2)))
    np.testing.assert_allclose(risk[0].detach(), [0.1, 0.28, 0.496], rtol=1e-5)
    crossing = heads.ClassifierHead(1, 3)
    with torch.no_grad():
        crossing.score.weight.copy_(torch.tensor([[1.0], [-1.0], [0.5]]))
    found = crossing.risks(crossing(torch.tensor([[2.0]])))[0]
    assert found[0] > found[1]


@pytest.mark.parametrize("kind", [heads.HazardHead, heads.ClassifierHead])
def test_what_was_learned_from_chosen_scans_is_moved_to_the_risk_of_all(kind):
    """Logistic regression on as many deaths as others, against that on everybody (King and Zeng 2001)."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60_000, 1))
    event = rng.random(60_000) < 1 / (1 + np.exp(3.5 - x[:, 0]))
    chosen = np.concatenate([np.flatnonzero(event), rng.choice(np.flatnonzero(~event), event.sum(), replace=False)])
    regression = LogisticRegression(C=np.inf).fit(x[chosen], event[chosen])
    head = kind(1, 1)
    with torch.no_grad():
        head.score.weight.fill_(regression.coef_.item())
        head.baseline.fill_(regression.intercept_.item())
        before = head.risks(head(torch.from_numpy(x).float()))
        assert before.mean().item() > 4 * event.mean()
        head.correct_prior(np.array([0.5]), np.array([event.mean()]))
        after = head.risks(head(torch.from_numpy(x).float()))
    assert after.mean().item() == pytest.approx(event.mean(), rel=0.02)
    whole = LogisticRegression(C=np.inf).fit(x, event)
    assert (head.baseline + head.shift).item() == pytest.approx(whole.intercept_.item(), abs=0.06)


def test_each_classifier_fits_the_share_of_deaths_among_known_scans():
    rng = np.random.default_rng(1)
    time, censored_at = rng.exponential(6, 3000), rng.uniform(0, 8, 3000)
    event, followup = time <= censored_at, np.minimum(time, censored_at)
    died, survived = targets(followup, event)
    head = heads.ClassifierHead(1, 3)
    optimiser = torch.optim.LBFGS([head.baseline], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = head.losses(head(torch.zeros(len(died), 1)), died, survived).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    for k, horizon in enumerate(HORIZONS):
        dead = event & (followup <= horizon)
        known = dead | (followup >= horizon)
        assert head.baseline[k].sigmoid().item() == pytest.approx(dead[known].mean(), abs=1e-3)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    network = networks.HazardNetwork(torch.nn.Flatten(), 8, 3, dropout=0.5)
    features = torch.rand(4, 8)
    network.eval()
    torch.testing.assert_close(network.logits(features), network.logits(features))
    network.train()
    assert (network.logits(features) - network.logits(features)).abs().max() > 1e-3


SCANS = pd.DataFrame(
    {
        "patient_id": ["a", "a", "b", "c"],
        "age_years": [50.0, 54, 60, 68],
        "fvc_percent": [80.0, 80, np.nan, 60],
        "dlco_percent": [np.nan] * 4,
        "sex": ["female", "female", "male", None],
        "ssc_subtype": ["diffuse", "diffuse", None, "limited"],
    }
)


def fitted():
    torch.manual_seed(0)
    branch = ClinicalBranch()
    branch.fit(clinical_values(SCANS), SCANS["patient_id"])
    return branch


def test_values_by_hand():
    values = clinical_values(SCANS)
    assert values.shape == (4, N_VALUES)
    np.testing.assert_array_equal(values[0], [50, 80, np.nan, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(values[3], [68, 60, np.nan, np.nan, 1, 0, 0, 0])
    assert np.isnan(clinical_values(SCANS[["patient_id"]])).all()


def test_scale_and_medians_are_those_of_patients():
    branch = fitted()
    assert branch.median[0] == 60  # of 52, 60, 68
    assert branch.mean[0] == 60
    assert branch.spread[0].item() == pytest.approx(np.std([52, 60, 68]), rel=1e-6)
    assert branch.median[1] == 70
    assert branch.can_miss.tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


def test_missing_counts_as_the_median_and_is_told():
    branch = fitted()
    plain = torch.tensor(clinical_values(SCANS[:1]))
    missing, median = plain.clone(), plain.clone()
    missing[0, 1], median[0, 1] = torch.nan, branch.median[1]
    inputs = []
    branch.layers.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    branch(missing)
    branch(median)
    torch.testing.assert_close(inputs[0][:, :N_VALUES], inputs[1][:, :N_VALUES])
    assert (inputs[0] - inputs[1]).nonzero().tolist() == [[0, N_VALUES + 1]]
    # Age was never missing in training: its indicator stays silent, whatever comes.
    aged = plain.clone()
    aged[0, 0] = torch.nan
    branch(aged)
    assert inputs[2][0, N_VALUES] == 0
    assert torch.isfinite(branch(torch.full((1, N_VALUES), torch.nan))).all()


def test_values_beyond_the_training_patients_count_as_theirs():
    branch = fitted()
    old, oldest = (torch.tensor(clinical_values(SCANS[:1].assign(age_years=age))) for age in (68.0, 120.0))
    torch.testing.assert_close(branch(old), branch(oldest))


def test_a_network_learns_from_clinical_values_and_keeps_their_scale():
    torch.manual_seed(0)
    network = networks.HazardNetwork(torch.nn.Flatten(), 8, 3, clinical=True)
    network.clinical.fit(clinical_values(SCANS), SCANS["patient_id"])
    volume = torch.zeros(4, 1, 2, 2, 2)
    values = torch.tensor(clinical_values(SCANS))
    network(volume, values).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.clinical.layers.parameters())
    again = networks.HazardNetwork(torch.nn.Flatten(), 8, 3, clinical=True)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(volume, values), network(volume, values))
    # Every logit moves by the same amount: the image's part stays what it is.
    moved = network(volume, values) - network(volume)
    torch.testing.assert_close(moved, moved[:, :1].expand(4, 3))
