"""The engine on a simulated cluster and store, with faults drawn from a seed.

Everything that may happen to a run (a worker dies, a result is lost, a write is torn, the process
ends between any two steps) is decided by one generator, so a schedule is known by its number and
can be played again. However it goes, the run must end in the same weights. This is how FoundationDB
is tested (Zhou et al. 2021, "FoundationDB: A Distributed Unbundled Transactional Key Value Store").

``python -m tests.simulation --seeds 0:1000 --jobs 2`` plays schedules, ``--seed N --verbose`` one.
"""
