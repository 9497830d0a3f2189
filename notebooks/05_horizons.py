# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How good are the risks?
#
# Every model predicted each scan without having seen that patient. Here we ask four things of those predictions: do
# patients who died have higher predicted risks than those who lived (discrimination), do as many die as predicted
# (calibration), how large is the error of the risks overall, and how do patients fare whom a model calls at low, middle
# and high risk. How a scan counts whose patient was not followed to the horizon, the [chapter on the
# cohort](01_cohort.ipynb) says. Each number carries a 95 % interval that treats the scans of one patient as belonging
# together.
#
# Scans are many and patients are few: tables say, as "43 scans of 15 patients against 37 of 11", how many scans of how
# many patients are followed by death within the time, and how many are known to be followed by life beyond it. One rule
# holds in the whole book: with fewer than five patients who died, or fewer than five known to have lived, nothing is
# told, and the column or panel is grey (*too small*).

# %% tags=["parameters"]
study_dir: str = ".."  # the study folder
run_name: str = "main"  # which run of the study
n_bootstrap: int = None  # bootstrap samples of patients behind each interval; none: as in the run
reference: str = None  # model that the others are compared with; none: as in the run
shown_model: str = None  # model whose calibration and risk groups are drawn; none: as in the run

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from sscct_lib.deep import lesions
from sscct_lib.horizons import (
    censoring,
    comparison,
    curves,
    decisions,
    evaluate,
    figures,
    findings,
    models,
    patients,
    planned,
    sensitivity,
    subgroups,
    survival,
    tables,
    trajectories,
)
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.lungs.verdict import SEVERE
from sscct_lib.study import results
from sscct_lib.study.runs import open_run
from sscct_lib.study.schemas import ATTRIBUTIONS, COHORT, LUNGS, PERFORMANCE, PREDICTIONS
from sscct_lib.study.tables import read_predictions, read_table, write_table
from sscct_lib.study.words import RULE_WORDS, years_text

pd.set_option("display.max_colwidth", None)
results.show()
study = open_run(
    study_dir, run_name, horizons={"n_bootstrap": n_bootstrap, "reference": reference, "shown_model": shown_model}
)
settings = study.settings
cohort = read_table(study, "cohort", COHORT)
predictions = read_predictions(study)
stacked = write_table(models.stack(predictions), study, "stacked", PREDICTIONS)
predictions = pd.concat([predictions, stacked], ignore_index=True)
evaluation = Evaluation(cohort, predictions, settings)

# %% [markdown]
# ## What this run found
#
# Of one model, chosen by a rule that knows no result, at the primary horizon; and of the comparisons that were planned.
# The sentences follow from the numbers by [fixed rules](../statistics.md): *could not be told apart* does not mean
# equal.

# %% tags=["hide-input"]
judged = [rate(evaluation) for rate in (evaluate.evaluate, evaluate.integrated_brier)]
performance = write_table(pd.concat(judged, ignore_index=True), study, "performance", PERFORMANCE)
main = performance[~models.is_variant(performance)]
tested = planned.compare(evaluation)
pictured = models.pictured_model(predictions)
thresholds = decisions.threshold_table(evaluation, pictured)
found = findings.findings(evaluation.at(pictured, tested["horizon_years"].iloc[0]), tested, thresholds, settings)
glue("findings", Markdown(findings.in_markdown(found, "notebooks/05_horizons.ipynb")), display=False)
Markdown(findings.in_markdown(found))

# %% [markdown]
# ## Which model tells apart those who die from those who live?
#
# The AUC is the chance that, of two scans, the one followed by death within the horizon has the higher predicted risk:
# 0.5 is a coin, 1 is perfect. Look at how wide the intervals are before looking at which model leads.
# The *equal-weight ensemble*, where a run has two of them, averages the clinical model, radiomics and the networks:
# weights that are learned from risks of a cross-validation find a signal even where there is none.
#
# With $r$ for risk and $T$ for the time to death, over pairs of a scan $i$ followed by death within $t$ and a scan $j$
# known not to be,
#
# $$\mathrm{AUC}(t) = \frac{\sum_{i,j} w_i\, w_j \left( [r_i > r_j] + \tfrac12 [r_i = r_j] \right)}
# {\sum_{i,j} w_i\, w_j},$$
#
# where a weight $w$ is one over the probability of still being followed, at death or at $t$ {cite:p}`graf1999`.
#
# Two scans are compared only where one fit judged both: a fold with many of the few deaths is judged by a fit that
# learned from fewer, so that over folds risks that know nothing have an AUC well below 0.5
# ([common errors](../errors.md)). Where patients were split several times, the AUC is the mean over the splits, and ±
# is its standard deviation between them: what the draw of the folds does, beside what the draw of the patients does.

