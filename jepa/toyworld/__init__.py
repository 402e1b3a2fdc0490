"""A small world whose truth is known: rendered to real videos, with labels, event times and captions."""

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.world import World
from jepa.toyworld.write import write_world

__all__ = ["ToyWorldConfig", "World", "write_world"]
