"""Tagging and video-text retrieval."""
