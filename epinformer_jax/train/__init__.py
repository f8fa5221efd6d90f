"""Training and evaluation: losses, loop, checkpoints, metrics, scalar baselines and cross-validation."""