# %% tags=["hide-input"]
tables.side_by_side(main, "auc")

# %% [markdown]
# Does it matter how a model learns? The same features with other estimators, with missing numbers imputed several times
# in place of the median (`multiple imputation`), and networks that read all scans of a patient so far (`longitudinal`),
# below the model of the table above.

# %% tags=["hide-input", "fold-output"]
others = models.variants_side_by_side(performance)
others if len(others) else Markdown("This study compares no estimators.")

# %% tags=["hide-input", "fold-output"]
remarks = tables.remarks(performance)
remarks.style.hide(axis="index") if len(remarks) else Markdown("Every model predicted every scan at every horizon.")

# %% [markdown]
# Open marks, at 1, 3 and 5 years, are what a study of *another* cohort published for its networks and its radiomics
# models; it gave no intervals. They show the order of size to expect and cannot be compared point by point: below, the
# best AUC of each horizon here, which being picked flatters, beside those published ("there").

# %% tags=["hide-input"]
figures.performance_forest(main, tables.PUBLISHED)

# %% tags=["hide-input", "fold-output"]
tables.beside_published(performance)

# %% [markdown]
# ## Is one model better than another?
#
# One rule, in this book: a model is *better* than another only where the comparison was planned before any result was
# seen (`horizons.planned` in `study.yaml`) and its p value at the primary horizon, corrected by Holm's method for the
# number of planned comparisons, is below 0.05. Both models are judged on the same scans, in the same bootstrap samples.
# *Not told apart* does not mean equal: look at how large a difference the interval still holds.

# %% tags=["hide-input"]
tables.planned_in_words(tested)

# %% [markdown]
# Everything else is explored, with intervals alone: of many comparisons some leave out 0 by chance, so none of these
# calls a model better. Each model minus the reference model:

# %% tags=["hide-input"]
compared_with, which = comparison.reference_model(predictions, settings)
differences = comparison.differences(evaluation, compared_with)
Markdown(which)

# %% tags=["hide-input", "fold-output"]
tables.differences_side_by_side(differences, "auc")

# %% [markdown]
# ## Do as many die as predicted?
#
# From here on the chapter looks at one model, that of the front page. It was chosen by a rule that knows no result: the
# model with the highest AUC would look better in every figure than it is.
#
# Each point is a group of scans with similar predicted risk, the grey curve the same without groups; the bars below
# show how often each risk was given. On the dotted line, as many died as predicted; below it the model predicts too
# many deaths, above it too few. The slope is 1 for right risks and below 1 for risks that are too extreme.

# %% tags=["hide-input"]
shown = settings.horizons.shown_model or pictured
states = curves.risk_states(evaluation, shown)
groups, smooth = curves.calibration(evaluation, shown), curves.smooth_calibration(evaluation, shown)
figures.calibration_plot(groups, smooth, states, performance, shown)

# %% [markdown]
# Observed over expected deaths: $\text{O:E} = \hat R(t) \,/\, \bar r$, the Kaplan-Meier risk over the mean of the
# predicted risks. 1 is right on average; 0.5 means that half as many died as predicted.

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(main, "observed_expected")

# %% [markdown]
# The mean distance between a risk and the observed risk of scans like it. It is never 0: a right model too is off by
# chance. So beside it stands what a right model would have in this cohort, with the range of 95 % of its values.

# %% tags=["hide-input", "fold-output"]
pd.concat({words: tables.side_by_side(main, metric) for metric, words in tables.BESIDE_RIGHT.items()}, axis=1)

# %% [markdown]
# Are high risks too high, and low ones too low? The slope of the outcome on the logit of the risk: 1 is right, below 1
# the risks are too extreme, and 0 or less is what risks that know nothing have. Only scans judged by the same fit are
# compared.

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(main, "calibration_slope")

