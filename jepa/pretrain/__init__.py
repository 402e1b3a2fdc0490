"""How an encoder is trained: `settings` what decides a run, `trainer` the step loop, `objectives` the losses."""
