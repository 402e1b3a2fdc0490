"""Checkpoint formats: strict loading and saving of published and native weights."""
