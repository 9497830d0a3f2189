# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The cohort
#
# Whom does this study speak of? This chapter counts the scans that came in and those that were left out, with the
# reason; describes the patients; shows how long they were followed; and says for each scan whether the patient was
# alive at each horizon.
#
# *What you will learn*: who is in the study and who is not, what is known of each patient at each horizon, and what is
# done with a scan whose patient was not followed that long.

# %% tags=["parameters"]
study_dir: str = ".."  # the study folder
run_name: str = "main"  # which run of the study
n_folds: int = None  # cross-validation folds, split by patient; none: as in the run
horizons_years: list = None  # years after the scan at which risk is judged; none: as in the run
labels: str = None  # censored_unknown or as_published; none: as in the run

# %% tags=["hide-input"]
from IPython.display import Markdown
from myst_nb import glue

from sscct_lib.cohort import figures, selection, tables
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.horizons import censoring, survival
from sscct_lib.horizons import figures as horizon_figures
from sscct_lib.horizons import tables as horizon_tables
from sscct_lib.horizons.patients import middle_horizon
from sscct_lib.images.prepare import prepare_scans
from sscct_lib.study import results
from sscct_lib.study.disclosure import count_text, of_patients, rule_in_words
from sscct_lib.study.runs import open_run
from sscct_lib.study.schemas import COHORT, IMAGES
from sscct_lib.study.tables import write_table
from sscct_lib.study.words import horizons_text

results.show()
study = open_run(study_dir, run_name, horizons_years=horizons_years, labels=labels, cohort={"n_folds": n_folds})

# %% [markdown]
# ## Scans that came in, and scans that stayed
#
# Each row of the manifest is one CT scan. A scan is set aside when its image cannot be used, or when nothing is
# known of the patient after the scan.

# %% tags=["hide-input"]
manifest = read_manifest(study)
images = write_table(prepare_scans(study, manifest, n_jobs=-1), study, "images", IMAGES)
kept, flow = selection.select(manifest, images)
cohort = write_table(selection.build_cohort(kept, study), study, "cohort", COHORT)

# %% tags=["hide-input"]
primary = study.settings.horizons.primary_years or middle_horizon(study.settings)
Markdown(f"**What this run found.** {tables.findings(cohort, primary)}")

# %% tags=["hide-input"]
Markdown(rule_in_words())

# %% [markdown]
# Read the diagram from top to bottom; boxes to the right were left out.

# %% tags=["hide-input"]
figures.flow_diagram(flow)

# %% tags=["hide-input"]
Markdown(f"In words: {selection.flow_text(flow)}")

# %% tags=["hide-input"]
glue("horizons", horizons_text(study.settings.horizons_years), display=False)
glue("unknown_rule", tables.UNKNOWN_RULE[study.settings.labels], display=False)
glue("n_scans", of_patients(len(cohort), cohort["patient_id"].nunique()), display=False)
glue("n_patients", count_text(cohort["patient_id"].nunique()), display=False)
glue("n_patients_died", count_text(cohort.groupby("patient_id")["event_observed"].any().sum()), display=False)
failed = images.loc[images["status"] == "failed", ["scan_id", "reason"]]
glue("n_images_failed", count_text(len(failed)), display=False)
failed.style.hide(axis="index") if len(failed) else Markdown("Every image could be used.")

# %% [markdown]
# ## The patients
#
# One line per characteristic, at each patient's first scan in the cohort; "Missing" counts the patients for whom it is
# not known.

# %% tags=["hide-input"]
tables.characteristics(cohort)

# %% [markdown]
# Is a value missing more often for those who die? Then the gap itself tells of the risk, and a model that fills it with
# the median of the others must be told so. Patients at their first scan: those who died within the primary horizon,
# and those known to be alive then.

# %% tags=["hide-input"]
lacking = tables.missing_by_outcome(cohort, primary)
lacking if len(lacking) else Markdown("No clinical value is missing, or nobody died, or nobody is known to be alive.")

# %% [markdown]
# ## Follow-up
#
# The curve shows the share of scans still under observation, as if nobody had died (reverse Kaplan-Meier); the
# numbers below it are the scans still followed. Where it falls, less is known.

# %% tags=["hide-input"]
horizon_figures.followup_curve(survival.followup_curve(cohort))

# %% [markdown]
# ## Who is lost to follow-up?
#
# The book's estimates suppose that those who leave would have fared as those who stay. One line per property of
# patients at their first scan: a hazard ratio above 1 says that patients who have more of it are lost sooner. Deaths
# end the chance to be lost. A later first scan leaves less time until the study ends, so its ratio is above 1 in most
# studies; it matters where patients of later years are also more or less ill. Where age or lung function matter, the
# [chapter on robustness](05_robustness.ipynb) shows what other weights make of the results.

# %% tags=["hide-input"]
lost = censoring.hazards_of_loss(cohort)
horizon_tables.hazards_in_words(lost) if len(lost) else Markdown("Fewer than five patients were lost: not estimable.")

# %% [markdown]
# ## Alive or not at each horizon
#
# For each horizon: scans followed by death within that time, scans known to be alive then, and scans of which we do
# not know. The last column shows what the share of deaths would be if the unknown were counted as alive, as is
# presumably done in the published study.

# %% tags=["hide-input"]
tables.label_counts(cohort, study.settings.horizons_years)

# %% [markdown]
# ## Folds
#
# Models are trained on some patients and tested on the others. All scans of a patient are in the same fold, so no
# model is ever tested on a patient it has seen.

# %% tags=["hide-input"]
tables.fold_counts(cohort, study.settings.horizons_years)

# %% [markdown]
# ## To take home
#
# - A scan, not a patient, is what is judged; but patients are split, resampled and counted.
# - Short follow-up makes a scan unknown, neither dead nor alive, unless a study says otherwise.
# - What is missing, and who is lost, can tell as much as what is there: look before you trust a model.
