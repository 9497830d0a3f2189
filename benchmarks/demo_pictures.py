"""Makes the pictures of the page "The demo cohort": `python benchmarks/demo_pictures.py` from the project's root."""

from pathlib import Path

import numpy as np
import pandas as pd
from demo_panels import Panel, scan_panels
from matplotlib.figure import Figure
from PIL import Image

from sscct_lib.demo.make import draw_scan
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.demo.render import Volume
from sscct_lib.study.settings import DemoSettings

SEED = 2026
IMAGES = Path(__file__).parents[1] / "book" / "images"
GREY_LEVELS = 40


def place(volume: Volume, axis: int, share: float, side: int = 0) -> int:
    """Slice at a share of the way through the lungs (or one of them), from low to high index."""
    mask = volume.lungs == side if side else volume.lungs > 0
    inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    return int(inside[0] + share * (inside[-1] - inside[0]))


def planes(volume: Volume) -> list[np.ndarray]:
    """Axial slice at the bases, coronal slice behind the heart, sagittal slice of the right lung."""
    return [
        volume.hu[place(volume, 0, 0.30)],
        volume.hu[::-1, place(volume, 1, 0.64)],
        volume.hu[::-1, :, place(volume, 2, 0.55, side=1)],
    ]


def save(figure: Figure, name: str, dpi: int) -> None:
    """Write a figure in few shades of grey: noise does not compress."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{name}.png"
    figure.savefig(path, dpi=dpi)
    step = 255 / (GREY_LEVELS - 1)
    Image.open(path).convert("L").point(lambda value: round(round(value / step) * step)).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def contact_sheet(truth: pd.DataFrame) -> None:
    """Twelve random scans of as many patients."""
    chosen = truth.groupby("patient_id").sample(1, random_state=1).sample(12, random_state=1).sort_values("disease")
    panels = [
        Panel(planes(draw_scan(row, SEED, 2.0))[0], f"{row['scan_id']}, disease {row['disease']:.0%}")
        for row in chosen.to_dict("records")
    ]
    save(scan_panels([panels[i : i + 4] for i in range(0, 12, 4)], 1.65), "demo_contact_sheet", 160)


def severities(truth: pd.DataFrame) -> None:
    """Mild, moderate and severe fibrosis in three planes."""
    rows = []
    whole = truth[(truth.missed_mm == 0) & (truth.slice_thickness_mm < 2)]
    for name, fibrosis in (("Mild", 0.03), ("Moderate", 0.13), ("Severe", 0.36)):
        row = whole.loc[(whole.fibrosis - fibrosis).abs().idxmin()].to_dict()
        titles = (
            f"{name}: {row['scan_id']}",
            f"fibrosis {row['fibrosis']:.0%} of the lungs",
            f"true 3-year risk {row['true_risk_3y']:.0%}",
        )
        rows.append([Panel(hu, title) for hu, title in zip(planes(draw_scan(row, SEED, 1.5)), titles, strict=True)])
    save(scan_panels(rows, 2.1), "demo_severity", 125)


def over_time(truth: pd.DataFrame) -> None:
    """Four scans of a patient whose disease grew fast: of all, the one in whom it grew most."""
    seen = truth[truth.missed_mm == 0].groupby("patient_id").filter(lambda scans: len(scans) >= 4)
    grown = seen.groupby("patient_id").disease.agg(lambda values: values.max() - values.min())
    course = seen[seen.patient_id == grown.idxmax()]
    course = course.iloc[np.unique(np.linspace(0, len(course) - 1, 4).round().astype(int))]
    columns = []
    for row in course.to_dict("records"):
        axial, coronal, _ = planes(draw_scan(row, SEED, 1.5))
        year = row["age_years"] - course.age_years.iloc[0]
        columns.append(
            (Panel(axial, f"{row['scan_id']}: year {year:.1f}"), Panel(coronal, f"disease {row['disease']:.0%}"))
        )
    save(scan_panels([list(line) for line in zip(*columns, strict=True)], 1.75), "demo_over_time", 150)


if __name__ == "__main__":
    _, table = demo_cohort(DemoSettings(), SEED)
    contact_sheet(table)
    severities(table)
    over_time(demo_cohort(DemoSettings(n_patients=300), SEED)[1])
