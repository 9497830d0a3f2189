"""A scan that was never in the study, judged by the study's models: read, masked, measured, predicted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.deep import cross_validation
from sscct_lib.deep.cubes import View, cube_path
from sscct_lib.deep.out_of_distribution import flag_new
from sscct_lib.deep.prediction import cards, fold_model, shipped
from sscct_lib.horizons.models import SOURCES, STACKED, stack
from sscct_lib.horizons.patients import middle_horizon
from sscct_lib.images.nifti import READERS, is_volume
from sscct_lib.images.prepare import prepare_scans
from sscct_lib.intake.ingest import ingest
from sscct_lib.lungs.figures import overlay
from sscct_lib.lungs.segment import segment_scans
from sscct_lib.radiomics.extract import extract_scans
from sscct_lib.radiomics.feature_sets import CLINICAL_CATEGORIES, predictors
from sscct_lib.radiomics.saved import FOLDER, predict_risks
from sscct_lib.report import page
from sscct_lib.report.evidence import Map, caution, mean_map
from sscct_lib.study.folder import SETTINGS_FILE, Study, StudyError
from sscct_lib.study.keys import refuse_out_of_date
from sscct_lib.study.schemas import GROUP, IDENTITY, NUMBER, covariates
from sscct_lib.study.seals import checksum
from sscct_lib.study.words import NETWORK_WORDS, feature_name, percent_text, plain_names, years_text

# Settings that a model's input or meaning rests on.


def predict_scan(
    trained: Study,
    source: Path,
    clinical: Mapping[str, Any],
    work: Path,
    lung_mask: Path | None = None,
    anyway: bool = False,
) -> tuple[page.Prediction, page.ScanReport]:
    """Judge a scan that was never in the study.

    Parameters
    ----------
    trained
        The study and run whose models are used.
    source
        A NIfTI or NRRD file, or a folder with the DICOM series of one examination.
    clinical
        From `clinical.read_values`.
    work
        An empty folder for what is made on the way; it holds the scan afterwards.
    lung_mask
        Mask on the grid of the scan, where `lungs.method` of the study is `provided`.
    anyway
        Judge the scan although its mask failed; the first warning says so.

    Returns
    -------
    prediction : Prediction
        What `prediction.json` holds.
    report : ScanReport
        The page.

    Raises
    ------
    StudyError
        If the run has no models or they were trained with other settings than `study.yaml` now has; if the source holds
        no scan or more than one; if scan or lungs cannot be used: the reason is given; or if the mask failed its checks
        and `anyway` is not said.
    """
    refuse_out_of_date(trained)
    tables = page.read_tables(trained)
    study = _study_for_one(trained, work)
    row = _read(study, source) | dict(clinical)
    if trained.settings.lungs.method == "provided":
        if lung_mask is None:
            raise StudyError("The lungs of this study were provided (`lungs.method`): give the scan's by --mask.")
        row["lung_mask"] = str(lung_mask.resolve())
    rows = pd.DataFrame([row])
    _stop_if_failed(page.first_row(prepare_scans(study, rows)), "The scan cannot be used")
    lungs = page.first_row(segment_scans(study, rows))
    _stop_if_failed(lungs, "No lungs could be found")
    if lungs["verdict"] == "fail" and not anyway:
        raise StudyError(
            f"No risk: the lung mask failed its checks: {lungs['findings']}. A risk from it would be of something else "
            "than these lungs. Give a better scan or mask, or say --anyway to see what the models would make of it."
        )
    features = page.first_row(extract_scans(study, rows))
    known = {name: value for name, value in _clinical(row).items() if pd.notna(value)}
    scan_values = features | known
    warnings = [page.ANYWAY] if lungs["verdict"] == "fail" else []
    warnings += [] if features["status"] == "ok" else [f"No features: {features['reason']}"]
    risks = _risks(trained, study, scan_values)
    if risks.empty:
        raise StudyError(f"No model of run {trained.run_name} could judge the scan. {' '.join(warnings)}")
    identity = tables.predictions[["model", *IDENTITY]].drop_duplicates("model")
    with_identity = risks.merge(identity, on="model", how="left").fillna(dict.fromkeys(IDENTITY, ""))
    with_stacked, said = _stacked(with_identity, tables.predictions, trained)
    scan = page.Scan(page.NEW, None, scan_values, lungs, with_stacked)
    said += _unusual(trained, study) + _each_value(trained, scan_values)
    report = page.build(trained, tables, scan, overlay(study, lungs), _map(trained, study), (*warnings, *said))
    return page.prediction_of(report, scan, known, _hashes(trained)), report


def _clinical(values: Mapping[str, Any]) -> dict[str, Any]:
    names = covariates()
    return {name: value for name, value in values.items() if name in names or name.startswith((NUMBER, GROUP))}


def _study_for_one(trained: Study, work: Path) -> Study:
    """Make a study for one scan, with the settings of the trained one; paths of weights stay what they were."""
    lungs = trained.settings.lungs
    paths = {
        name: (trained.folder / value).resolve()
        for name in ("lungmask_weights", "totalsegmentator_weights")
        if (value := getattr(lungs, name)) is not None
    }
    changed = {"demo": None, "lungs": lungs.model_copy(update=paths)}
    folder = work / "scan"
    folder.mkdir(parents=True, exist_ok=True)
    kernel = {"images": {"kernel": trained.settings.images.kernel}}
    (folder / SETTINGS_FILE).write_text(yaml.safe_dump(kernel), encoding="utf-8")
    return Study(folder, trained.settings.model_copy(update=changed), "main")


def _read(study: Study, source: Path) -> dict[str, Any]:
    """Find the scan in the source: a row of a manifest."""
    row: dict[str, Any] = {"scan_id": page.NEW, "patient_id": page.NEW}
    if source.is_file():
        if not is_volume(source, pairs=False):
            raise StudyError(
                f"SCAN: expected a NIfTI or NRRD file ({', '.join(READERS)}), or the folder of one DICOM examination."
            )
        return row | {"image": str(source.resolve())}
    if not source.is_dir():
        raise StudyError(f"{source} is neither a file nor a folder.")
    ingest(source, None, study.folder, study.folder.parent / "new.key")
    found = read_manifest(study)
    if len(found) != 1:
        raise StudyError(f"The source holds {len(found)} examinations, expected one: name the folder of one.")
    kept = {name: found[name].iloc[0] for name in covariates() if name in found and found[name].notna().iloc[0]}
    return row | kept | {"image": str(found["image"].iloc[0])}


def _stop_if_failed(record: Mapping[str, Any], words: str) -> None:
    if record["status"] == "failed":
        raise StudyError(f"{words}: {record['reason']}")


def _risks(trained: Study, study: Study, scan_values: Mapping[str, Any]) -> pd.DataFrame:
    """Predict with every saved model of the run that can judge the scan."""
    frames = []
    if any((trained.models / FOLDER).glob("[!.]*.json")):
        frames.append(predict_risks(trained.models, pd.DataFrame([dict(scan_values)])))
    row = pd.DataFrame([{"scan_id": page.NEW, "patient_id": page.NEW, **_clinical(scan_values)}])
    frames += [
        cross_validation.predict_risks(trained, name, study, row) for name in NETWORK_WORDS if cards(trained, name)
    ]
    if not frames:
        raise StudyError(f"{trained.models} holds no trained model. Run `sscct run` first; it trains and saves them.")
    columns = ["model", "horizon_years", "scan_id", "risk", "risk_sd", "n_missing"]
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def _stacked(risks: pd.DataFrame, of_study: pd.DataFrame, trained: Study) -> tuple[pd.DataFrame, list[str]]:
    """Add the stacked risk where every source that it has in the study judged the scan."""

    def sources(table: pd.DataFrame) -> set[str]:
        plain = set(plain_names(table).values())
        return {source for source, wanted in SOURCES.items() if plain & set(wanted)}

    lacking = sources(of_study) - sources(risks)
    if lacking:
        return risks, [f"No ensemble risk: it needs {' and '.join(sorted(lacking))} risks, which are missing."]
    if STACKED not in set(of_study["model"]):
        return risks, []
    one_fit = risks.assign(patient_id=page.NEW, repeat=0, fold=0)
    return pd.concat([risks, stack(one_fit)], ignore_index=True), []


def _each_value(trained: Study, scan_values: Mapping[str, Any]) -> list[str]:
    """Say for each category that is not known what each of its values would give, by the study's reference model."""
    if not any((trained.models / FOLDER).glob("[!.]*.json")):
        return []
    middle, said = middle_horizon(trained.settings), []
    declared = {name: list(one.levels) for name, one in predictors(trained.settings.covariates).items() if one.levels}
    for name, values in {**CLINICAL_CATEGORIES, **declared}.items():
        if pd.notna(scan_values.get(name)):
            continue
        rows = [dict(scan_values) | {name: value, "scan_id": value} for value in values]
        risks = predict_risks(trained.models, pd.DataFrame(rows))
        model = trained.settings.horizons.reference
        at = risks[(risks["model"] == model) & np.isclose(risks["horizon_years"], middle)]
        given = at.set_index("scan_id")["risk"].reindex(values).to_numpy(dtype=float)
        if np.ptp(given) > 0:  # else the model does not ask, or is not there
            each = ", ".join(f"{percent_text(risk)} for {value}" for value, risk in zip(values, given, strict=True))
            said.append(f"{model} within {years_text(middle)}, by {feature_name(name)}: {each}.")
    return said


