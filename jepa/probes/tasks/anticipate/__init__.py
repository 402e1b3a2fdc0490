"""Action anticipation and hazard forecasting."""
