"""What all sections of `study.yaml` have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of `study.yaml`: names that are not known are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
