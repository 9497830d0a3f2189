"""An identifier planted in any file of a study is found there; a clean study has no finding."""

import base64
import csv
import errno
import gzip
import io
import json
import os
import re
import socket
import sqlite3
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from sscct_lib.book.build import _refuse_identifiers
from sscct_lib.book.reference import run_page
from sscct_lib.intake import privacy_search
from sscct_lib.intake.ingest import ingest
from sscct_lib.intake.privacy import find
from sscct_lib.intake.privacy_search import search_file, search_study
from sscct_lib.intake.privacy_words import LONGEST_TEXT
from sscct_lib.intake.pseudonyms import read_identifier_table, read_identifiers
from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.stages import PROJECT
from tests.images.dicom_samples import SECRET, hounsfield, save, series
from tests.tiny_study import sscct

RUN = Path("runs") / "main"
DATE = "2015-03-04"
NUMBER = "MRN-4711004"
PROVENANCE = {
    "stage": "a",
    "finished": "2026-11-24T08:06:14+00:00",
    "git_commit": "0123456789ab",
    "versions": {"numpy": "2.4.6"},
}
UID = "1.2.840.113619.2.55.3.604688119.971.1268"


@pytest.fixture
def study(tmp_path) -> Path:
    """Make a study folder with one file of each kind, all clean."""
    folder = tmp_path / "study"
    for part in ("tables", "records/lungs", "notebooks", "models", "logs", "provenance", "book/source"):
        (folder / RUN / part).mkdir(parents=True)
    (folder / "scans").mkdir()
    (folder / "study.yaml").write_text("title: A study\n")
    (folder / "data_manifest.csv").write_text("scan_id,patient_id,kernel\np0123456789-20150304,p0123456789,B30f\n")
    pd.DataFrame({"scan_id": ["p0123456789-20150304"], "day": [3]}).to_parquet(
        folder / RUN / "tables" / "lungs.parquet"
    )
    write_json(folder / RUN / "records" / "lungs" / "a.json", {"key": "f" * 16, "record": {"reason": ""}})
    write_json(folder / RUN / "provenance" / "a.json", PROVENANCE)
    write_json(folder / RUN / "notebooks" / "01.ipynb", notebook())
    (folder / RUN / "book" / "source" / "index.md").write_text("# In 2015\n")
    page = folder / RUN / "book" / "_build" / "html" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>AUC 0.80 in 2015</p>")
    (page.parent / "figure.png").write_bytes(picture())
    write_json(folder / RUN / "models" / "card.json", {"model": "ResNet-18"})
    save_file({"w": np.zeros(3)}, folder / RUN / "models" / "a.safetensors", metadata={"model": "ResNet-18"})
    (folder / RUN / "logs" / "book.log").write_text("done\n")
    write_nifti(folder / "scans" / "p0123456789-20150304.nii.gz")
    return folder


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False))


def notebook(source: str = "x = 1", output: str = "1", markdown: str = "# Title", png: bytes | None = None) -> dict:
    timing = {"start_time": "2026-11-24T08:06:06.628442+00:00", "end_time": "2026-11-24T08:06:07+00:00"}
    outputs = [{"output_type": "stream", "name": "stdout", "text": [output]}]
    if png is not None:
        data = {"image/png": base64.b64encode(png).decode()}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    cells = [
        {"cell_type": "markdown", "source": [markdown], "metadata": {}},
        {"cell_type": "code", "source": source, "metadata": {"papermill": timing}, "outputs": outputs},
    ]
    return {"cells": cells, "metadata": {"papermill": {**timing, "input_path": "01.ipynb"}}, "nbformat": 4}


def picture(text: str = "Matplotlib version 3.11.2", compressed: bool = False) -> bytes:
    stream, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Software", text, zip=compressed)
    Image.new("L", (4, 4)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def write_nifti(path: Path, field: tuple[int, int] = (148, 228), text: str = "") -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 4, 4), np.int16))
    sitk.WriteImage(image, str(path))
    content = bytearray(gzip.decompress(path.read_bytes()))
    low, high = field
    content[low:high] = text.encode()[: high - low].ljust(high - low, b"\0")
    path.write_bytes(gzip.compress(bytes(content), mtime=0))


def plant_csv(study: Path) -> None:
    (study / "data_manifest.csv").write_text(f"scan_id,comment\na,fine\nb,seen {DATE}\n")


def plant_csv_header(study: Path) -> None:
    (study / "data_manifest.csv").write_text("scan_id,birth_date\na,\n")


def plant_parquet(study: Path) -> None:
    frame = pd.DataFrame({"scan_id": ["a", "b"], "note": ["", f"accession 1234567, {DATE}"]})
    frame.to_parquet(study / RUN / "tables" / "lungs.parquet")


def plant_parquet_date(study: Path) -> None:
    frame = pd.DataFrame({"scan_id": ["a"], "day": pd.to_datetime([DATE])})
    frame.to_parquet(study / RUN / "tables" / "lungs.parquet")


def plant_parquet_number(study: Path) -> None:
    pd.DataFrame({"scan_id": ["a"], "day": [20150304]}).to_parquet(study / RUN / "tables" / "lungs.parquet")


