"""The five notebooks and the per-scan stages, by name, and where a shard of a stage lists its scans."""

import sys
from pathlib import Path

from sscct_lib.study.folder import Study

PROJECT = Path(__file__).resolve().parents[2]
MODULES = Path(sys.prefix) / "share" / "sscct" / "node_modules"
"""Where `make web` has npm install what `package.json` names."""
NOTEBOOKS = ("01_cohort", "02_segmentation_qa", "03_radiomics", "04_deep_models", "05_horizons")

NEEDS: dict[str, tuple[str, ...]] = {
    "01_cohort": (),
    "02_segmentation_qa": ("01_cohort",),
    "03_radiomics": ("01_cohort", "02_segmentation_qa"),
    "04_deep_models": ("01_cohort", "02_segmentation_qa"),
    "05_horizons": ("01_cohort", "02_segmentation_qa", "03_radiomics", "04_deep_models"),
}

TABLES: dict[str, tuple[str, ...]] = {
    "01_cohort": ("cohort", "images"),
    "02_segmentation_qa": ("lungs",),
    "03_radiomics": ("radiomics", "predictions/03_radiomics", "predictions/03_baselines", "removed/03_radiomics"),
    "04_deep_models": ("predictions/04_deep_models", "attributions", "unusual"),
    "05_horizons": ("performance", "stacked"),
}
"""What each notebook writes."""

BESIDE_TABLES: dict[str, tuple[str, ...]] = {
    "03_radiomics": ("tables/radiomics.json", "models/tabular/*"),
    "04_deep_models": (
        "attribution/**/*", "embeddings/*", "models/deep/*", "models/pretrained/*", "models/longitudinal/*",
        "models/unusual/*",
    ),
}  # fmt: skip
"""What notebooks write beside their tables, for the pages on scans and for new scans."""

CHAPTERS = {
    "01_cohort": "The cohort",
    "02_segmentation_qa": "The lungs",
    "03_radiomics": "The features",
    "04_deep_models": "The networks",
    "05_horizons": "How good the risks are",
}

# The module and its function of a study and rows of the manifest. By name, since each loads packages of its own.
PER_SCAN_STAGES = {
    "phantom": ("demo.make", "make_scans"),
    "images": ("images.prepare", "prepare_scans"),
    "lungs": ("lungs.segment", "segment_scans"),
    "radiomics": ("radiomics.extract", "extract_scans"),
}


# Which per-scan stage is the last that a notebook gathers.
SHARDS_OF = {"01_cohort": "images", "02_segmentation_qa": "lungs", "03_radiomics": "radiomics"}


def per_scan_stages(study: Study, last: str | None = None) -> list[str]:
    """Name the per-scan stages of a run that goes until a notebook, or to the end, in their order."""
    gathered = [SHARDS_OF[name] for name in notebooks_until(last) if name in SHARDS_OF]
    stages = list(PER_SCAN_STAGES)
    return stages[int(study.settings.demo is None) : stages.index(gathered[-1]) + 1]


def notebooks_until(last: str | None) -> tuple[str, ...]:
    """Name the notebooks of a run that stops after one of them; None: it goes on to the end."""
    return NOTEBOOKS if last is None else NOTEBOOKS[: NOTEBOOKS.index(last) + 1]


def shard_path(study: Study, stage: str, index: int) -> Path:
    """Where a shard lists its scans, with what became of each."""
    return study.run / "shards" / f"{stage}_{index:04d}.csv"


def shard_stage(path: Path) -> str:
    """Tell the stage from the name of a shard's list, `<stage>_<index>.csv`."""
    return path.stem.rsplit("_", 1)[0]


def executed(study: Study, notebook: str) -> Path:
    """Where a run keeps a notebook that it has executed."""
    return study.run / "notebooks" / f"{notebook}.ipynb"


def maker(table: str) -> str | None:
    """Tell which notebook writes a table; None where none does, as for risks that somebody else wrote."""
    return next((notebook for notebook, tables in TABLES.items() if table in tables), None)
