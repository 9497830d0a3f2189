"""Whether a run can come to its end, told before any of its work is done.

What judges a stage is loaded where the stage is asked for: all of it would take seconds.
"""

import pandas as pd

from sscct_lib.study.folder import Study
from sscct_lib.study.stages import NOTEBOOKS


def check_ready(study: Study, manifest: pd.DataFrame, last: str | None = None) -> None:
    """Refuse what a later stage would refuse, hours after the start; `last`: notebook after which the run stops."""
    if study.settings.horizons.model_fields_set & {"planned", "reference"}:
        from sscct_lib.horizons.planned import check_planned

        check_planned(study.settings, models_made(study))
    from sscct_lib.lungs.decisions import check_decisions

    check_decisions(study, manifest["scan_id"])
    stages = NOTEBOOKS if last is None else NOTEBOOKS[: NOTEBOOKS.index(last) + 1]
    # What a finished stage needed is not asked for again.
    if "02_segmentation_qa" in stages and not study.table("lungs").is_file():
        from sscct_lib.lungs.trained import check_method, chosen_methods

        for method in chosen_methods(study.settings.lungs):
            check_method(method, study.settings.lungs, study.folder)
    if "03_radiomics" in stages:
        from sscct_lib.cohort.selection import check_can_be_modelled, followed

        check_can_be_modelled(followed(manifest), study)
    if "04_deep_models" in stages and not study.table("predictions/04_deep_models").is_file():
        from sscct_lib.deep.weights import check_weights

        for network_name in study.settings.deep.networks:
            check_weights(study, network_name)


def models_made(study: Study) -> set[str]:
    """Plain names of the models that a study makes, and of those whose predictions its run was given."""
    from sscct_lib.horizons.models import STACKED
    from sscct_lib.radiomics.clinical_scores import PUBLISHED, baselines
    from sscct_lib.radiomics.cross_validation import models_of
    from sscct_lib.study.schemas import stored_names
    from sscct_lib.study.tables import read_parquet
    from sscct_lib.study.words import NETWORK_WORDS, plain_names

    deep = study.settings.deep
    networks = {NETWORK_WORDS[name] for name in deep.networks}
    histories = {f"{NETWORK_WORDS[name]}, longitudinal" for name in deep.networks if deep.network(name).longitudinal}
    given = study.table("predictions/x").parent.glob("[!.]*.parquet")
    read = {name for path in given for name in plain_names(read_parquet(path)).values()}
    made = {model.name for model in models_of(study)} | {*baselines(stored_names(study.settings.covariates).values())}
    return made | {*PUBLISHED, STACKED} | networks | histories | read
