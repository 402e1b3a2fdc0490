"""Field types of a signals document: ids, hashes, milliseconds, probabilities, actions, and the objects' base class."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Ms = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Unit = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, StringConstraints(max_length=4000)]

Action = Literal["allow", "move", "hold", "review", "skip", "label", "demote", "remove"]
# When several rules fire, the action furthest to the right wins. `skip` declines a break for layout reasons.
ACTION_ORDER: tuple[Action, ...] = ("allow", "skip", "move", "hold", "review", "label", "demote", "remove")
# A forecast may hold a break, move it or ask a person. It may never act on content that has not happened.
ANTICIPATED_ACTIONS: frozenset[Action] = frozenset({"allow", "move", "hold", "review"})
FINAL_ACTIONS: frozenset[Action] = frozenset({"label", "demote", "remove"})


class Part(BaseModel):
    """Base of every object: immutable, no unknown fields, no silent conversion, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
