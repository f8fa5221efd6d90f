"""Training and evaluation: losses, loop, checkpoints, metrics, baselines, cross-validation."""
