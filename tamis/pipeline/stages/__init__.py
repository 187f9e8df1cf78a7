"""Programs that the engine itself adds to a run."""