def plant_parquet_metadata(study: Path) -> None:
    table = pa.table({"scan_id": ["a"]}).replace_schema_metadata({"by": "erika@hospital.ch"})
    pq.write_table(table, study / RUN / "tables" / "lungs.parquet")


def plant_json(study: Path) -> None:
    write_json(study / RUN / "records" / "lungs" / "a.json", {"record": {"reason": f"no slices in {UID}"}})


def plant_json_field(study: Path) -> None:
    write_json(study / RUN / "records" / "lungs" / "a.json", {"record": {"PatientName": "Erika"}})


def plant_output(study: Path) -> None:
    write_json(study / RUN / "notebooks" / "01.ipynb", notebook(output=f"scan of {SECRET}"))


def plant_source(study: Path) -> None:
    write_json(study / RUN / "notebooks" / "01.ipynb", notebook(source="a = 1\npath = '/home/erika/scans'"))


def plant_markdown(study: Path) -> None:
    write_json(study / RUN / "notebooks" / "01.ipynb", notebook(markdown=f"As {NUMBER} shows"))


def plant_figure(study: Path) -> None:
    write_json(study / RUN / "notebooks" / "01.ipynb", notebook(png=picture(f"of {DATE}")))


def plant_page(study: Path) -> None:
    (study / RUN / "book" / "_build" / "html" / "index.html").write_text(f"<p>fine</p>\n<td>{DATE}</td>")


def plant_chapter(study: Path) -> None:
    (study / RUN / "book" / "source" / "index.md").write_text(f"# Title\n\nSeen on {DATE}.\n")


def plant_png(study: Path) -> None:
    (study / RUN / "book" / "_build" / "html" / "figure.png").write_bytes(picture(SECRET))


def plant_png_compressed(study: Path) -> None:
    (study / RUN / "book" / "_build" / "html" / "figure.png").write_bytes(picture(SECRET, compressed=True))


def plant_svg(study: Path) -> None:
    (study / RUN / "book" / "_build" / "html" / "figure.svg").write_text(
        f'<svg>\n<path d="M 20150304\n20150304"/>\n<!-- {SECRET} -->\n</svg>'
    )


def plant_svg_picture(study: Path) -> None:
    inside = base64.b64encode(picture(SECRET)).decode()
    (study / RUN / "book" / "_build" / "html" / "figure.svg").write_text(
        f'<svg><image href="data:image/png;base64,{inside}"/></svg>'
    )


def plant_svg_output(study: Path) -> None:
    content = notebook()
    data = {"application/papermill.record/image/svg+xml": f"<svg>\n<!-- {DATE} -->\n</svg>"}
    content["cells"][1]["outputs"].append({"output_type": "display_data", "data": data, "metadata": {}})
    write_json(study / RUN / "notebooks" / "01.ipynb", content)


def plant_card(study: Path) -> None:
    write_json(study / RUN / "models" / "card.json", {"trained_on": "/data/registry/study"})


def plant_tensor_metadata(study: Path) -> None:
    save_file({"w": np.zeros(3)}, study / RUN / "models" / "a.safetensors", metadata={"by": "erika@hospital.ch"})


