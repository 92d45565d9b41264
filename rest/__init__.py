"""HTTP to command and back, nothing else."""
