"""Speed, measured: each module is a command that prints medians and ratios from one run."""

import os

# Before NumPy is imported, and for every process that is started from here.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
