"""What reading a scan may find, and what is done then: one list, for messages, for counts and for a page of the book.

A sentence told of a scan is a `Told`: text that keeps its code, so that like is counted with like, whatever numbers it
holds.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from sscct_lib.study.results import ScanError

Outcome = Literal["chosen", "left out", "mended", "told", "set aside"]


@dataclass(frozen=True)
class Reason:
    """One thing that an export may bring."""

    outcome: Outcome
    found: str  # for the book: what an export holds
    words: str  # what is told of a scan; `str.format` fills it in
    done: str  # for the book: what is done with it


@cache
def reasons() -> dict[str, Reason]:
    """Everything that intake may find, by its code, from `reasons.yaml`."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    return {code: Reason(**fields) for code, fields in content.items()}


class Told(str):
    """A sentence with the code of its reason."""

    code: str

    def __new__(cls, sentence: str, code: str = "") -> Self:  # noqa: D102
        kept = super().__new__(cls, sentence)
        kept.code = code
        return kept


def told(code: str, **values: Any) -> Told:
    """Say a reason in words."""
    return Told(reasons()[code].words.format(**values), code)


class UnusableError(ScanError):
    """A scan that cannot be used, with the code of its reason."""

    def __init__(self, code: str, **values: Any) -> None:
        self.code = code
        super().__init__(told(code, **values))
