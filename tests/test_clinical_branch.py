import numpy as np
import pandas as pd
import pytest
import torch

from sscct_lib import networks
from sscct_lib.clinical_branch import N_VALUES, ClinicalBranch, clinical_values

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
