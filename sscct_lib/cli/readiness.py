"""Whether a run can come to its end, told before any of its work is done."""

import pandas as pd

from sscct_lib.cohort.selection import check_can_be_modelled, followed
from sscct_lib.deep.weights import check_weights
from sscct_lib.lungs.trained import check_method, chosen_methods
from sscct_lib.study.folder import Study
from sscct_lib.study.stages import NOTEBOOKS


def check_ready(study: Study, manifest: pd.DataFrame, last: str | None = None) -> None:
    """Refuse what a later stage would refuse, hours after the start; `last`: notebook after which the run stops."""
    stages = NOTEBOOKS if last is None else NOTEBOOKS[: NOTEBOOKS.index(last) + 1]
    # What a finished stage needed is not asked for again.
    if "02_segmentation_qa" in stages and not study.table("lungs").is_file():
        for method in chosen_methods(study.settings.lungs):
            check_method(method, study.settings.lungs, study.folder)
    if "03_radiomics" in stages:
        check_can_be_modelled(followed(manifest), study)
    if "04_deep_models" in stages and not study.table("predictions/04_deep_models").is_file():
        for network_name in study.settings.deep.networks:
            check_weights(study, network_name)
