"""Speed, measured: each module is a command that prints medians and ratios from one run."""
