"""Feature extraction from a frozen encoder and from baselines."""
