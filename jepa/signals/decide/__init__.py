"""Events, forecasts, breaks and policy decisions."""
