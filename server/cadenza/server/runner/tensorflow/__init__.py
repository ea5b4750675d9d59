"""The runner of GPUs and TPUs: the artifact's step programs, compiled by XLA for a few static shapes."""