# %% [markdown]
# ## Would acting on the risk do more good than harm?
#
# Suppose a patient is flagged (for closer follow-up, say) from a certain risk $p$. Net benefit counts the deaths found,
# less the needless flags at the price that the chosen risk implies: per scan,
# $\mathrm{NB}(p) = s \left( R_s - (1 - R_s) \frac{p}{1 - p} \right)$, with $s$ the share flagged and $R_s$ the
# Kaplan-Meier risk among them {cite:p}`vickers2008`. A model is useful where its curve lies above both
# flagging everybody and flagging nobody. To the right stands how much more it brings than each of these, and than the
# reference, in the same samples of patients and on the same scans; where such a band holds 0, the study cannot tell.
# Marks at the foot are the thresholds that were stated beforehand.

# %% tags=["hide-input"]
beside = list(dict.fromkeys([shown, compared_with]))
benefits = decisions.decision_curves(evaluation, beside)
figures.decision_curves(benefits, settings.horizons.thresholds)

# %% [markdown]
# The same at thresholds that were fixed before any result was seen (`horizons.thresholds` in `study.yaml`).

# %% tags=["hide-input"]
of_shown = thresholds if shown == pictured else decisions.threshold_table(evaluation, shown)
tables.thresholds_side_by_side(of_shown)

# %% [markdown]
# ## What happens to patients at low, middle and high risk?
#
# Scans are split into thirds by predicted risk, each against the others of the same fit. The curves should part, with
# the high-risk third lowest; the numbers below are the scans still followed. Hazard ratio and log-rank test allow for
# several scans of one patient.

# %% tags=["hide-input"]
ratios = subgroups.hazard_ratios(evaluation, shown)
note = tables.thirds_in_words(subgroups.logrank_between_thirds(evaluation, shown), ratios)
figures.kaplan_meier_by_group(curves.survival_by_tertile(evaluation, shown), f"Thirds by the risk of {shown}", note)

# %% [markdown]
# Each dot is a scan. A useful model moves the upper row of each panel, the scans followed by death, to the right.

# %% tags=["hide-input"]
figures.risk_distribution(states, shown)

# %% [markdown]
# The same as hazard ratios: how many times faster patients die, with errors that allow for several scans of one
# patient. Thirds are compared only when somebody died in each.

# %% tags=["hide-input"]
tables.hazards_in_words(ratios) if len(ratios) else Markdown(tables.TOO_FEW)

# %% [markdown]
# ## How large is the error of the risks?
#
# The Brier score is the mean squared distance between risk and outcome, so lower is better.

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(performance, "brier", decimals=3)

# %% [markdown]
# The scaled score is easier to read: 0 is no better than giving everybody the same risk, 1 is perfect, below 0 is worse
# than useless.

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(main, "scaled_brier")

# %% [markdown]
# One number for each model: the Brier score averaged over the time from the first to the last horizon.

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(performance, "integrated_brier", decimals=3)

# %% [markdown]
# ## ROC curves
#
# For each horizon: the share of deaths found (sensitivity) against the share of survivors wrongly flagged. The curve of
# the model with the highest AUC has its 95 % band; being picked for its AUC flatters it. Of many models, the eight with
# the highest AUC are drawn; the table above has all.

# %% tags=["hide-input"]
figures.roc_curves(curves.roc_curves(evaluation, performance), performance)

# %% [markdown]
# # How robust are the risks?
#
# The model of the front page again, under other conditions: on other scans, in groups, under other rules of quality
# assurance, with other ways of counting, and with patients who were lost. Look for what changes the answer; where
# intervals overlap, nothing has been shown to.

# %% [markdown]
# ## Does the answer depend on which scans are used?
#
# The AUC of the same model with one scan per patient, with every patient counting once, and at landmarks: patients
# alive at that time, with their latest scan by then. Behind each stand the scans and patients of either state.

# %% tags=["hide-input"]
tables.parts_side_by_side(subgroups.evaluate_parts(subgroups.views(cohort), evaluation, shown))

# %% [markdown]
# ## For whom does it work?
#
# Each group against all other scans, at every horizon: does the model tell patients apart as well (AUC), do as many die
# as it predicts (O:E), and does it flag as many, at the middle threshold of the study? On the dotted line
# the group is like the rest. A group in which more die should be flagged more; one to the right in the middle panel
# dies more often than the model says. Intervals of small groups are wide, and a difference here is a question, not a
# finding.

