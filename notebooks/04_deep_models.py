# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deep models: networks that look at the lungs
#
# A network looks at the lungs of a scan and gives the risk of death within each horizon. No feature is chosen by hand:
# what matters must be learned from the scans. Every risk on this page is *out of fold*: it comes from a model that
# never saw any scan of that patient.
#
# *What you will learn*: what a network is shown, whether it learned anything of patients it never saw, and when a
# picture of what it looks at says nothing.

# %% tags=["parameters"]
study_dir: str = ".."  # the study folder
run_name: str = "main"  # which run of the study
networks: list = None  # which of resnet18, densenet121, swin; none: as in the run
hu_range: list = None  # densities that the networks see as 0 and 1, HU; none: as in the run

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown

from sscct_lib.deep import cross_validation, cubes, explain, figures, longitudinal, out_of_distribution, tables
from sscct_lib.horizons import tables as horizon_tables
from sscct_lib.lungs.tables import usable_cohort
from sscct_lib.study import results
from sscct_lib.study.runs import open_run
from sscct_lib.study.schemas import ATTRIBUTIONS, PREDICTIONS, UNUSUAL
from sscct_lib.study.tables import write_table
from sscct_lib.study.words import NETWORK_WORDS

pd.set_option("display.max_colwidth", None)
results.show()
study = open_run(study_dir, run_name, deep={"networks": networks, "hu_range": hu_range})
deep = study.settings.deep
cohort = usable_cohort(study)

# %% [markdown]
# ## Training
#
# Patients are divided into folds; each model is trained on the patients of the other folds and tested on its own.
# In every epoch it sees one scan of each training patient, drawn anew, so that patients with many scans do not count
# more. Those who live long have more scans, so a scan drawn in this way is followed by death more often than a scan of
# the cohort; the learned risks are therefore moved to the hazards of all training scans, which changes no order (prior
# correction {cite:p}`king2001`). In training alone, scans are turned, moved, blurred, sharpened or made noisier a
# little at random, but not mirrored: the two sides of a chest differ. Networks that start from scratch get a second
# task, to tell how dense each zone of the lungs is, which needs no outcome (`density_weight` in `study.yaml`). A
# patient who left the study alive counts as alive up to that day, and as unknown after it.
#
# With `head: hazard` a network gives a hazard $h_j$ for each interval between horizons, the logistic function of a
# score, and the risk within the horizon $t_k$ is $1 - \prod_{j \le k} (1 - h_j)$, which cannot fall
# {cite:p}`gensheimer2019`. With `head: classifiers` each horizon has a score of its own.
#
# A trained model is kept: when this page is run again with the same data and settings, only what is missing is
# trained.

# %% tags=["hide-input"]
predictions = cross_validation.cross_validate(study, cohort, deep.networks, n_jobs=-1)
over_time = longitudinal.cross_validate_all(study, deep.networks, cohort)
written = pd.concat([predictions, over_time], ignore_index=True) if len(over_time) else predictions
write_table(written, study, "predictions/04_deep_models", PREDICTIONS)
models = tables.model_table(study)
models = models[models["network"].isin(deep.networks)]

# %% tags=["hide-input"]
Markdown(f"**What this run found.** {tables.findings(models)}")

# %% [markdown]
# ## What a network sees
#
# The picture shows one scan as a network receives it: cropped to the lungs, everything outside them black, and
# resized to a cube. Look at how much of a pattern survives the size: the coarser the cube, the more a network must
# rely on how dense the lungs are and where.

# %% tags=["hide-input"]
network = deep.networks[0]
view = cubes.view_of(study, network)
scan_id = cohort["scan_id"].iloc[0]
cube = np.load(cubes.cube_path(study, scan_id, view))
figures.network_input(cube, f"Scan {scan_id} as {NETWORK_WORDS[network]} sees it, {view.size} voxels per side")

# %% [markdown]
# ## The models
#
# *Weights* says where a network started. *None (from scratch)* means random numbers, and the name of the model says
# so in every table and figure: nothing was learned elsewhere. Pretrained weights are a file named in `study.yaml`
# with its SHA-256, and are refused when they fill less than 90 % of the network. *Waiting for data* is the share of the
# training time in which the next scans were read and changed.

# %% tags=["hide-input"]
tables.summary(models)

# %% [markdown]
# Of pretrained weights: how many tensors of the network the file filled, how many kept their random start, and how many
# the network has no place for. `sscct weights list` names published weights; without any, `sscct pretrain` lets a
# network learn from the scans of its training patients first.

# %% tags=["hide-input"]
loaded = tables.weights_table(study)
loaded.style.hide(axis="index") if len(loaded) else Markdown("No network of this run started from pretrained weights.")

# %% [markdown]
# ## How they learned
#
# Look at the dots: each is the loss on the patients of one fold, whom the model never saw; lower is better. The circle
# joined to it is their loss when every scan gets the same risk. A dot below its circle means that the image told
# something; dots far above the ends of the lines mean that the model knows its own patients better than others.

