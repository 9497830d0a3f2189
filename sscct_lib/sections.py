"""What all sections of `study.yaml` have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Words = Annotated[str, Field(pattern=r"^[^<>`{}\[\]\\\x00-\x1f]{1,200}$")]
"""Words that pages show: one line, in which nothing is markup."""
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of `study.yaml`: names that are not known are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