def plant_skops(study: Path) -> None:
    with zipfile.ZipFile(study / RUN / "models" / "a.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps({"note": DATE}))


def plant_log(study: Path) -> None:
    (study / RUN / "logs" / "book.log").write_text(f"start\nfailed at {NUMBER}\n")


def plant_file_name(study: Path) -> None:
    (study / "scans" / "p0123456789-20150304.nii.gz").rename(study / "scans" / f"{SECRET}_20150304.nii.gz")


def plant_dicom(study: Path) -> None:
    save(series(hounsfield(1)), study / "scans" / "masks")


def plant_key(study: Path) -> None:
    (study / "study.key").write_text("f" * 64)


PLACES = {
    plant_csv: "data_manifest.csv, row 3, column comment: date 20… (10 characters)",
    plant_csv_header: "data_manifest.csv, column birth_date: field",
    plant_parquet: "runs/main/tables/lungs.parquet, row 2, column note: record number ac…",
    plant_parquet_date: "runs/main/tables/lungs.parquet, column day: date in 1 rows",
    plant_parquet_number: "runs/main/tables/lungs.parquet, row 1, column day: date 20…",
    plant_parquet_metadata: "runs/main/tables/lungs.parquet, metadata by: e-mail er…",
    plant_json: "runs/main/records/lungs/a.json, field record.reason: DICOM UID 1.…",
    plant_json_field: "runs/main/records/lungs/a.json, field PatientName: field Er…",
    plant_output: "runs/main/notebooks/01.ipynb, cell 2, output, line 1: name Mü…",
    plant_source: "runs/main/notebooks/01.ipynb, cell 2, source, line 2: path /h…",
    plant_markdown: "runs/main/notebooks/01.ipynb, cell 1, source, line 1: record number MR…",
    plant_figure: "runs/main/notebooks/01.ipynb, cell 2, picture's text Software: date 20…",
    plant_page: "runs/main/book/_build/html/index.html, line 2: date 20…",
    plant_chapter: "runs/main/book/source/index.md, line 3: date 20…",
    plant_png: "runs/main/book/_build/html/figure.png, picture's text Software: name Mü…",
    plant_png_compressed: "runs/main/book/_build/html/figure.png, picture's text Software: name Mü…",
    plant_svg: "runs/main/book/_build/html/figure.svg, drawing, line 4: name Mü…",
    plant_svg_picture: "runs/main/book/_build/html/figure.svg, picture's text Software: name Mü…",
    plant_svg_output: "runs/main/notebooks/01.ipynb, cell 2, drawing, line 2: date 20…",
    plant_card: "runs/main/models/card.json, field trained_on: path /d…",
    plant_tensor_metadata: "runs/main/models/a.safetensors, metadata: e-mail er…",
    plant_skops: "runs/main/models/a.skops, schema.json, line 1: date 20…",
    plant_log: "runs/main/logs/book.log, line 2: record number MR…",
    plant_file_name: "scans/Mü… (28 characters) (its name): name Mü…",
    plant_dicom: "the whole file: DICOM file",
    plant_key: "study.key, the whole file: key",
}
IN_THE_BOOK = [plant_parquet, plant_output, plant_source, plant_markdown, plant_figure, plant_chapter]


def test_clean_study(study):
    search = search_study(study)
    assert search.lines() == []
    assert search.n_files == 13


@pytest.mark.parametrize("plant", PLACES, ids=lambda plant: plant.__name__)
def test_planted_identifier_is_found(study, plant):
    plant(study)
    shown = sscct("check", study, "--privacy")
    assert shown.exit_code == 1
    assert PLACES[plant] in shown.output
    for secret in ("erika", "Müller", "4711004", "604688119", "1234567", "03-04"):
        assert secret not in shown.output


@pytest.mark.parametrize(
    ("field", "name"),
    [((148, 228), "descrip"), ((228, 252), "aux_file"), ((328, 344), "intent_name"), ((14, 32), "db_name")],
)
def test_texts_of_a_nifti_header(study, field, name):
    write_nifti(study / "scans" / "p0123456789-20150304.nii.gz", field, "Meier^Hans")
    lines = search_study(study).lines()
    assert any(f"header, {name}: name Me…" in line for line in lines)


def test_free_text_where_converters_put_the_name(study):
    write_nifti(study / "scans" / "p0123456789-20150304.nii.gz", (14, 32), "hans meier")
    (line,) = search_study(study).lines()
    assert "header, db_name: free text ha…" in line


def test_what_could_not_be_looked_into_is_never_called_clean(study):
    (study / RUN / "tables" / "lungs.parquet").write_bytes(b"PAR1")
    (study / "notes.doc").write_bytes(bytes(range(256)))
    (study / "numbers.npy").write_bytes(as_bytes(np.save, np.array([{"a": DATE}], dtype=object)))
    with zipfile.ZipFile(study / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "0" * (LONGEST_TEXT + 1))
    (study / "drawn.pdf").write_bytes(b"%PDF-1.4\nstream\n" + zlib.compress(b"<0001000200030004> Tj") + b"\nendstream")
    lines = search_study(study).lines()
    names = ["bomb.zip", "drawn.pdf", "notes.doc", "numbers.npy", "runs/main/tables/lungs.parquet"]
    assert [line.split(":")[0] for line in lines] == names
    shown = sscct("check", study, "--privacy")
    assert shown.exit_code == 3
    assert "5 more could not be looked into: of these nothing can be said." in shown.output
    assert "notes.doc: not looked into (of no kind that is looked into)" in shown.output
    with pytest.raises(StudyError, match=r"1 place\(s\) may point to a patient, or cannot be read; no book was made"):
        _refuse_identifiers(load_study(study), ("tables",))


def as_bytes(write, content) -> bytes:
    file = io.BytesIO()
    write(file, content)
    return file.getvalue()


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "."), text)
    return file.getvalue()


def database() -> bytes:
    with sqlite3.connect(":memory:") as made:
        made.execute('create table "x ""y" (who text, n int)')
        made.execute('insert into "x ""y" values (?, 1)', (f"born {DATE}",))
        return made.serialize()


HOLDING = {
    "a.xlsx": lambda: as_bytes(lambda file, table: table.to_excel(file), pd.DataFrame({"a": [f"born {DATE}"]})),
    "a.csv.gz": lambda: gzip.compress(f"a\n{DATE}\n".encode()),
    "a.zip": lambda: zipped(notes__txt=DATE),
    "a.npy": lambda: as_bytes(np.save, np.array([DATE, "x"])),
    "a.npz": lambda: as_bytes(lambda file, array: np.savez(file, a=array), np.array([DATE])),
    "utf16.txt": lambda: DATE.encode("utf-16"),
    "utf16.csv": lambda: f"a,b\n{DATE},1\n".encode("utf-16-le"),
    "latin.txt": lambda: f"für Müller am {DATE}".encode("latin-1"),
    "a.sqlite": database,
    "a.pdf": lambda: b"%PDF-1.4\nstream\n" + zlib.compress(f"(born) Tj\n({DATE}) Tj".encode()) + b"\nendstream\n",
    "page.html": lambda: b"2015&#45;03&#45;04",
    "colours.log": lambda: b"2015-\x1b[31m03\x1b[0m-04",
    ".hidden/notes.txt": DATE.encode,
    ".notes": DATE.encode,
}


