# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Radiomics: numbers from the lungs, and risks from the numbers
#
# A CT scan is reduced to numbers: how dense the lungs are, where, and how their texture varies. Simple models turn
# these numbers, and what the clinic knows, into the risk of death within each horizon. Every risk on this page is
# *out of fold*: it comes from a model that never saw any scan of that patient.
#
# *What you will learn*: which features hold still when nothing in the lung changes, what a model on them adds to what
# the clinic knows, and how to read a weight that was learned from few deaths.

# %% tags=["parameters"]
study_dir: str = ".."  # the study folder
run_name: str = "main"  # which run of the study
spacing_mm: float = None  # voxel side at which features are computed, mm; none: as in the run
bin_width: float = None  # width of a grey-level bin, HU; none: as in the run
n_inner_folds: int = None  # folds inside the training patients, for tuning; none: as in the run
n_repeats: int = None  # times that cross-validation is repeated; none: as in the run
n_stability_scans: int = None  # scans that are perturbed to see which features are stable; none: as in the run

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown
from myst_nb import glue

from sscct_lib.cohort import figures
from sscct_lib.cohort.outcomes import label_name
from sscct_lib.cohort.selection import flow_text, select_features
from sscct_lib.horizons import sample_size
from sscct_lib.horizons import tables as horizon_tables
from sscct_lib.lungs import segment
from sscct_lib.radiomics import (
    clinical_scores,
    cross_validation,
    explain,
    extract,
    feature_sets,
    pipeline,
    saved,
    stability,
    tables,
)
from sscct_lib.radiomics import figures as radiomic_figures
from sscct_lib.study import results
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.runs import open_run
from sscct_lib.study.schemas import COHORT, LUNGS, PREDICTIONS, RADIOMICS
from sscct_lib.study.tables import read_table, write_table
from sscct_lib.study.words import years_text

results.show()
study = open_run(
    study_dir,
    run_name,
    radiomics={"spacing_mm": spacing_mm, "bin_width": bin_width},
    tabular={"n_inner_folds": n_inner_folds, "n_repeats": n_repeats, "n_stability_scans": n_stability_scans},
)
cohort = read_table(study, "cohort", COHORT)
lung_table = read_table(study, "lungs", LUNGS)

# %% [markdown]
# ## Features
#
# Features are computed for every scan whose lung mask passed, or is up for review. `original_...` are the 107 features
# of PyRadiomics, under its own names; `qct_...` is quantitative CT.

# %% tags=["hide-input"]
usable = segment.usable(lung_table)
features = extract.extract_scans(study, usable, n_jobs=-1)
features = write_table(features, study, "radiomics", RADIOMICS)
n_failed = int((features["status"] == "failed").sum())
glue("n_scans_features_failed", count_text(n_failed), display=False)
failed = features.loc[features["status"] == "failed", ["scan_id", "reason"]]
failed.style.hide(axis="index") if n_failed else Markdown("Every usable mask gave features.")

# %% [markdown]
# The flow of the chapter on the lungs goes on: scans without features are left out to the right, and a table above
# says why.

# %% tags=["hide-input"]
flow = select_features(cohort, features)
figures.flow_diagram(flow)

# %% tags=["hide-input"]
Markdown(f"In words: {flow_text(flow)}")

# %% [markdown]
# Quantitative CT over all scans: half of the scans lie below the median. Look at HAA in the lower zones:
# fibrosis in systemic sclerosis begins there. HAA and LAA-950 are per cent of the lung; HAA also holds vessels, so some
# of it is in every patient.

# %% tags=["hide-input", "fold-output"]
tables.quantitative_ct(features)

# %% [markdown]
# ## Stability
#
# A feature that changes when the mask grows by a voxel, the patient lies turned by three degrees, or the image is
# a little noisier, says more about the scanning than about the lung. Some scans are changed in such ways, and the
# agreement between the versions is measured (intraclass correlation, 1 is perfect). The models leave out features
# that do not agree, as judged on their training patients alone. The figure shows all features by class, the best
# first within each; the line is the limit.