def _map(trained: Study, study: Study) -> Map | None:
    """Explain the risk of the first network, as the mean over the models that gave it."""
    name = next((name for name in trained.settings.deep.networks if cards(trained, name)), None)
    if name is None:
        return None
    found = shipped(cards(trained, name))
    cube = cube_path(study, page.NEW, View(int(found[0]["settings"]["size"]), tuple(found[0]["hu_range"])))
    if not cube.is_file():
        return None
    networks = [fold_model(trained, name, card["fold"], card["member"]) for card in found]
    return Map(found[0]["model"], np.load(cube), mean_map(networks, cube), caution(trained, name))


def _unusual(trained: Study, study: Study) -> list[str]:
    """Ask the networks that can tell whether the scan is unlike those that they learned from."""
    row = pd.DataFrame({"scan_id": [page.NEW], "patient_id": [page.NEW]})
    said = []
    for name in NETWORK_WORDS:
        if (trained.models / "unusual" / f"{name}.json").is_file():
            found = flag_new(trained, name, study, row)
            said += [page.strange(name, why) for why in found.loc[found["unusual"], "reasons"]]
    return said


def _hashes(trained: Study) -> dict[str, str]:
    files = [*(trained.models / FOLDER).glob("[!.]*.skops"), *(trained.models / "deep").glob("[!.]*.safetensors")]
    return {path.name: checksum(path) for path in sorted(files)}
