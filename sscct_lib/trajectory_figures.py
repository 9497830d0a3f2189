"""The plot of risks over the scans of each patient."""

import pandas as pd
from matplotlib.figure import Figure

from sscct_lib.figures import GREY, PALETTE, PERCENT, counted, new_figure, styled
from sscct_lib.summary import years_text


@styled
def risks_over_time(rows: pd.DataFrame, title: str, horizon_years: float) -> Figure:
    """Draw the risk of every patient with two scans or more, those who died apart from those who did not.

    Parameters
    ----------
    rows
        From `trajectories.over_time`.
    title
        The model.
    horizon_years
        Years after the scan of the risk.

    Returns
    -------
    matplotlib.figure.Figure
    """
    repeated = rows[rows.groupby("patient_id")["scan_id"].transform("size") > 1]
    died = repeated["event_observed"].astype(bool)
    figure, axes = new_figure(6.4, 2, 1, sharex=True, sharey=True)
    panels = (("died", repeated[died], PALETTE[3]), ("not known to have died", repeated[~died], PALETTE[0]))
    for axis, (words, group, colour) in zip(axes[:, 0], panels, strict=True):
        for _, patient in group.groupby("patient_id"):
            axis.plot(patient["years"], patient["risk"], "-o", color=colour, lw=1, ms=3, alpha=0.6)
            if patient["event_observed"].iloc[-1]:
                last = patient.iloc[-1]
                death = last["years"] + last["followup_years"]
                axis.plot([last["years"], death], [last["risk"]] * 2, color=GREY, lw=0.7, ls=":")
                axis.plot(death, last["risk"], "x", color="black", ms=6, mew=1.4)
        n_patients = group["patient_id"].nunique()
        axis.set_title(f"{counted(n_patients, 'patient')} who {words}", loc="left")
        if words.startswith("not"):
            axis.set_title(f"{counted(n_patients, 'patient')} {words}", loc="left")
        axis.set_ylabel(f"Risk within {years_text(horizon_years)}")
        axis.yaxis.set_major_formatter(PERCENT)
    axes[-1, 0].set_xlabel("Years after the first scan")
    figure.suptitle(title, x=0.02, ha="left", fontsize=13)
    return figure
