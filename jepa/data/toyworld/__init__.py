"""A small world whose truth is known: rendered to real videos, with labels, event times and captions."""

from jepa.data.toyworld.config import ToyWorldConfig
from jepa.data.toyworld.world import World
from jepa.data.toyworld.write import write_world

__all__ = ["ToyWorldConfig", "World", "write_world"]
