"""Synthetic video data with ground truth: a small physical world, rendered, with labels, event times and captions.

It needs pymunk (`pip install 'jepa-video[toyworld]'`) and knows nothing of models, training or probes.
"""

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.world import World
from jepa.toyworld.write import write_world

__all__ = ["ToyWorldConfig", "World", "write_world"]
