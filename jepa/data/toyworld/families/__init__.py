"""One file for each event family: its outcomes, and how a scene with a given outcome is made."""

from __future__ import annotations

from types import ModuleType

from jepa.data.toyworld.families import motion

MODULES: dict[str, ModuleType] = {"motion": motion}
"""Each has `OUTCOMES`, `SHAPES`, `tasks(outcome)` and `build(setting)`."""
