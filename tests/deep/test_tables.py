from pathlib import Path

import pandas as pd

from sscct_lib.deep import tables
from sscct_lib.study.disclosure import protect
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import Settings


def predictions_of(model, risks):
    rows = [
        (f"s{i}", year, risk) for i, row in enumerate(risks) for year, risk in zip((5.0, 1.0, 3.0), row, strict=True)
    ]
    return pd.DataFrame(rows, columns=["scan_id", "horizon_years", "risk"]).assign(model=model)


def test_risks_that_fall_over_time_are_counted():
    hazard = predictions_of("hazard", [(0.3, 0.1, 0.3), (0.5, 0.2, 0.4)])
    separate = predictions_of("separate", [(0.3, 0.1, 0.2), (0.35, 0.2, 0.4), (0.1, 0.15, 0.2), (0.3, 0.31, 0.32)])
    table = tables.crossings(pd.concat([hazard, separate]))
    assert table["Risks that cross"].to_dict() == {"hazard": 0, "separate": 3}
    assert table["Scans"].to_dict() == {"hazard": 2, "separate": 4}
    assert table.loc["separate", "Largest fall"] == "10.0"


def test_weights_are_listed_with_what_they_filled(monkeypatch):
    loaded = {"file": "w.pth", "sha256": "ab" * 32, "n_matched": 83, "n_expected": 85, "n_unexpected": 4}
    card = {"model": "ResNet-18", "weights_loaded": loaded, "weights_licence": "MIT"}
    found = {"resnet18": [card, card], "swin": [{"model": "Swin (from scratch)", "weights_loaded": None}]}
    monkeypatch.setattr(tables, "cards", lambda study, name: found.get(name, []))
    table = tables.weights_table(Study(Path(), Settings()))
    assert table.to_dict("records") == [
        {
            "Model": "ResNet-18", "File": "w.pth", "Matched": 83, "Missing": 2, "Unexpected": 4,
            "SHA-256": "abababababab…", "Licence": "MIT",
        }
    ]  # fmt: skip
    monkeypatch.setattr(tables, "cards", lambda study, name: [])
    assert tables.weights_table(Study(Path(), Settings())).empty


def unusual(distance, threshold):
    n = len(distance)
    table = pd.DataFrame({"network": "swin", "scan_id": [f"s{i}" for i in range(n)], "distance": distance})
    table["patient_id"] = [f"p{i // 2}" for i in range(n)]
    flagged = table["distance"] > threshold
    return table.assign(threshold=threshold, unusual=flagged, reasons=flagged.map({True: "odd", False: ""}))


def test_flags_are_counted_by_scan_and_patient_and_listed_from_the_farthest():
    table = unusual([1.0, 2.0, 6.0, 9.0, 1.0], 4.0)
    counted = tables.flag_counts(table, 0.05).loc["Swin Transformer"]
    assert counted.tolist() == [5, "<5", "<5 of <5", "5 %"]
    protect(1)
    counted = tables.flag_counts(table, 0.05).loc["Swin Transformer"]
    assert counted.tolist() == [5, "2 (40.0 %)", "1 of 3", "5 %"]
    listed = tables.flagged_scans(table)
    assert listed["Scan"].tolist() == ["s3", "s2"]
    assert listed["Distance"].tolist() == ["2.25 times the threshold", "1.50 times the threshold"]
    few = tables.flag_counts(unusual([1.0, 2.0], float("inf")), 0.05).loc["Swin Transformer"]
    assert few["Expected of ordinary scans"] == "too few patients"


def test_an_explained_scan_that_is_unlike_the_training_scans_is_named():
    unusual = pd.DataFrame({"scan_id": ["a", "b"], "network": "resnet18", "unusual": [True, False]})
    assert "a is flagged above" in tables.flag_sentence(unusual, "a")
    assert "ResNet-18" in tables.flag_sentence(unusual, "a")
    assert "not flagged" in tables.flag_sentence(unusual, "b")
    assert tables.flag_sentence(unusual, "c") == ""


def test_a_network_that_learned_nothing_is_said_to():
    models = pd.DataFrame(
        {
            "model": ["A", "A", "A", "B", "B", "B"],
            "loss_tested": [0.5, 0.6, 0.4, 0.7, 0.7, 0.7],
            "loss_tested_without_image": [0.6, 0.5, 0.6, 0.6, 0.6, 0.7],
        }
    )
    assert "one risk for everybody: A in 2 of 3, B in 0 of 3 fits." in tables.findings(models)