# %% tags=["hide-input"]
lungs = read_table(study, "lungs", LUNGS).set_index("scan_id").reindex(cohort["scan_id"])
with_extent = cohort.assign(dense_lung_percent=100 * lungs["high_attenuation_share"].to_numpy())
by_group = subgroups.fairness(subgroups.groups(with_extent), evaluation, shown)
for years in by_group["horizon_years"].unique():
    display(figures.fairness_forest(by_group, years))

# %% tags=["hide-input", "fold-output"]
for years in by_group["horizon_years"].unique():
    display(Markdown(f"**Within {years_text(years)}**"), tables.fairness_in_words(by_group, years))

# %% [markdown]
# ## Does a model know when it does not know?
#
# Some models give each risk with a spread: over repeats of the cross-validation, over an ensemble of networks, or of
# one network when parts of it are left out at random (`dropout`). Scans are divided in thirds by it. If the spread is
# worth something, the third with the wide spread has the larger error: a higher Brier score at the same mean risk, or a
# ratio of deaths farther from 1. Intervals that overlap leave the question open.

# %% tags=["hide-input"]
with_spread = subgroups.models_with_spread(evaluation, shown)
for name in with_spread:
    display(Markdown(f"**{name}**"))
    display(subgroups.spread_in_words(subgroups.by_spread(evaluation, name)))
if not with_spread:
    display(Markdown("No model of this run gives a spread."))

# %% [markdown]
# ## Would other patients have taught it the same?
#
# The same scan, judged by models that learned from other patients of the same kind. From the repeats of the
# cross-validation it is reckoned how far the risks would lie apart between studies as large as this one: in percentage
# points, the mean distance from the risk shown, for the scan in the middle and for the worst tenth.

# %% tags=["hide-input"]
listed = {name: curves.instability(evaluation, name) for name in models.chosen_models(performance)}
listed = {name: table for name, table in listed.items() if len(table)}
tables.instability(listed) if listed else Markdown("No model was trained on several splits of the patients.")

# %% [markdown]
# Each scan is a column of dots, one per repeat. Near the dotted line a risk hardly depends on who was in the study;
# where the dots of one column reach from low to high, the risk of a single patient means little, whatever the AUC.

# %% tags=["hide-input"]
unstable = shown if shown in listed else next(iter(listed), None)
figures.instability(listed[unstable], unstable) if unstable else Markdown("Nothing to draw.")

# %% [markdown]
# ## Does the risk of a patient change, and does the change matter?
#
# Each line is a patient with two scans or more, each cross a death. A risk that tells something is higher in the upper
# panel, and one that follows the disease rises before the cross.