# %% tags=["hide-input"]
versions = stability.versions_of_scans(study, usable, n_jobs=-1)
agreed = pipeline.feature_agreement(versions)
min_icc = study.settings.tabular.min_icc
glue("n_features_stable", int((agreed["icc"] >= min_icc).sum()), display=False)
glue("n_features", len(agreed), display=False)
radiomic_figures.feature_stability(agreed, min_icc)

# %% [markdown]
# ## Models
#
# The models see different columns: clinical values (age, sex, cutaneous subtype, FVC, DLCO), quantitative CT, both,
# PyRadiomics' features, these with their change a year since the patient's scan before, or everything. Each is an
# elastic-net Cox regression: it weighs features, leaves out those of no use, and gives every scan one risk curve from
# all of the follow-up. Others are tried beside it on some of the feature sets: a logistic regression at each horizon, a
# survival forest, boosted trees, and the same Cox regression after ComBat has brought all scanners to one scale.
#
# Patients are split into folds several times. Filling in missing values, choosing stable and distinct features,
# harmonising, scaling and tuning are learned from the training patients of each fold alone. A patient with many scans
# counts as much as one with a single scan. Each split is judged by itself, and the results are averaged; where the risk
# of a single scan is shown, it is the mean over the splits. Scans whose mask failed train no model, but are predicted
# apart, so that the chapter on horizons can tell what the results would be with them.

# %% tags=["hide-input"]
table = feature_sets.join(cohort, features)
result = cross_validation.cross_validate(table, study, n_jobs=-1, versions=versions)
predictions = write_table(result.predictions, study, "predictions/03_radiomics", PREDICTIONS)
failed_masks = segment.removed(lung_table)
features_removed = extract.extract_scans(study, failed_masks, n_jobs=-1)
both = feature_sets.join(cohort, pd.concat([features, features_removed]))
removed = cross_validation.predict_removed(result, table, both[both["scan_id"].isin(failed_masks["scan_id"])])
write_table(removed, study, "removed/03_radiomics", PREDICTIONS)

# %% [markdown]
# What could not be fitted, or was fitted with less than planned, is listed here.

# %% tags=["hide-input"]
unfitted = tables.fitting_notes(result.notes)
unfitted.style.hide(axis="index") if len(unfitted) else Markdown("Every model was fitted as planned.")

# %% [markdown]
# Out-of-fold risks, averaged over scans. How good they are is the subject of the chapter on horizons.

# %% tags=["hide-input"]
horizon_tables.mean_risks(predictions)

# %% [markdown]
# ## What clinicians use today
#
# A model of the CT must do better than what is known without it. Baselines: age and sex; FVC and DLCO; the ILD-GAP
# index (sex, age, FVC and DLCO in points, less 2 as for every patient with connective tissue disease)
# {cite:p}`ryerson2014`; Goh's stage, extensive or limited {cite:p}`goh2008`; and, where the study declares
# `ever_smoked`, SADL (smoking, age and DLCO in points) {cite:p}`morisset2017`. Their risks are learned inside the
# training patients like those of the other models. Points and stage need no fit to put patients in order: their
# AUC is that of the points and of the stage, on the scans for which every part is known, and the risk learned from them
# serves calibration, Brier score and net benefit.
#
# The ILD-GAP index also comes with published risks for 1, 2 and 3 years, which are judged as they are; so does GAP
# {cite:p}`ley2012`, the index for idiopathic pulmonary fibrosis. Its points are those of ILD-GAP and 2 more, so that
# both put patients in the same order; only their published risks differ.
#
# Goh's stage needs the extent of disease on CT, which a radiologist reads. Here HAA stands in for
# it, and that is not the same: vessels are dense too. A missing DLCO is not counted as one that the patient was too ill
# to do; the table of patients says so in `dlco_impossible`.

# %% tags=["hide-input"]
known_scores, not_fitted = clinical_scores.predict(table, study)
known_scores = write_table(known_scores, study, "predictions/03_baselines", PREDICTIONS)
horizon_tables.mean_risks(known_scores)

# %% tags=["hide-input"]
lacking = tables.fitting_notes(not_fitted)
lacking.style.hide(axis="index") if len(lacking) else Markdown("Every baseline was fitted as planned.")

