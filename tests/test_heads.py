import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from sscct_lib import heads, networks

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
    network.start_at(np.array([0.1, 0.2, 0.3]))
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
