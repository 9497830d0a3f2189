"""An identifier planted in any file of a study is found there; a clean study has no finding."""

import base64
import csv
import gzip
import io
import json
import os
import sqlite3
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
from sscct_lib.intake.privacy_readers import LONGEST_TEXT
from sscct_lib.intake.privacy_search import search_file, search_study
from sscct_lib.intake.pseudonyms import read_identifiers
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
