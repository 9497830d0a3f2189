"""A cohort, and the predictions of a good and of a noisy model for it."""

import pandas as pd
import pytest

from tests.horizons.cohorts import make_cohort, make_predictions


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150)


@pytest.fixture(scope="module")
def predictions(cohort):
    return pd.concat(
        [make_predictions(cohort, 0.2, "Clinical"), make_predictions(cohort, 3.0, "Noisy")], ignore_index=True
    )