# %% [markdown]
# ## Does a clinical value tell the same for years?
#
# A Cox model takes it that a value multiplies the rate of death by the same factor at any time after the scan. Here
# this is tested for the clinical values (scaled Schoenfeld residuals {cite:p}`grambsch1994`), in a Cox model on each
# patient's first scan, since several scans of a patient are no independent witnesses. A small p says that the factor
# changes: the one in the model is then an average over follow-up, and at short horizons the value tells more, or less,
# than the model believes. Look at all rows together: of twenty values that do not change, one has p below 0.05. Few
# deaths hide much.

# %% tags=["hide-input"]
tested = explain.proportional_hazards(table, feature_sets.clinical_columns(study.settings.covariates))
tables.hazards_over_time(tested) if len(tested) else Markdown("Too few patients died to tell.")

# %% [markdown]
# ## What the model with most features needs
#
# One kind of feature at a time is shuffled among the tested scans, so that it says nothing; the figure shows how far
# the out-of-fold AUC then falls. Behind each kind stands its number of features. What two kinds both know, either can
# lose without harm: a small loss does not mean that the kind is unrelated to risk.

# %% tags=["hide-input"]
horizon = sorted(study.settings.horizons_years)[len(study.settings.horizons_years) // 2]
explained = study.settings.tabular.feature_sets[-1]
needed = explain.held_out_importance(result, table, explained, horizon, study)
radiomic_figures.importance(needed, f"Death within {years_text(horizon)}")

# %% [markdown]
# The weights of single features: each dot is one fit (a fold of a repeat), the tick is their mean, the bar their range.
# Below each name stands in how many fits the feature was chosen at all. A weight is what a feature adds when all others
# stay the same, and in a small cohort part of it is chance: a feature can weigh against what clinicians expect (a
# large lung towards death, say) when its neighbours already carry the expected part. Read only what every fit chose.

# %% tags=["hide-input"]
weights = explain.feature_weights(result, explained)
leading = explain.leading_features(weights)
known = table[label_name(horizon)].dropna()
counts = f"{len(table)} scans, {table['patient_id'].nunique()} patients"
radiomic_figures.feature_weights(weights, leading, f"{explained}: {counts}")

# %% tags=["hide-input"]
Markdown(tables.always_chosen(weights))

# %% [markdown]
# How the risk changes along the leading features, each in its own unit: the curve is the mean over the fits, the band
# holds 95 % of them, and the ticks are tenths of the scans. Zero is the mean over the scans; between two ticks the
# curve compares scans that differ in this feature only. A flat curve with a wide band is a feature to be wary of.

# %% tags=["hide-input"]
ranked = explain.leading_features(weights, n=40)
along = explain.accumulated_effects(result, table, explained, ranked, horizon)
radiomic_figures.feature_effects(along, f"Death within {years_text(horizon)}: {known.sum()} of {len(known)} scans")

# %% [markdown]
# ## Models for new scans
#
# The same models, fitted on all scans and saved with a [model card](../model_cards.md). For each horizon: how many of
# the scans of known state were followed by death, of how many patients these scans are, and how many scans are of
# unknown state.

# %% tags=["hide-input"]
tables.saved_models(saved.save_models(table, study, n_jobs=-1, versions=versions))

# %% [markdown]
# ## Are there enough patients?
#
# Riley's criteria {cite:p}`riley2020` say how many patients a regression needs at least: so that its coefficients need
# shrinking by no more than a tenth (*against overfitting*), so that what it seems to explain is hardly more than what
# it does, and so that the overall risk is known within 0.05. Parameters count before any is chosen; of the variation
# that can be explained, 15 % is assumed, as where nothing is known. A patient counts once, however many scans there
# are. A penalty that chooses among features of which many are alike needs fewer patients than the count says, and no
# criterion counts the parameters of a network: for both, the learning curve ([for statisticians](../statistics.md))
# tells more.

# %% tags=["hide-input"]
offered = {name: feature_sets.n_parameters(name, table) for name in study.settings.tabular.feature_sets}
enough = sample_size.needed(table, offered, horizon)
enough if len(enough) else Markdown(horizon_tables.TOO_FEW)

# %% [markdown]
# ## To take home
#
# - A feature that changes with the mask, the noise or the scanner says little about the lung.
# - Choosing features and tuning belong inside the training patients; outside, they flatter.
# - A weight is what a feature adds to all others, in this cohort; it is no cause.
