"""The training loop: deterministic, resumable, the same on one process or several."""
