"""The same CD-1 in torch on two gloo processes: a peer for ``tests.benchmarks.cd1``.

``synchronous`` sums the gradient of every step over both processes; ``average`` lets each take its
own steps and averages the weights after every shard, as ``LocalSteps`` does. Prints examples/s.

``python torch_rbm.py MODE ROWS``, with the rows of a shard.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

VISIBLE, HIDDEN, BATCH, ROUNDS = 784, 1000, 100, 4
RATE, MOMENTUM = 0.05, 0.5


def step(
    v0: torch.Tensor, w: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the CD-1 gradient, a mean over the batch."""
    h0 = torch.sigmoid(torch.addmm(c, v0, w))
    v1 = torch.sigmoid(torch.addmm(b, torch.bernoulli(h0), w.t()))
    h1 = torch.sigmoid(torch.addmm(c, v1, w))
    n = len(v0)
    return (
        torch.addmm(v1.t() @ h1, v0.t(), h0, beta=1 / n, alpha=-1 / n),
        (v1 - v0).mean(0),
        (h1 - h0).mean(0),
    )


def work(rank: int, mode: str, shard: int, port: int) -> None:
    """Train on this process's share."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(rank)
    x = torch.rand(shard, VISIBLE) * (torch.rand(shard, VISIBLE) < 0.2)
    params = [
        torch.randn(VISIBLE, HIDDEN) * 0.01,
        torch.zeros(VISIBLE),
        torch.zeros(HIDDEN),
    ]
    velocity = [torch.zeros_like(p) for p in params]
    # Two processes share a synchronous batch, so that a step sees BATCH samples in either mode.
    size = BATCH // 2 if mode == "synchronous" else BATCH
    rows = shard if mode == "average" else shard // 2
    for r in range(ROUNDS + 1):
        if r == 1:
            dist.barrier()
            start = time.perf_counter()
        for first in range(0, rows, size):
            grads = step(x[first : first + size], *params)
            for p, v, g in zip(params, velocity, grads, strict=True):
                if mode == "synchronous":
                    dist.all_reduce(g)
                    g /= 2
                v.mul_(MOMENTUM).add_(g, alpha=-RATE)
                p.add_(v)
        if mode == "average":
            for p in params:
                dist.all_reduce(p)
                p /= 2
    dist.barrier()
    if rank == 0:
        print(ROUNDS * rows * 2 / (time.perf_counter() - start))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1], int(sys.argv[2]), 29500 + os.getpid() % 1000), nprocs=2)