@pytest.mark.parametrize("name", HOLDING)
def test_whatever_holds_it(study, name):
    path = study / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(HOLDING[name]())
    shown = sscct("check", study, "--privacy")
    assert shown.exit_code == 1, shown.output
    assert f"{name}, " in shown.output
    assert ": date 20" in shown.output


def test_an_archive_in_an_archive(study):
    inner = zipped(notes__txt=DATE)
    with zipfile.ZipFile(study / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", inner)
    (line,) = search_study(study).lines()
    assert line.startswith("outer.zip, inner.zip, notes.txt, line 1: date 20")


def test_days_in_a_column_of_numbers(study):
    table = study / RUN / "tables" / "lungs.parquet"
    days = pd.DataFrame({"day": [20150304.0, np.nan], "measure": [20150304.0, 1.5]})
    days.loc[2] = [20150305.0, 2.5]
    days.to_parquet(table)
    lines = search_study(study).lines()
    assert [line.partition(", ")[2].partition(":")[0] for line in lines] == ["row 1, column day", "row 3, column day"]


@pytest.mark.parametrize("plant", IN_THE_BOOK, ids=lambda plant: plant.__name__)
def test_the_book_is_refused(study, plant):
    loaded = load_study(study)
    _refuse_identifiers(loaded, ("tables", "notebooks", "book/source"))
    plant(study)
    with pytest.raises(StudyError, match="no book was made:\n  runs/main/"):
        _refuse_identifiers(loaded, ("tables", "notebooks", "book/source"))


def test_the_page_on_the_run_names_weights_but_not_where_they_lie(study):
    (study / "study.yaml").write_text("deep: {resnet18: {weights: /data/weights/resnet.pth}}")
    page = run_page(load_study(study))
    assert "weights: resnet.pth" in page
    assert find(page) == []


def test_identifiers_of_the_source_are_found_however_they_are_written(tmp_path, study):
    header = {"AccessionNumber": "A77001", "PatientID": "K55-1x"}
    source = save(series(hounsfield(3), **header), tmp_path / "export")
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,last_contact_date,last_name\nZ9001,2018-05-06,Habsburg\n")
    for word in ("K55-1x", "A77001", "erika", "MÜLLER", "1.2.3.100.1", "Klinikum Nord", "Z9001", "habsburg"):
        (study / RUN / "logs" / "book.log").write_text(f"about {word} again")
        shown = sscct("check", study, "--privacy", "--source", source, "--clinical", clinical)
        assert shown.exit_code == 1, word
        assert "book.log, line 1: known identifier" in shown.output
    (study / RUN / "logs" / "book.log").write_text("about nobody")
    shown = sscct("check", study, "--privacy", "--source", source, "--clinical", clinical)
    assert shown.exit_code == 0, shown.output


def test_the_projects_own_chapters_and_notebooks_would_not_stop_the_book():
    paths = [*PROJECT.glob("notebooks/*.py"), PROJECT / "data_manifest.csv", PROJECT / "study.yaml"]
    paths += [path for path in PROJECT.glob("book/**/*") if path.is_file()]
    assert len(paths) > 10
    assert {path.name: search_file(path) for path in paths if search_file(path)} == {}


def test_what_ingest_writes_is_clean(tmp_path):
    source = save(series(hounsfield(), SeriesDescription=SECRET), tmp_path / "export")
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,last_contact_date,event_observed\nMRN-4711,2018-03-04,1\n")
    ingest(source, clinical, tmp_path / "study")
    search = search_study(tmp_path / "study", read_identifiers(source, clinical))
    assert search.lines() == []


def test_source_without_identifiers(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="holds no identifier"):
        read_identifiers(tmp_path / "empty")
    with pytest.raises(StudyError, match="is no folder"):
        read_identifiers(tmp_path / "absent")


def test_the_day_of_a_decision_on_a_mask_is_no_date_of_a_patient(tmp_path):
    path = tmp_path / "qa_decisions.csv"
    path.write_text(f"scan_id,verdict,who,when,why\na,pass,AB,{DATE},seen on {DATE}\n")
    assert [finding.place for finding in search_file(path)] == ["row 2, column why"]


def test_a_file_found_clean_is_read_again_only_when_it_changes(study, monkeypatch):
    read = []
    real = privacy_search.search_file
    monkeypatch.setattr(privacy_search, "search_file", lambda path, known: read.append(path) or real(path, known))
    clean: dict[str, list[int]] = {}
    assert search_study(study, clean=clean).findings == []
    n_first = len(read)
    search_study(study, clean=clean)
    search_study(study, clean=clean)
    assert len(read) <= n_first + 3  # a copy of a file that was skipped is read once by itself
    log = study / RUN / "logs" / "book.log"
    before = log.stat()
    log.write_text(log.read_text().replace("done", "done on 2015-03-04"))
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))  # a time that was set back hides nothing
    found = search_study(study, clean=clean)
    assert [one.kind for one in found.findings] == ["date"]
    assert len(search_study(study, clean=clean).findings) == 1  # and is found again, for nothing was mended


