"""Real runs in real processes, killed by SIGKILL at random moments: ``python -m tests.chaos``."""
