"""HTTP: what clients send, checked and answered. Decides nothing else."""