class TestTableOfIdentifiers:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_each_cell_is_looked_for_however_it_is_written(self, tmp_path, study, delimiter):
        table = tmp_path / "known.csv"
        rows = [["who", "code"], ["Doe, Jane", "K 17-b"], ["ab", "12.04.1953"]]
        with table.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        write_json(study / RUN / "records" / "lungs" / "a.json", {"a": "doe_jane", "b": "k17B", "c": "04/12/1953"})
        shown = sscct("check", study, "--privacy", "--identifiers", table)
        assert shown.exit_code == 1
        assert shown.output.count("known identifier") == 3
        assert "jane" not in shown.output.lower()

    def test_a_clean_study_is_clean_and_whole_words_count(self, tmp_path, study):
        (tmp_path / "known.csv").write_text("id\nxyz\n")
        write_json(study / RUN / "records" / "lungs" / "a.json", {"a": "wxyz xyzz"})
        assert sscct("check", study, "--privacy", "--identifiers", tmp_path / "known.csv").exit_code == 0

    @pytest.mark.parametrize(
        ("text", "words"), [("id\n", "no cell of 3"), ("", "no cell of 3"), (None, "no such file")]
    )
    def test_a_table_with_nothing_to_look_for_is_refused(self, tmp_path, study, text, words):
        if text is not None:
            (tmp_path / "known.csv").write_text(text)
        shown = sscct("check", study, "--privacy", "--identifiers", tmp_path / "known.csv")
        assert shown.exit_code == 1
        assert words in shown.output

    @pytest.mark.parametrize(
        "first", ["4711004", "Jane Doe", "DOE", "Doe,Jane,1953-04-12", "K55-1x;Habsburg", "Patient 12345", "Name Doe"]
    )
    def test_the_first_row_of_a_list_counts(self, tmp_path, study, first):
        (tmp_path / "known.csv").write_text(f"{first}\nxyz\n")
        (study / "a.txt").write_text(re.split("[,;]", first)[0])
        assert sscct("check", study, "--privacy", "--identifiers", tmp_path / "known.csv").exit_code == 1

    @pytest.mark.parametrize(
        "first",
        ["id", "PatientID", "patient_id,last_name,birth date", "Nachname;Vorname;Geburtsdatum", "Nom,Prénom", "MRN"],
    )
    def test_names_of_columns_are_not_searched_for_and_it_is_said(self, tmp_path, study, first, caplog):
        (tmp_path / "known.csv").write_text(f"{first}\nxyz\n")
        (study / "a.txt").write_text("; ".join(re.split("[,;]", first)))
        caplog.set_level("INFO")
        known = read_identifier_table(tmp_path / "known.csv")
        assert known.words == {"xyz"}
        assert "first row of --identifiers was taken for names of columns" in caplog.text


def hexadecimal(text: str) -> bytes:
    return text.encode("utf-16-be").hex().encode()


def pdf(*streams: bytes, info: bytes = b"") -> bytes:
    parts = (b"<</Filter /FlateDecode>>\nstream\n" + zlib.compress(one) + b"\nendstream\n" for one in streams)
    return b"%PDF-1.4\n" + info + b"".join(parts)


def looked_at(study: Path, name: str, content: bytes) -> privacy_search.Search:
    (study / name).parent.mkdir(parents=True, exist_ok=True)
    (study / name).write_bytes(content)
    return search_study(study)


