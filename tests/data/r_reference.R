# Reference values of R's packages for tests/horizons/test_r_reference.py; R itself is not needed to run the tests.
#
#   Rscript tests/data/r_reference.R > tests/data/r_reference.csv
#
# Data: the Mayo Clinic's pbc (418 patients) and pbcseq (visits of 312 of them), as in R's package survival. A transplant
# ends follow-up.
suppressMessages({library(survival); library(riskRegression); library(cmprsk)})
rows <- data.frame()
add <- function(quantity, horizon, value) rows <<- rbind(rows, data.frame(quantity, horizon, value))

pbc <- survival::pbc
years <- pbc$time / 365.25
died <- pbc$status == 2
cohort <- data.frame(years, died)
risk_at <- function(t) 1 - exp(-0.035 * t * pbc$bili^0.9 * exp(0.03 * (pbc$age - 50)) / 1.5)
cohort$rank <- risk_at(3)

# Ranks, accuracy and calibration, with Kaplan-Meier weights for censoring
for (t in c(1, 3, 5)) {
  risk <- risk_at(t)
  scored <- Score(list(model = matrix(risk)), Surv(years, died) ~ 1, cohort, times = t, cens.model = "km",
                  metrics = c("auc", "brier"), se.fit = FALSE, conf.int = FALSE, summary = "ipa")
  add("auc", t, scored$AUC$score$AUC)
  brier <- scored$Brier$score[scored$Brier$score$model == "model", ]
  add("brier", t, brier$Brier)
  add("scaled_brier", t, brier$IPA)
  add("observed_risk", t, 1 - summary(survfit(Surv(years, died) ~ 1), times = t)$surv)
  add("uno_c", t, concordance(Surv(years, died) ~ risk, timewt = "n/G2", ymax = t, reverse = TRUE)$concordance)
  add("harrell_c", t, concordance(Surv(years, died) ~ risk, timewt = "n", ymax = t, reverse = TRUE)$concordance)
  lost <- prodlim::prodlim(prodlim::Hist(years, died) ~ 1, reverse = TRUE)  # of one day, deaths before losses
  before <- function(at) c(1, lost$surv)[findInterval(at, lost$time, left.open = TRUE) + 1]
  weight <- ifelse(died & years <= t, 1 / before(years), ifelse(years > t, 1 / before(t), 0))
  y <- as.numeric(died & years <= t)
  logit <- qlogis(pmin(pmax(risk, 1e-4), 1 - 1e-4))
  fit <- function(formula) glm(formula, quasibinomial, weights = weight, epsilon = 1e-12, maxit = 100)
  add("calibration_slope", t, coef(fit(y ~ logit))[["logit"]])
  add("calibration_intercept", t, coef(fit(y ~ 1 + offset(logit)))[["(Intercept)"]])
}

# Competing causes: a transplant beside death
for (t in c(1, 3, 5)) {
  found <- timepoints(cuminc(years, pbc$status), t)$est
  add("incidence_transplant", t, found["1 1", 1])
  add("incidence_death", t, found["1 2", 1])
}

# Cox models of visits with patients as clusters
visits <- subset(survival::pbcseq, futime > day)
visits$years <- (visits$futime - visits$day) / 365.25 + seq_len(nrow(visits)) * 1e-9  # no ties
visits$log_bili <- log(visits$bili)
fitted <- coxph(Surv(years, status == 2) ~ log_bili + age, visits, cluster = id,
                control = coxph.control(timefix = FALSE))
for (name in c("log_bili", "age")) {
  add(paste0("log_hazard_ratio_", name), NA, coef(fitted)[[name]])
  add(paste0("robust_error_", name), NA, sqrt(diag(vcov(fitted)))[[name]])
}

# Follow-up by reverse Kaplan-Meier, and Holm's correction
add("median_followup", NA, summary(survfit(Surv(years, !died) ~ 1))$table[["median"]])
p <- c(0.012, 0.04, 0.011, 0.5, 0.03)
for (i in seq_along(p)) add("holm", i, p.adjust(p, "holm")[i])

rows$value <- trimws(formatC(rows$value, digits = 15, format = "g"))
cat("# R ", paste(R.version$major, R.version$minor, sep = "."), ", survival ", format(packageVersion("survival")),
    ", riskRegression ", format(packageVersion("riskRegression")), ", cmprsk ", format(packageVersion("cmprsk")), "\n", sep = "")
write.csv(rows, stdout(), row.names = FALSE, quote = FALSE, na = "")
