"""CD-1 at the sizes of Raina, Madhavan, Ng (2009), beside their figures and the products alone.

"Large-scale deep unsupervised learning using graphics processors", ICML 2009: seconds per million
examples on a dual-core CPU and on a GPU of that year. Ours are those of the kernel on data in
memory, on one core and one BLAS thread; the products are the five of CD-1 at the same sizes.
"""

import statistics
from collections.abc import Sequence

from tests.benchmarks import measuring
from tests.benchmarks.kernels import blobs, kernel, products
from tests.benchmarks.measuring import timed

#: Visible and hidden units, and their seconds per million examples (CPU, GPU).
SIZES = (
    (576, 1024, 497.0, 38.6),
    (1024, 4096, 2_987.0, 184.0),
    (2304, 16000, 93_586.0, 1_376.0),
    (4096, 11008, 125_381.0, 1_726.0),
)
SHARD = 32 << 20  #: bytes of examples that a task is given, as on a cluster
BATCH = 192
REPEATS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measuring.parser(__doc__, REPEATS)
    parser.add_argument("--batch", type=int, default=BATCH, help=f"by default {BATCH}")
    given = parser.parse_args(argv)
    measuring.begin(f"CD-1 at the sizes of Raina et al. (2009), batch {given.batch}")
    count = measuring.repeats(given, REPEATS)
    rows = []
    for visible, hidden, cpu, gpu in SIZES[:2] if given.quick else SIZES:
        batches = 1 if given.quick else SHARD // (4 * visible * given.batch)
        x = blobs(given.batch * batches, visible)
        contenders = {
            "products": timed(products(x, hidden, given.batch)),
            "kernel": timed(kernel(x, hidden, given.batch)),
        }
        measuring.interleaved(contenders, 1)
        rates = measuring.interleaved(contenders, count)
        seconds = [1e6 / statistics.median(rates[name]) for name in ("kernel", "products")]
        share = measuring.ratio(rates, "kernel", "products")
        rows.append((f"{visible} x {hidden}", *seconds, share, cpu, gpu, cpu / seconds[0]))
    head = ("s per 1M examples", "kernel", "products", "share of products' rate")
    measuring.show((*head, "their CPU", "their GPU", "their CPU / kernel"), rows)
    measuring.end()


if __name__ == "__main__":
    main()
