"""How good are lung masks in sick chests? Overlap and distance of surfaces, by the disease that is planted.

    python benchmarks/lung_disease.py              the table and the pictures of the book: chests of seed 2027
    python benchmarks/lung_disease.py --seed 100   chests on which the method was developed

Writes `book/lung_disease.csv`, and `book/images/lung_disease.png`: the worst mask of each kind beside the truth.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from PIL import Image
from planted_disease import KINDS, dice, distance, draw
from planted_faults import as_image

from sscct_lib.lungs.figures import draw_plane
from sscct_lib.lungs.segment import examine, threshold_mask
from sscct_lib.study.settings import LungSettings

BOOK = Path(__file__).parents[1] / "book"
SEED = 2027


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--chests", type=int, default=3, help="of each kind")
    parser.add_argument("--spacing-mm", type=float, default=3.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    chosen = parser.parse_args()
    jobs = [(kind, chosen.seed, number, chosen.spacing_mm) for kind in chosen.kinds for number in range(chosen.chests)]
    found = pd.DataFrame(Parallel(n_jobs=chosen.jobs)(delayed(judged)(*job) for job in jobs))
    shown = summary(found)
    print(shown.to_string(index=False))
    print(found.drop(columns="planes").to_string())
    if chosen.seed == SEED:
        shown.to_csv(BOOK / "lung_disease.csv", index=False)
        picture(found.loc[found.groupby("kind", sort=False)["dice"].idxmin()].to_dict("records"))


def judged(kind: str, seed: int, number: int, spacing_mm: float) -> dict:
    """Compare the mask of one chest with its truth; the planes hold most of the differences."""
    chest = draw(kind, seed, number, spacing_mm)
    image = as_image(chest.hu.astype(np.int16), spacing_mm)
    mask = threshold_mask(image)
    labels, truth = sitk.GetArrayFromImage(mask), chest.truth
    ours, theirs = labels > 0, truth > 0
    differs = labels != truth
    z, y = (int(np.argmax(differs.sum(axis=axes))) for axes in ((1, 2), (0, 2)))
    ml = spacing_mm**3 / 1000
    return {
        "kind": kind, "number": number, "dice": dice(ours, theirs), "distance_mm": distance(ours, theirs, spacing_mm),
        "wrong_side_ml": np.count_nonzero(differs & ours & theirs) * ml,
        "left_out_ml": np.count_nonzero(theirs & ~ours) * ml, "taken_in_ml": np.count_nonzero(ours & ~theirs) * ml,
        **{name: examine(image, mask, LungSettings())[name] for name in ("verdict", "findings")},
        "planes": [(chest.hu[at], labels[at], truth[at]) for at in ((z,), (slice(None, None, -1), y))],
    }  # fmt: skip


def summary(found: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for kind, part in found.groupby("kind", sort=False):
        lines.append(
            {
                "planted": kind, "chests": len(part), "Dice": f"{part['dice'].mean():.3f}",
                "worst Dice": f"{part['dice'].min():.3f}",
                "distance of surfaces (mm)": f"{part['distance_mm'].mean():.2f}",
                "most on the wrong side (mL)": f"{part['wrong_side_ml'].max():.0f}",
                "flagged": int(part["verdict"].ne("pass").sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def picture(worst: list[dict]) -> None:
    n_rows = -(-len(worst) // 3)
    figure = Figure(figsize=(11, 2.1 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 6, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, one in enumerate(worst):
        row, column = divmod(place, 3)
        for axis, (hu, labels, truth) in zip(axes[row, 2 * column :], one["planes"], strict=False):
            draw_plane(axis, hu, labels, 0.9)
            if truth.any():
                axis.contour(truth > 0, levels=[0.5], colors="white", linewidths=0.5, linestyles=":")
        axes[row, 2 * column].set_title(f"{one['kind']}: {one['dice']:.3f}", fontsize=8, loc="left")
    path = BOOK / "images" / "lung_disease.png"
    figure.savefig(path, dpi=110)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=48).save(path, optimize=True)


if __name__ == "__main__":
    main()
