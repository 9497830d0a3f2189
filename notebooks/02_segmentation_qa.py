# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lung masks, and whether to trust them
#
# Everything that follows looks only at what lies inside the lung masks: a mask that cuts away dense fibrosis, or takes
# in part of the liver, spoils every later number. This chapter finds the lungs of each scan, measures scan and mask,
# and gives each a verdict: *pass*, *review* (a person should look) or *fail* (not usable). Failures come first.
#
# *What you will learn*: how lungs are found without training, by which rules a mask or a scan is doubted, and how a
# person overrules them.

# %% tags=["parameters"]
study_dir: str = ".."  # the study folder
run_name: str = "main"  # which run of the study
method: str = None  # threshold, provided, lungmask or totalsegmentator; none: as in the run
review: bool = False  # in JupyterLab, look at the masks below and decide on each

# %% tags=["hide-input"]
from IPython.display import Markdown, display
from myst_nb import glue

from sscct_lib.cohort import figures as cohort_figures
from sscct_lib.cohort import selection
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.lungs import agreement, figures, segment
from sscct_lib.lungs.decisions import read_decisions
from sscct_lib.lungs.tables import findings, plausible_ranges, rule_counts, verdict_counts
from sscct_lib.study import results
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.folder import DECISIONS_FILE
from sscct_lib.study.runs import open_run
from sscct_lib.study.schemas import COHORT, IMAGES, LUNGS
from sscct_lib.study.tables import read_table, write_table
from sscct_lib.study.words import RULE_WORDS

results.show()
study = open_run(study_dir, run_name, lungs={"method": method})

# %% [markdown]
# ## How the lungs are found
#
# The air inside the body is found by its density. Trachea and main bronchi are followed and taken out, as is gas in
# stomach and bowel. Right and left lung are told apart. Each lung then grows over its vessels, over ground glass,
# reticulation, honeycombing and lung without air, and out to the pleura, so that disease at the edge stays inside. No
# training and no weights are involved. Other methods can be named in `study.yaml`, and two can be compared on every
# scan; [masks and their checks](../lung_masks.md) shows how well they hold, disease by disease. Every scan that could
# be read gets a mask, followed up or not.

# %% tags=["hide-input"]
cohort = read_table(study, "cohort", COHORT)
images = read_table(study, "images", IMAGES)
rows = read_manifest(study).merge(images.loc[images["status"] == "ok", ["scan_id"]], on="scan_id")
table = write_table(segment.segment_scans(study, rows, n_jobs=-1), study, "lungs", LUNGS)

# %% tags=["hide-input"]
Markdown(f"**What this run found.** {findings(table)}")

# %% [markdown]
# ## Verdicts
#
# Scans that were *set aside* have no mask at all; the reason follows below. A person may change a verdict or mend a
# mask; the last column counts these, and so does the flow diagram.

# %% tags=["hide-input"]
glue("n_masks_failed", count_text((table["verdict"] == "fail").sum()), display=False)
glue("n_masks_none", count_text((table["status"] == "failed").sum()), display=False)
glue("n_masks_review", count_text((table["verdict"] == "review").sum()), display=False)
verdict_counts(table)

# %% [markdown]
# ## Failures and scans to review
#
# Each row shows a scan in three planes through the flagged place (yellow ring). The patient's right is on the left.
# Right lung: full line; left lung: dashed line. Does the line follow the pleura, and is all of the disease inside?

# %% tags=["hide-input"]
judged = table[table["status"] == "ok"]
flagged = figures.worst_first(judged).head(4)
figures.mask_overlay([figures.overlay(study, row) for row in flagged.to_dict("records")], "No scan was flagged.")

# %% tags=["hide-input"]
n_flagged = int(judged["verdict"].isin(["review", "fail"]).sum())
Markdown(f"Shown: {len(flagged)} of the {count_text(n_flagged)} scans that were flagged, the worst first.")

# %% [markdown]
# ## Look, and decide
#
# `sscct review STUDY` shows the scans one by one, those with findings first, and keeps what you decide. The same page
# opens here in JupyterLab with `review = True` in the first cell; run this chapter again when you have decided.

# %% tags=["hide-input"]
if review:
    from sscct_lib.lungs.review import Review

    display(Review(study))

# %% [markdown]
# ## What was left out, and by which rule
#
# The flow of the chapter on the cohort goes on: scans without a usable mask are left out to the right.

# %% tags=["hide-input"]
flow = selection.select_masks(cohort, table)
cohort_figures.flow_diagram(flow)

# %% tags=["hide-input"]
Markdown(f"In words: {selection.flow_text(flow)}")

# %% [markdown]
# Which rule flagged how many scans, and how many it removed (verdict *fail*); the third column counts scans that no
# other rule flagged. An empty table means that every scan passed every rule. What the results would be without a rule
# is told in the chapter on robustness.

# %% tags=["hide-input"]
rule_counts(table).rename(RULE_WORDS)

# %% [markdown]
# What people decided instead, and why; by initials.

# %% tags=["hide-input"]
decided = table.loc[table["decision"].notna(), ["scan_id", "decision", "findings"]]
decided.style.hide(axis="index") if len(decided) else Markdown("No verdict was changed by a person.")

# %% [markdown]
# Where two readers looked at the same scans, each without knowing what the other said: how far they agree (Cohen's
# kappa over *pass*, *fail* and *to be edited*, with its 95 % interval; 1 is agreement on all, 0 no more than by
# chance), and where they differ. What counts here is what each said first.

# %% tags=["hide-input"]
decisions = read_decisions(study.folder / DECISIONS_FILE)
patients = table.set_index("scan_id")["patient_id"]
Markdown(agreement.agreement_in_words(decisions, patients, study.settings.seed))

# %% tags=["hide-input"]
differing = agreement.differing(decisions)
differing.style.hide(axis="index") if len(differing) else Markdown("On no scan do readers differ.")

# %% tags=["hide-input"]
failed = table.loc[table["status"] == "failed", ["scan_id", "reason"]]
failed.style.hide(axis="index") if len(failed) else Markdown("Every scan got a mask.")

# %% [markdown]
# ## The measures
#
# Each mark is a scan; the shaded range is what is plausible (set in `study.yaml`). Look for marks outside it, and for
# a cloud that stands apart from the others: it may come from one scanner.

# %% tags=["hide-input"]
figures.qa_distributions(judged, plausible_ranges(study.settings.lungs))

# %% [markdown]
# ## Scans that passed
#
# From the least to the most ground glass and fibrosis (share of lung from -600 to -250 HU). In the last rows, see
# whether the dense parts at the bases and below the pleura are inside the line.

# %% tags=["hide-input"]
passed = figures.spread(judged[judged["verdict"] == "pass"], "high_attenuation_share", 4)
figures.mask_overlay([figures.overlay(study, row) for row in passed.to_dict("records")], "No scan passed.")

# %% [markdown]
# ## To take home
#
# - What the mask leaves out, no feature and no network sees.
# - Rules point to scans; a person decides, and the decision is kept with its reason.
# - A result that hangs on a rule is one to distrust: the chapter on robustness shows which do.