# %% tags=["hide-input"]
figures.learning_curves(tables.learning_curves(study), models)

# %% [markdown]
# ## Predictions
#
# Out-of-fold risks, averaged over scans. How good they are is the subject of the chapter on horizons.

# %% tags=["hide-input"]
horizon_tables.mean_risks(predictions)

# %% [markdown]
# A risk of death within five years cannot be lower than that within one. A network that gives hazards (`head: hazard`)
# keeps to this by construction; separate classifiers, as in the published study, need not.

# %% tags=["hide-input"]
tables.crossings(written)

# %% [markdown]
# ## All scans of a patient so far
#
# With `longitudinal: true` a small recurrent network reads what the trained network saw of each scan of a patient up to
# the current one, with the time between, and corrects the risk. It never sees a later scan. Its risks are listed as
# `longitudinal`; how they compare with those of the single scan, the table of variants in the next chapter shows.

# %% tags=["hide-input"]
horizon_tables.mean_risks(over_time) if len(over_time) else Markdown("No network of this run has a longitudinal model.")

# %% [markdown]
# ## Scans unlike those that a network learned from
#
# A network answers whatever it is shown. Here each scan is compared with the training scans, as the network sees them.
# A scan that lies farther out than nearly all scans of patients who were held out in the same way is flagged, and its
# risk deserves less trust. Some ordinary scans are flagged too, at the rate in the table. Look at the reasons: a
# density that no lung has is an error of the scanner or of the mask; severe disease may be rare and real.

# %% tags=["hide-input"]
unusual = write_table(out_of_distribution.flag_all(study, deep.networks, cohort), study, "unusual", UNUSUAL)
tables.flag_counts(unusual, deep.unusual_share) if len(unusual) else Markdown("No network of this run flags scans.")

# %% tags=["hide-input"]
flagged = tables.flagged_scans(unusual)
flagged.style.hide(axis="index") if len(flagged) else Markdown("No scan is flagged.")

# %% [markdown]
# ## What a risk rests on
#
# Here is the scan with the highest risk. In turn, each zone of its lungs is replaced by average lung, and the numbers
# say by how many percentage points its risk was higher as it is. Look for the zones where disease is: a model that
# answers to them has learned something that a radiologist would name. It shows what the model responds to, not what
# causes death. A risk near 100 % is how sure a network is that learned from few deaths, not how sure anybody can be.

# %% tags=["hide-input"]
longest = max(study.settings.horizons_years)
mean_risk = predictions[predictions["horizon_years"] == longest].groupby(["scan_id", "fold"])["risk"].mean()
scan_id, fold = mean_risk.idxmax()
zones = pd.concat([explain.explain_scan(study, name, scan_id, fold) for name in deep.networks])
figures.zone_changes(
    zones[zones["horizon_years"] == longest], f"Scan {scan_id}: change of the {longest:g}-year risk, percentage points"
)

# %% tags=["hide-input"]
Markdown(tables.flag_sentence(unusual, scan_id))

# %% [markdown]
# Finer: the score of the same scan shared out among its voxels (integrated gradients). Orange raises the risk against a
# lung of average density, purple lowers it. Do not read a picture that *fails the check*: it hardly depends on what the
# network learned, as the table below shows.

# %% tags=["hide-input"]
explained = explain.most_at_risk(predictions, deep.n_explained)
checked = explain.attribute_scans(study, deep.networks, explained)
checked = write_table(checked, study, "attributions", ATTRIBUTIONS)
scan_id = explained["scan_id"].iloc[0]
maps = {
    explain.map_title(name, checked): np.load(study.attribution(name, scan_id))
    for name in deep.networks
    if deep.network(name).size == view.size
}
cube = np.load(cubes.cube_path(study, scan_id, view))
figures.attributions(cube, maps, f"Scan {scan_id}: what raises (orange) and lowers (purple) its risk")

# %% [markdown]
# Such pictures can deceive: some look the same whatever the network has learned, since they follow the edges of the
# image. So each is compared with that of the same network with random weights; a picture that hardly differs says
# nothing about what was learned. Whether networks look where the disease is, the chapter on
# [how good they could be](05_attainable.ipynb) tells for simulated patients.

# %% tags=["hide-input"]
explain.sanity(checked)

# %% [markdown]
# ```{note}
# In the demo study the networks are trained small and briefly, so that this page is made in minutes without a
# graphics card: coarse cubes, few epochs, no pretrained weights, a few dozen patients. It shows that everything
# works, and how the results are read; it does not show what such networks can do. The same code trains at full size:
# see the section `deep` of `study.yaml`.
# ```

# %% [markdown]
# ## To take home
#
# - Judge a network on patients it never saw, beside a model that ignores the image.
# - *From scratch* means that nothing was learned elsewhere; small cohorts then teach little.
# - A map that looks the same for a network with random weights explains nothing.
