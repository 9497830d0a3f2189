"""Pages that are made of a run's tables, models and records: written again when anything behind them has changed."""

import sysconfig
from collections.abc import Mapping
from pathlib import Path

from sscct_lib.completeness import has_sweep
from sscct_lib.files import read_keyed, write_if_changed, write_keyed
from sscct_lib.notebooks import PROJECT
from sscct_lib.scans import file_state
from sscct_lib.study import Study, fingerprint

CHECKLISTS = PROJECT / "book" / "checklists"


def write_generated(study: Study, source: Path, missing: Mapping[str, str]) -> None:
    """Write the pages, and what they show, unless they are there and nothing behind them has changed.

    Parameters
    ----------
    study
        The study and run.
    source
        Folder of the book's sources; the scans that the viewer loads go beside it.
    missing
        From `completeness.missing_stages`.
    """
    book, record = source.parent, source.parent / "generated.json"
    key = fingerprint(study.settings, dict(missing), [[str(path), file_state(path)] for path in _behind(study)])
    known = read_keyed(record, key)
    if known and all(file_state(book / name) == state for name, state in known.items()):
        return
    record.unlink(missing_ok=True)
    made = _write(study, source, missing)
    states = {path.relative_to(book).as_posix(): file_state(path) for path in made}
    write_keyed(record, key, states)


def _behind(study: Study) -> list[Path]:
    """List the files from which the pages are made: results of the run, what the user wrote, code, and packages."""
    run, rooms = study.run, Path(__file__).parent
    results = [*run.glob("tables/**/*.parquet"), *run.glob("provenance/*.json"), *run.glob("benchmarks/*.tsv")]
    written = [study.manifest_path, study.folder / "statements.yaml", *CHECKLISTS.glob("*.yaml")]
    packages = Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info")
    if has_sweep(study):
        results += study.folder.glob("runs/*/tables/**/*.parquet")
    return sorted([*results, *study.models.glob("**/*.json"), *written, *rooms.glob("*.py"), *packages])


def _write(study: Study, source: Path, missing: Mapping[str, str]) -> list[Path]:
    """Write all pages; give these and the files that they show."""
    # Imported here: what draws and reads takes longer to load than a book without changes takes to build.
    from sscct_lib import checklists, model_cards, patient_pages, sweep_page
    from sscct_lib.gallery_page import write_gallery
    from sscct_lib.reference_pages import data_dictionary_page, packages_page, run_page

    scans = source.parent / "scans"
    pages = {
        "run": run_page(study),
        "data_dictionary": data_dictionary_page(),
        "packages": packages_page(),
        "patients": patient_pages.write_pages(study, source / "patients"),
        "model_cards": model_cards.page(study),
        "gallery": write_gallery(study, scans),
        **{f"checklist_{name}": checklists.page(name, study, missing) for name in checklists.NAMES},
    }
    shown = []
    if has_sweep(study):
        pages["sweep"] = sweep_page.write_page(study, source)
        shown.append(source / sweep_page.PICTURE)
    for name, text in pages.items():
        write_if_changed(source / f"{name}.md", text)
    shown += [*(source / "patients").glob("*"), *scans.glob("*")]
    return [*(source / f"{name}.md" for name in pages), *shown]
