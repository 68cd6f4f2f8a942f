"""Pure training steps, how they run on many devices, and their checkpoints."""
