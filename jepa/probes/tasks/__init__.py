"""Probe tasks: classify, anticipate, describe."""
