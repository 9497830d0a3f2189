"""A real chest CT in DICOM goes through the same rooms: LIDC-IDRI-0314 (The Cancer Imaging Archive, CC BY 3.0)."""

import tarfile
from pathlib import Path

import pandas as pd
import pytest

from sscct_lib.deep import cross_validation
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.radiomics import saved
from sscct_lib.radiomics.extract import extract_scans
from sscct_lib.study.folder import load_study
from sscct_lib.study.schemas import LUNGS
from sscct_lib.study.tables import read_table
from tests.tiny_study import TINY, sscct

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "lidc-idri-0314-dicom.tar.xz"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"the public CT {ARCHIVE.name} is not beside this project"),
]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """Ingest the series to a study with the tiny study's settings, and run the stages that need no follow-up."""
    base = tmp_path_factory.mktemp("lidc")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(base / "dicom", filter="data")
    folder = base / "study"
    folder.mkdir()
    lines = [line for line in TINY.splitlines() if not line.startswith("demo:")]
    (folder / "study.yaml").write_text("\n".join(lines))
    made = sscct("ingest", base / "dicom", folder, "--key", base / "key")
    assert made.exit_code == 0, made.output
    ran = sscct("run", folder, "--until", "02_segmentation_qa")
    assert ran.exit_code == 0, ran.output
    return load_study(folder)


def test_no_follow_up_is_said_in_the_flow_diagram_not_failed(ingested):
    manifest = pd.read_csv(ingested.manifest_path)
    assert len(manifest) == 1
    assert manifest["event_observed"].isna().all()
    assert len(pd.read_parquet(ingested.table("cohort"))) == 0
    executed = (ingested.run / "notebooks" / "01_cohort.ipynb").read_text()
    assert "No follow-up: scans of <5 patients, left out." in executed


def test_lungs_have_the_volume_of_the_reference(ingested):
    lungs = read_table(ingested, "lungs", LUNGS)
    assert lungs["status"].tolist() == ["ok"]
    assert lungs["volume_l"].item() == pytest.approx(2.9, abs=0.25)
    image, mask = load_lungs(ingested, lungs["scan_id"].item())
    assert image.GetSize() == mask.GetSize()


def test_the_study_is_refused_for_training_with_a_clear_error(ingested):
    ran = sscct("run", ingested.folder)
    assert ran.exit_code == 1
    assert "0 patient(s) with follow-up" in ran.output


def test_every_trained_model_gives_it_risks(ingested, finished):
    rows = pd.read_parquet(ingested.table("lungs"))[["scan_id", "patient_id"]]
    features = extract_scans(ingested, rows)
    assert features["status"].tolist() == ["ok"]
    assert sum(name.startswith("original_") for name in features) == 107
    risks = [saved.predict_risks(finished.models, features)]
    risks += [
        cross_validation.predict_risks(finished, name, ingested, rows) for name in ("resnet18", "densenet121", "swin")
    ]
    table = pd.concat(risks, ignore_index=True)
    assert table["risk"].between(0, 1).all()
    tables = [finished.table(f"predictions/{name}") for name in ("03_radiomics", "04_deep_models")]
    trained = pd.concat([pd.read_parquet(path) for path in tables])["model"].unique()
    # Such need earlier scans, or serve as a check of missing values alone and are not shipped.
    others = {name for name in trained if name.endswith((" + change", ", longitudinal", ", multiple imputation"))}
    assert set(table["model"]) >= set(trained) - others - {"Clinical"}
    curves = table.pivot(index="model", columns="horizon_years", values="risk")
    assert curves.diff(axis=1).min(axis=None) >= -1e-9