# %% tags=["hide-input"]
between = settings.horizons_years[len(settings.horizons_years) // 2]
over_time = trajectories.over_time(evaluation, shown, between)
figures.risks_over_time(over_time, shown, between)

# %% [markdown]
# A risk also moves without any change of the disease: the patient breathes differently, the scanner is another. Two
# scans less than 120 days apart show by how much. The table says, for a risk at the scan before, what a rise must
# exceed and a fall undercut to be more than that noise, which alone goes beyond it in 5 of 100 pairs; in brackets the
# 95 % interval. Below it: the noise as a standard deviation of the logit and as a factor of the odds, and the share of
# all changes that are beyond it.

# %% tags=["hide-input"]
noise = trajectories.noise(over_time, settings)
trajectories.noise_in_words(noise).style.hide(axis="index")

# %% tags=["hide-input"]
tables.noise(noise)

# %% [markdown]
# Of two patients with the same risk today, does the one whose risk rose die sooner? The second row answers it. A hazard
# ratio above 1 says yes. Below 1 says that the risk today is noisy, and that the average of both scans is the better
# guess; an interval that holds 1 leaves it open. Errors allow for several scans of one patient.

# %% tags=["hide-input"]
of_change = trajectories.hazard_of_change(over_time)
tables.hazards_in_words(of_change) if len(of_change) else Markdown(tables.TOO_FEW)

# %% [markdown]
# The same as AUC, on the scans that have one before them: of the risk today, of the mean of both scans (on the logit
# scale), and of the risk today with the change added once more; then the differences from the risk today. The ways are
# fixed beforehand, since weights that are learned from risks of a cross-validation find a signal where there is none.

# %% tags=["hide-input"]
gain = trajectories.gain_of_change(evaluation, shown, between)
tables.side_by_side(gain[0]) if gain else Markdown(tables.TOO_FEW)

# %% tags=["hide-input"]
tables.differences_side_by_side(gain[1]) if gain else Markdown("")

# %% [markdown]
# ## What do patients die of?
#
# A death from another cause cannot become a death from the lungs, so causes compete; the curves together add up to all
# deaths. The models above predict death from any cause. A lung transplant, where there is one, is an event of its own.

# %% tags=["hide-input"]
figures.cumulative_incidence_by_cause(survival.cumulative_incidence(cohort, settings))

# %% [markdown]
# Does a higher risk mean a faster death from the lungs, or from anything? The hazard ratio of one standard deviation of
# the risk (on the logit scale), for each cause by itself.

# %% tags=["hide-input"]
tables.hazards_in_words(survival.cause_specific_hazards(evaluation, shown))

# %% [markdown]
# A lung transplant is given to those who would die soon. Overall survival ends their follow-up as if they had left
# alive; transplant-free survival counts the transplant like a death. Where both AUCs agree, the answer does not hang on
# it. The risks are those of the outcome that the models learned (`cohort.transplant` in `study.yaml`).

# %% tags=["hide-input"]
either = survival.transplant_free(evaluation, shown)
tables.parts_side_by_side(either) if len(either) else Markdown("No patient of the cohort had a lung transplant.")

# %% [markdown]
# ## What if quality assurance had other rules?
#
# A rule of the chapter on lung masks *flags* scans, and *removes* those whose mask or scan cannot be used. The table
# shows the AUC at the longest horizon as analysed, with the scans that only this rule removed put back (predicted by
# models that never saw their patients), and with all scans that it flagged left out. A result that hangs on a rule is
# one to distrust. The model is a Cox model on features, since these also predict removed scans.

# %% tags=["hide-input"]
removed = read_table(study, "removed/03_radiomics", PREDICTIONS)
of_features = [name for name in settings.tabular.feature_sets if name in set(performance["model"])]
judged_model = models.first_pictured(of_features) if of_features else None
lung_table = read_table(study, "lungs", LUNGS)
Markdown(f"Model: **{judged_model}**" if judged_model else "No model on features could be fitted.")

# %% tags=["hide-input"]
Markdown("") if judged_model is None else sensitivity.effects_of_rules(
    evaluation, removed, lung_table, judged_model, SEVERE
).rename(RULE_WORDS)

# %% [markdown]
# ## What would simpler counting have said?
#
# The AUC weighted for censoring, of the scans with known state only, and with every unknown scan counted as alive.

# %% tags=["hide-input"]
tables.ways_of_counting(performance, shown)

# %% [markdown]
# ## What if the lost differ from those who stay?
#
# The estimates above weigh scans alike for everybody. Where patients at high risk leave sooner, too few deaths are
# counted, and a right model seems to predict too many. Weights by the risk undo what of this the risk explains; no
# weights undo the rest, so the last lines of the table say what the estimates would be if the lost died more slowly or
# faster than those of the same third of risk who stayed. The first and last of these bound what is possible.

# %% tags=["hide-input"]
ways = censoring.other_ways(evaluation, shown)
Markdown(censoring.in_words(ways) if len(ways) else "No horizon has lost patients and enough deaths and survivors.")

# %% tags=["hide-input"]
censoring.side_by_side(ways) if len(ways) else Markdown("")

# %% [markdown]
# In a simulated study the true risk shows which weights to believe: its ratio of deaths is 1 but for chance, which is
# large in a small cohort. Over many simulated cohorts that lose sicker patients sooner, equal weights are off by a
# tenth to a quarter, and weights by the risk by less than half of that ([for statisticians](../statistics.md)).

# %% tags=["hide-input", "fold-output"]
truth = comparison.true_risks(study, cohort)
of_truth = censoring.other_ways(evaluation.with_predictions(truth), comparison.TRUE_RISK) if len(truth) else truth
Markdown(censoring.in_words(of_truth) if len(of_truth) else "Not known for this study.")

# %% [markdown]
# ## What would shortcuts have said?
#
# One simple model (a random forest on age, sex, lung function and measures of the lungs), trained and judged as in this
# book, then with each of three shortcuts that are common in print. Folds split by scan let a model meet patients whom
# it has seen; counting unknown scans as alive moves the target; treating the scans of a patient as independent makes
# intervals too narrow. On simulated patients the last row says what those predictions are truly worth on patients never
# seen.

# %% tags=["hide-input"]
clinical = cohort.reindex(columns=["age_years", "fvc_percent", "dlco_percent"]).assign(male=cohort.get("sex") == "male")
measured = lungs[["volume_l", "mean_hu", "high_attenuation_share", "low_attenuation_share"]].reset_index(drop=True)
true_risk = {h: rows["risk"].to_numpy() for h, rows in truth.groupby("horizon_years")} if len(truth) else None
rerun = sensitivity.compare_shortcuts(
    cohort,
    clinical.join(measured),
    settings.horizons_years,
    settings.cohort.n_folds,
    settings.horizons.n_bootstrap,
    settings.seed,
    true_risk,
)
sensitivity.shortcuts_side_by_side(rerun)

# %% [markdown]
# # How good could the risks be?
#
# Where patients are simulated, the risk with which they really died is known, and so is the place of every lesion: how
# much of what can be told does each model tell, and do networks look where the disease is? In a study of real patients
# these sections say that they cannot know.

# %% [markdown]
# ## How good could any model be?
#
# In the simulated demo study we know the risk with which each patient really died. Even that risk does not reach an AUC
# of 1: who dies within a year is partly chance. It is the ceiling for the models, on the same scans; where a model
# seems to pass it, that is chance in a small cohort. A study of real patients has no such tables.

# %% tags=["hide-input"]
ceiling = evaluate.evaluate(evaluation.with_predictions(truth))
beside_truth = pd.concat([ceiling, performance], ignore_index=True)
tables.side_by_side(pd.concat([ceiling, main], ignore_index=True), "auc") if len(truth) else Markdown(
    "Not known for this study."
)

# %% [markdown]
# The same as a share: 1 means that the model tells patients apart as well as the true risk does, 0 that it guesses.

# %% tags=["hide-input", "fold-output"]
attained = comparison.attained(evaluation, truth) if len(truth) else None
tables.side_by_side(attained, "attained") if len(truth) else Markdown("Not known for this study.")

# %% [markdown]
# The Brier scores, then observed over expected deaths. The true risk is calibrated by construction: how far its own
# row lies from 1 shows how much is chance.

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(beside_truth, "brier", decimals=3) if len(truth) else Markdown("Not known for this study.")

# %% tags=["hide-input", "fold-output"]
tables.side_by_side(beside_truth, "observed_expected") if len(truth) else Markdown("Not known for this study.")

# %% [markdown]
# ## Do the networks look where the disease is?
#
# In simulated scans the place of every lesion is known. For the scans that
# [the chapter on networks](04_deep_models.ipynb) explained: how many times more of
# what raises the risk lies in lesions than chance would put there, and how often the strongest voxel lies in one. The
# same network with random weights is the bar to pass: lesions stand out in any picture, for their density is unusual.

# %% tags=["hide-input"]
explained = read_table(study, "attributions", ATTRIBUTIONS)
lesions.lesion_table(study, explained) if len(truth) else Markdown("Not known for this study.")

# %% tags=["remove-cell"]
# What the front page and the chapters on acting and on failures show.
middle = patients.middle_horizon(settings)
wrong = patients.most_wrong(evaluation, lung_table, pictured, middle)
numbers = tables.headline_numbers(evaluation, performance)
numbers["primary_horizon"] = years_text(tested["horizon_years"].iloc[0])
numbers |= decisions.worked_example(evaluation, pictured) | patients.counts_wrong(wrong)
for name, value in numbers.items():
    glue(name, value, display=False)
glue("pictured_model", pictured, display=False)
glue("headline", models.headline(performance), display=False)
thirds = curves.survival_by_tertile(evaluation, pictured)
between = subgroups.logrank_between_thirds(evaluation, pictured)
note = tables.thirds_in_words(between, subgroups.hazard_ratios(evaluation, pictured))
headline_figure = figures.kaplan_meier_by_group(thirds, f"Thirds by the risk of {pictured}", note)
glue("headline_figure", headline_figure, display=False)
none_wrong = Markdown("What happened to each patient had at least an even chance by the risk.")
glue("most_wrong", wrong.drop(columns="explained") if len(wrong) else none_wrong, display=False)
if pictured != shown:
    benefits = decisions.decision_curves(evaluation, [pictured])
act_curves = benefits[benefits["model"].isin([pictured, decisions.EVERYBODY, decisions.NOBODY])]
acting = figures.decision_curves(act_curves, settings.horizons.thresholds)
glue("decision_figure", acting, display=False)
