"""Foreign checkpoints, recognised by their keys, to ours."""
