"""Detection: windows, shots and probe scores of one video."""