class TestWhatIsNotLookedInto:
    """Is named, and the search goes on."""

    def refused(self, study: Path, *names: str) -> str:
        """Check that each of these is named and nothing else is; gives the words."""
        (study / "zz_last.txt").write_text(DATE)
        search = search_study(study)
        assert [line.split(": not looked into")[0] for line in search.unread] == sorted(names)
        assert [one.place for one in search.findings] == ["zz_last.txt, line 1"]
        (study / "zz_last.txt").unlink()
        assert sscct("check", study, "--privacy").exit_code == 3
        return "\n".join(search.unread)

    def test_links_to_folders_and_out_of_the_study(self, study, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        for place in (tmp_path / "elsewhere" / "notes.txt", tmp_path / "notes.txt"):
            place.write_text(f"seen on {DATE}")
        (study / "a_folder").symlink_to(tmp_path / "elsewhere")
        (study / "b_inside").symlink_to(study / "scans")
        (study / "c_notes.txt").symlink_to(tmp_path / "notes.txt")
        (study / "d_gone.txt").symlink_to(tmp_path / "absent")
        (study / "e_loop").symlink_to(study / "e_loop")
        said = self.refused(study, "a_folder", "b_inside", "c_notes.txt", "d_gone.txt", "e_loop")
        assert said.count("a link that leads out of the study") == 3
        (study / "scans" / "one.txt").write_text(DATE)
        (study / "f_inside.txt").symlink_to(study / "scans" / "one.txt")
        assert {one.place for one in search_study(study).findings} == {"f_inside.txt, line 1", "scans/one.txt, line 1"}

    def test_the_study_itself_may_be_reached_by_a_link(self, study, tmp_path):
        (tmp_path / "link").symlink_to(study)
        assert search_study(tmp_path / "link").n_files == 13

    def test_pipes_and_sockets_are_not_opened(self, study):
        os.mkfifo(study / "a.csv")
        os.mkfifo(study / "notes.md")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(study / "s"))
            self.refused(study, "a.csv", "notes.md", "s")

    @pytest.mark.parametrize("name", ["notes.md", "a.ipynb", "a.csv", "a.txt"])
    def test_a_file_that_cannot_be_opened(self, study, monkeypatch, name):
        (study / name).write_text("x")
        real = Path.open

        def refuse(path, *args, **options):
            if path.name == name:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *args, **options)

        monkeypatch.setattr(Path, "open", refuse)
        assert "PermissionError" in self.refused(study, name)

    def test_a_folder_that_cannot_be_listed(self, study, monkeypatch):
        (study / "closed").mkdir()
        (study / "closed" / "notes.txt").write_text(DATE)
        real = os.listdir

        def refuse(path):
            if Path(path).name in ("closed", "tables"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path)

        monkeypatch.setattr(os, "listdir", refuse)
        assert "Permission denied" in self.refused(study, "closed", "runs/main/tables")
        with pytest.raises(StudyError, match="no book was made"):
            _refuse_identifiers(load_study(study), ("tables",))

    def test_the_book_is_refused_for_a_link(self, study, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (study / RUN / "tables" / "more").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StudyError, match="leads out of the study"):
            _refuse_identifiers(load_study(study), ("tables",))

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("list.ipynb", b"[1]"),
            ("cells.ipynb", b'{"cells": [1]}'),
            ("long.csv", b"a,b\n1," + b"x" * 200_000),
            ("deep.json", b"[" * 100_000),
            ("a.png", b"no picture"),
            ("a.safetensors", b"\xff" * 20),
        ],
    )
    def test_whatever_breaks_its_reader(self, study, name, content):
        (study / name).write_bytes(content)
        self.refused(study, name)

    @pytest.mark.parametrize("start", [float("inf"), float("nan"), -1.0, 1e12])
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_a_header_whose_voxels_begin_nowhere(self, study, start, ending):
        write_nifti(study / "a.nii.gz", (108, 112))
        content = bytearray(gzip.decompress((study / "a.nii.gz").read_bytes()))
        (study / "a.nii.gz").unlink()
        content[108:112] = struct.pack("<f", start)
        content[148:228] = b"Meier^Hans".ljust(80, b"\0")
        (study / f"a{ending}").write_bytes(gzip.compress(bytes(content)) if ending == ".nii.gz" else bytes(content))
        search = search_study(study)
        assert [line.split(":")[0] for line in search.unread] == [f"a{ending}"]
        assert [str(one).partition(" Me")[0] for one in search.findings] == [f"a{ending}, header, descrip: name"]

    def test_what_was_found_before_a_reader_broke_is_kept(self, study):
        (study / "a.zip").write_bytes(zipped(a__txt=DATE, b__bin="\0\1"))
        search = search_study(study)
        assert [one.place for one in search.findings] == ["a.zip, a.txt, line 1"]
        assert len(search.unread) == 1

    def test_a_folder_like_those_of_a_book_is_not_left_out(self, study):
        for place in (".doctrees", "book/_static", "scans/_build/html", "__pycache__"):
            (study / place).mkdir(parents=True)
            (study / place / "notes.map").write_text(DATE)
        (study / RUN / "book" / "_build" / "html" / "_static").mkdir()
        (study / RUN / "book" / "_build" / "html" / "_static" / "notes.txt").write_text(DATE)
        assert len(search_study(study).findings) == 5

    def test_an_empty_folder_has_a_name(self, study):
        (study / "Doe_Jane_19530412").mkdir()
        (line, *_) = search_study(study).lines()
        assert "(its name)" in line
        assert "Jane" not in line


