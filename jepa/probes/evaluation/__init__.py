"""Cross-validation, metrics, calibration, conformal prediction and reports."""
