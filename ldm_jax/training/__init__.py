"""The training engine, which knows no model: state, step, sharding, checkpoints, metrics, loop."""