class TestPdf:
    INFO = b"1 0 obj <</Title (A figure of lungs)>> endobj\n"

    @pytest.mark.parametrize(
        "stream",
        [
            b"BT <0001000200030004> Tj ET",
            b"BT [<00010002> -20 <0003>] TJ ET",
            b"BT (\\000\\001\\000\\002) Tj ET",
            b"(J) Tj 5 0 Td (a) Tj 5 0 Td (n) Tj 5 0 Td (e) Tj",
            b"q 1 0 0 1 0 0 cm /Im1 Do Q",
        ],
    )
    def test_words_beside_its_pages_do_not_make_it_readable(self, study, stream):
        (line,) = looked_at(study, "a.pdf", pdf(stream, info=self.INFO)).lines()
        assert line == "a.pdf: not looked into (a PDF whose letters cannot be read)"

    @pytest.mark.parametrize(
        "stream",
        [
            f"BT (born) Tj T* ({DATE}) Tj ET".encode(),
            b"BT (born) Tj [(2015-0) -20 (3-04)] TJ ET",
            b"BT (born) Tj <" + DATE.encode().hex().encode() + b"> Tj ET",
            b"BT (born) Tj (2015\\05503\\05504) Tj ET",
        ],
    )
    def test_words_of_its_pages(self, study, stream):
        search = looked_at(study, "a.pdf", pdf(stream, info=self.INFO))
        assert [one.kind for one in search.findings] == ["date"]
        assert search.unread == []

    @pytest.mark.parametrize(
        "info",
        [
            b"<</Author (Meier^Hans)>>",
            b"<</Author <FEFF" + hexadecimal("Meier^Hans") + b">>>",
            b"<<>>\nstream\n<x:xmpmeta><rdf:RDF><dc:creator>Meier^Hans</dc:creator></rdf:RDF>\nendstream\n",
        ],
    )
    def test_words_beside_its_pages(self, study, info):
        search = looked_at(study, "a.pdf", pdf(b"BT (Figure) Tj ET", info=info))
        assert [one.kind for one in search.findings] == ["name"]

    def test_a_long_stream_is_read_whole(self, study):
        content = b"(0.5) Tj\n" * 700_000 + f"(born {DATE}) Tj".encode()
        assert len(content) > 5_000_000
        assert [one.kind for one in looked_at(study, "a.pdf", pdf(content)).findings] == ["date"]

    def test_beyond_what_can_be_read_it_is_named(self, study):
        stream = b"(lungs) Tj\n" + b" " * (LONGEST_TEXT // 2)
        (line,) = looked_at(study, "a.pdf", pdf(stream, stream)).lines()
        assert line == "a.pdf: not looked into (a PDF of more than can be looked into)"

    @pytest.mark.parametrize(
        "more", [b"<</Encrypt 5 0 R>>", b"<</Filter [/ASCII85Decode /FlateDecode]>>stream\nx endstream"]
    )
    def test_what_cannot_be_undone(self, study, more):
        search = looked_at(study, "a.pdf", pdf(b"(lungs) Tj", info=more))
        assert (len(search.findings), len(search.unread)) == (0, 1)


PHOTOS = {"JPEG": "a.jpg", "PNG": "a.png", "TIFF": "a.tif", "WEBP": "a.webp"}


def photo(kind: str, **places: str) -> bytes:
    """A picture with a text in its header: `base` or `inner` (of EXIF)."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0132] = places.get("base", "none")
    if "inner" in places:
        exif.get_ifd(0x8769)[0x9003] = places["inner"]
    Image.new("L", (4, 4)).save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "place"),
    [
        *((kind, name, "base") for kind, name in PHOTOS.items()),
        *((kind, name, "inner") for kind, name in PHOTOS.items() if kind != "TIFF"),  # Pillow writes none
    ],
)
def test_the_day_of_a_picture(study, kind, name, place):
    search = looked_at(study, name, photo(kind, **{place: "2020:01:31 10:11:12"}))
    assert {one.kind for one in search.findings} == {"date"}


@pytest.mark.parametrize("kind", ["image/png", "image/svg+xml"])
def test_a_picture_in_a_page(study, kind):
    content = picture(SECRET) if kind == "image/png" else f"<svg><!-- {SECRET} --></svg>".encode()
    page = f'<img src="data:{kind};base64,{base64.b64encode(content).decode()}">'
    assert {one.kind for one in looked_at(study, "a.html", page.encode()).findings} == {"name"}


class TestNumbers:
    """Identifiers in columns of numbers."""

    @pytest.fixture
    def table(self, tmp_path) -> Path:
        (tmp_path / "known.csv").write_text("4711004\n0081234\n")
        return tmp_path / "known.csv"

    @pytest.mark.parametrize("number", [4711004, 81234])
    @pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64", "Int64", "str"])
    @pytest.mark.parametrize("ending", ["parquet", "csv", "xlsx", "npy", "2d.npy", "npz", "sqlite", "json"])
    def test_it_is_found_in_each(self, study, table, number, kind, ending):
        frame = pd.DataFrame({"measure": [0.5, 1.5, 12.0], "who": pd.Series([1, number, 3]).astype(kind)})
        path = study / f"a.{ending}"
        if ending in ("parquet", "csv", "json"):
            getattr(frame, f"to_{ending}")(path)
        elif ending == "xlsx":
            frame.to_excel(path)
        elif ending == "sqlite":
            with sqlite3.connect(path) as made:
                frame.to_sql("a", made)
        else:
            plain = "float64" if kind == "Int64" else kind
            array = frame["who"].astype(plain).to_numpy()
            array = (
                frame.astype("float64").to_numpy()
                if ending == "2d.npy"
                else array.astype("U" if kind == "str" else plain)
            )
            path.write_bytes(as_bytes(np.save if "npy" in ending else np.savez, array))
        shown = sscct("check", study, "--privacy", "--identifiers", table)
        assert shown.exit_code == 1, shown.output
        assert re.search(rf"a.{ending}, .*known identifier", shown.output)
        assert str(number) not in shown.output

    def test_measures_are_left_alone(self, study, table):
        frame = pd.DataFrame({"measure": [4711004.5, 0.25, np.inf, np.nan], "n": [4, 711004, 47110040, 14711004]})
        frame.to_parquet(study / "a.parquet")
        np.save(study / "a.npy", frame.to_numpy())
        assert sscct("check", study, "--privacy", "--identifiers", table).exit_code == 0


SPLIT = {
    "a.csv": lambda path: path.write_text("last,age,first\nDoe,63,Jane\n"),
    "b.csv": lambda path: path.write_text("first;last\nJane;Doe\n"),
    "a.parquet": lambda path: pd.DataFrame({"l": ["x", "Doe"], "n": [1, 2], "f": ["y", "JANE"]}).to_parquet(path),
    "a.json": lambda path: write_json(path, {"last": "Doe", "n": 1, "first": "Jane"}),
    "b.json": lambda path: write_json(path, [["jane", "x", "doe"]]),
    "a.xlsx": lambda path: pd.DataFrame({"l": ["Doe"], "f": ["Jane"]}).to_excel(path),
    "a.sqlite": lambda path: path.write_bytes(as_database("Jane", "x", "Doe")),
}


def as_database(*cells: str) -> bytes:
    with sqlite3.connect(":memory:") as made:
        made.execute("create table a (x, y, z)")
        made.execute("insert into a values (?, ?, ?)", cells)
        return made.serialize()


@pytest.mark.parametrize("name", SPLIT)
def test_a_name_in_several_cells(study, tmp_path, name):
    (tmp_path / "known.csv").write_text('"Doe, Jane"\n')
    SPLIT[name](study / name)
    shown = sscct("check", study, "--privacy", "--identifiers", tmp_path / "known.csv")
    assert shown.exit_code == 1, shown.output
    assert f"{name}, " in shown.output
    assert "jane" not in shown.output.lower()


def test_parts_of_different_names_are_no_name(study, tmp_path):
    (tmp_path / "known.csv").write_text('"Doe, Jane"\n"Roe, Richard"\n')
    (study / "a.csv").write_text("last,first\nDoe,Richard\nRoe,Jane\n")
    assert sscct("check", study, "--privacy", "--identifiers", tmp_path / "known.csv").exit_code == 0


NAMED = {
    "a.csv": lambda path, word: path.write_text(f"a,x {word}\nb,{DATE}\n"),
    "a.parquet": lambda path, word: pd.DataFrame({f"x {word}": [DATE]}).to_parquet(path),
    "a.json": lambda path, word: write_json(path, {f"x {word}": {"y": DATE}}),
    "a.zip": lambda path, word: path.write_bytes(zipped(**{f"x {word}__txt": DATE})),
    "a.npy": lambda path, word: np.save(path, np.array([(DATE,)], dtype=[(f"x {word}", "U10")])),
    "a.sqlite": lambda path, word: pd.DataFrame({f"x {word}": [DATE]}).to_sql(f"t {word}", sqlite3.connect(path)),
    "a.png": lambda path, word: path.write_bytes(with_text(f"x {word}")),
}


def with_text(name: str) -> bytes:
    stream, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text(name, DATE)
    Image.new("L", (4, 4)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@pytest.mark.parametrize("word", ["2015-03-05", "K55-1x", "Habsburg", "erika@hospital.ch"])
@pytest.mark.parametrize("name", NAMED)
def test_names_within_a_file_are_masked_as_values_are(study, tmp_path, name, word):
    (tmp_path / "known.csv").write_text("K55-1x\nHabsburg\n")
    NAMED[name](study / name, word)
    shown = sscct("check", study, "--privacy", "--identifiers", tmp_path / "known.csv")
    assert shown.exit_code == 1
    assert shown.output.count("… (") >= 2
    assert word not in shown.output


def test_the_name_of_a_person_in_an_archive(study):
    search = looked_at(study, "a.zip", zipped(Doe_Jane__txt="nothing"))
    assert [one.kind for one in search.findings] == ["name"]


def test_a_plain_spreadsheet_is_clean(study):
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_excel(study / "a.xlsx")
    search = search_study(study)
    assert all(one.place.startswith("a.xlsx, docProps/core.xml, ") for one in search.findings)  # the day it was made


def cell_of(**fields) -> dict:
    return {"cells": [{"cell_type": "code", "source": "", "metadata": {}, "outputs": [], **fields}], "metadata": {}}


ODD_PLACES = {
    "top.ipynb": {"cells": [], "authors": [{"name": SECRET}]},
    "cell.ipynb": cell_of(extra={"of": [SECRET]}),
    "output.ipynb": cell_of(outputs=[{"output_type": "display_data", "data": {}, "metadata": {"alt": SECRET}}]),
    "kind.ipynb": cell_of(outputs=[{"output_type": "display_data", "data": {SECRET: "x"}}]),
    "error.ipynb": cell_of(outputs=[{"output_type": "error", "ename": SECRET, "evalue": "", "traceback": []}]),
    "attached.ipynb": cell_of(attachments={f"{SECRET}.png": {}}),
    "time.ipynb": {"cells": [], "metadata": {"papermill": {"start_time": f"2026 {SECRET}", "end_time": {"a": SECRET}}}},
    "provenance/a.json": {"finished": [SECRET]},
}


@pytest.mark.parametrize("name", ODD_PLACES)
def test_odd_places_of_records_and_notebooks(study, name):
    (study / name).parent.mkdir(exist_ok=True)
    write_json(study / name, ODD_PLACES[name])
    assert {one.kind for one in search_study(study).findings} == {"name"}


def test_the_first_of_two_fields_of_one_name_is_not_passed_over(study):
    search = looked_at(study, "a.json", f'{{"a": "{SECRET}", "a": ""}}'.encode())
    assert search.unread == ["a.json: not looked into (it has two fields of one name)"]
