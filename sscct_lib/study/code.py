"""The code that a result rests on: its files, and the hash by which an edit makes the result stale.

It rests on nothing but Python's own modules, so that a study moves between machines with different ones.
"""

import ast
import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
KEYS = 2  # how keys are made; what a run made under another number is made again, whatever the workflow remembers


@cache
def code_files(start: Path) -> tuple[Path, ...]:
    """List the source files that one file rests on, itself among them, by following its `sscct_lib` imports; sorted."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_files(path)
    return tuple(sorted(found))


@cache
def imported_files(path: Path) -> tuple[Path, ...]:
    """List the files of `sscct_lib` that a Python file imports, wherever the import stands, packages among them."""
    inside = {name.partition(".")[2] for name in _read(path)[1] if name.startswith("sscct_lib.")}
    # Importing `lungs.segment` runs the first lines of the package `lungs` too.
    inside |= {name.partition(".")[0] for name in inside}
    return tuple(sorted(source for name in inside if (source := _source(name))))


def _source(module: str) -> Path | None:
    """Give the file of a module or package, given as `lungs.segment`; None where it is another name."""
    place = PACKAGE.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def code_hash(module: str | Path) -> str:
    """Hash the code on which a module of `sscct_lib`, or another Python file, rests: an edit makes its results stale.

    Docstrings, comments and layout do not count, so that no word makes a training stale.

    Parameters
    ----------
    module
        A path, or the place of a module in the library, for example `lungs.segment`.

    Raises
    ------
    ValueError
        If there is no such module: what rests on nothing would never be stale.
    """
    start = module if isinstance(module, Path) else _source(module)
    if start is None:
        raise ValueError(f"sscct_lib has no module {module}.")
    digest = hashlib.sha256()
    for path in code_files(start):
        place = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else path.name
        digest.update(f"{place} {_read(path)[0]}".encode())
    return digest.hexdigest()[:16]


@cache
def _read(path: Path) -> tuple[str, frozenset[str]]:
    """Give a hash of what a Python file means, its code without strings that stand alone, and what it imports.

    Alike on all Pythons. What was found is kept with the user, by the content of the file and of this one: to parse all
    files takes longer than anything else that a command does which finds nothing to do.
    """
    content = path.read_bytes()
    known = cache_folder() / "code" / f"{hashlib.sha256(Path(__file__).read_bytes() + content).hexdigest()}.json"
    try:
        meaning, imported = json.loads(known.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        parts: list[str] = []
        names: set[str] = set()
        _add_meaning(ast.parse(content), parts, names)
        meaning, imported = hashlib.sha256(" ".join(parts).encode()).hexdigest(), sorted(names)
        _keep(known, json.dumps([meaning, imported]))
    return meaning, frozenset(imported)


def cache_folder() -> Path:
    """Where a user keeps what can be found out again; without such a home, a name below which nothing can be."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return (home if home.is_absolute() else Path(os.devnull)) / "sscct"


def _keep(path: Path, text: str) -> None:
    """Write a file whole; where nothing can be written, it is found out again each time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _add_meaning(node: Any, parts: list[str], imported: set[str]) -> None:
    if isinstance(node, ast.ImportFrom) and node.module:
        # `from sscct_lib.lungs import segment` names a module, `from sscct_lib.study import Study` does not.
        imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    elif isinstance(node, ast.Import):
        imported |= {alias.name for alias in node.names}
    if isinstance(node, ast.AST):
        parts.append(type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            # Whether a name is read or written follows from its place; empty fields differ from Python to Python.
            if name != "ctx" and value is not None and value != []:
                parts.append(name)
                _add_meaning(value, parts, imported)
    elif isinstance(node, list):
        parts.append("[")
        for item in node:
            if not _is_words(item):
                _add_meaning(item, parts, imported)
        parts.append("]")
    else:
        parts.append(repr(node))


def _is_words(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
