"""Checkpoints: `<root>/checkpoints/<step>/`, torch.distributed.checkpoint, whole only if its marker is there."""
