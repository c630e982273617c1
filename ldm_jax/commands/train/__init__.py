"""`train`: both stages of an experiment, or one, in a run directory."""
