"""Whether networks look where the disease is; only a simulated study knows where that is."""

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.horizons.bootstrap import percentile_interval, resample_patients
from sscct_lib.images.masks import bounding_box
from sscct_lib.images.nifti import read_volume
from sscct_lib.images.prepare import to_cube
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.study.folder import Study

INTERSTITIAL = (1, 2, 3)  # ground-glass, reticulation, honeycombing; emphysema is no part of the hazard
FEWEST_PERCENT = 1.0  # of the lungs; below, there is nothing to find


def lesion_cube(study: Study, scan_id: str, size: int) -> NDArray[np.bool_]:
    """Where half of a cube's voxel or more is truly interstitial disease, shape (size, size, size)."""
    image, mask = load_lungs(study, scan_id)
    lesions = read_volume(study.folder / "truth" / "lesions" / f"{scan_id}.nii.gz")
    on_grid = sitk.Resample(lesions, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    diseased = np.isin(sitk.GetArrayFromImage(on_grid), INTERSTITIAL)
    box = bounding_box(sitk.GetArrayFromImage(mask) > 0)
    return to_cube(diseased[box].astype(np.float32), size) >= 0.5


def score_map(
    attribution: NDArray[np.float32], lesions: NDArray[np.bool_], lungs: NDArray[np.bool_]
) -> dict[str, float]:
    """Hold a map (parts of the score) against lesions and lungs on its grid, all (S, S, S).

    `in_lesions`: share of what raises the risk that lies there; `expected`: that of a blind map; `hit`: whether the
    strongest voxel does (the pointing game; Zhang J et al. Int J Comput Vis 2018;126:1084-102).
    """
    raises = np.clip(attribution, 0, None) * lungs
    total = float(raises.sum())
    return {
        "in_lesions": float(raises[lesions & lungs].sum()) / total if total > 0 else np.nan,
        "expected": float((lesions & lungs).sum() / lungs.sum()),
        "hit": float(lesions.ravel()[raises.argmax()]) if total > 0 else np.nan,
    }


def lesion_table(study: Study, checked: pd.DataFrame) -> pd.DataFrame:
    """Tell for each network how much more than by chance it looks at disease, from its saved maps (`attribute_scans`).

    Returns
    -------
    pandas.DataFrame
        One row per model: `times chance` (mean over scans of the share in lesions over the lesions' share of the
        lungs), the same of the untrained network, and `strongest voxel in a lesion` (share of scans for which that
        holds) with the share expected by chance, 95 % intervals by bootstrap of patients, `scans` and `patients`.
        Scans with less than 1 % disease are left out.
    """
    rows = {}
    for (model, name), scans in checked.groupby(["model", "network"], sort=False):
        scores = []
        for scan_id in scans["scan_id"]:
            found, without = (np.load(study.attribution(str(name), scan_id, trained)) for trained in (True, False))
            lesions = lesion_cube(study, scan_id, len(found))
            untrained = score_map(without, lesions, found != 0)["in_lesions"]
            scores.append({**score_map(found, lesions, found != 0), "untrained": untrained})
        table = pd.DataFrame(scores).assign(patient_id=scans["patient_id"].to_numpy())
        table = table[table["expected"] >= FEWEST_PERCENT / 100].dropna()
        rows[model] = _summary(table, study)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _summary(table: pd.DataFrame, study: Study) -> dict[str, str | int]:
    counted: dict[str, str | int] = {"scans": len(table), "patients": table["patient_id"].nunique()}
    if table.empty:
        nothing = dict.fromkeys(("untrained, times chance", "strongest voxel in a lesion", "by chance"), "")
        return {"times chance": "no disease to find", **nothing, **counted}
    counts = resample_patients(table["patient_id"], study.settings.horizons.n_bootstrap, study.settings.seed).counts

    def text(values: NDArray[np.float64], decimals: int) -> str:
        means = counts @ values / counts.sum(axis=1)
        low, high = percentile_interval(means)
        return f"{means[0]:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"

    return {
        "times chance": text((table["in_lesions"] / table["expected"]).to_numpy(), 1),
        "untrained, times chance": text((table["untrained"] / table["expected"]).to_numpy(), 1),
        "strongest voxel in a lesion": text(table["hit"].to_numpy(dtype=float), 2),
        "by chance": f"{table['expected'].mean():.2f}",
        **counted,
    }
