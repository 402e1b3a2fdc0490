"""What probes are trained on: labels, segments, captions and their splits."""
