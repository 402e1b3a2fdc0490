"""Probe heads: linear, attentive, closed-form."""
