"""Convolution, forward and both gradients, against torch: layers of LeNet's and CIFAR's sizes.

One thread each, float32. torch is measured in both of its layouts, channels first and channels
last, and each pass counts its better one. The gradient by the inputs of a first layer is measured
though training needs none. The second table is inference through convolution, ReLU and pooling:
whole batches one step after the other, and tiles of samples that are pooled at once. The third is
training, forward and backward, through a ``Convolution`` and a ``Pooling``, and through one
``Convolution(pooling=...)``: samples a second, and the memory at its peak.
"""

import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import chain, convolution, fused, initial, kernels, pooling
from deepstrata.ops.backend import Scratch
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.fused import Fused
from deepstrata.ops.partials import Into
from deepstrata.ops.pooling import Pool
from deepstrata.ops.windows import Geometry, geometry, output_shape
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Convolution, Pooling
from deepstrata.schemas.shapes import shapes_through
from tests.benchmarks import measuring
from tests.benchmarks.measuring import Contender, Rates, timed

REPEATS = 7
SAMPLES, SAMPLES_QUICK = 64, 4
AT_LEAST = 0.02  #: seconds of one measurement
PASSES = ("forward", "by input", "by weights")
OURS, FIRST, LAST = "ours", "torch, channels first", "torch, channels last"


class Layer(NamedTuple):
    """A convolution: inputs of ``side`` x ``side`` x ``channels``."""

    side: int
    channels: int
    kernel: int
    maps: int
    padding: int = 0

    @property
    def geometry(self) -> Geometry:
        """How its windows slide."""
        return geometry((self.kernel, self.kernel), padding=self.padding)

    @property
    def products(self) -> int:
        """Multiplications of one sample."""
        side = output_shape(self.geometry, (self.side, self.side))[0]
        return side**2 * self.kernel**2 * self.channels * self.maps

    def __str__(self) -> str:
        """Return the layer as a row's name."""
        padded = " padded" if self.padding else ""
        return f"{self.side}x{self.side}x{self.channels} k{self.kernel} -> {self.maps}{padded}"


LAYERS = (
    Layer(28, 1, 5, 6),
    Layer(28, 1, 5, 20),
    Layer(14, 6, 5, 16),
    Layer(12, 20, 5, 50),
    Layer(32, 3, 5, 32, 2),
    Layer(32, 3, 3, 64, 1),
    Layer(16, 32, 3, 64, 1),
    Layer(8, 64, 3, 128, 1),
)


def arrays(layer: Layer, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, weights and derivatives by the outputs."""
    random = np.random.default_rng(0)
    side = output_shape(layer.geometry, (layer.side, layer.side))[0]
    shapes = (
        (samples, layer.side, layer.side, layer.channels),
        (layer.kernel, layer.kernel, layer.channels, layer.maps),
        (samples, side, side, layer.maps),
    )
    x, weights, dy = (random.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return x, weights, dy


def repeated(call: Callable[[], object], units: int, quick: bool) -> Contender:
    """Return a contender that calls often enough to be timed: units a second."""

    def once() -> float:
        call()
        return 1.0

    once()
    rate = timed(once)()
    times = 1 if quick else max(1, round(rate * AT_LEAST))

    def go() -> float:
        for _ in range(times):
            call()
        return times * units

    return timed(go)


def ours(layer: Layer, samples: int) -> dict[str, Callable[[], object]]:
    """Return our passes."""
    shape, (x, weights, dy) = layer.geometry, arrays(layer, samples)
    y, dx, dw, scratch = np.empty_like(dy), np.empty_like(x), np.empty_like(weights), Scratch()
    return {
        "forward": lambda: convolution.convolve(shape, x, weights, y, scratch),
        "by input": lambda: convolution.convolve_input_gradient(
            shape, dy, weights, x.shape, dx, scratch
        ),
        "by weights": lambda: convolution.convolve_weight_gradient(shape, x, dy, Into(dw), scratch),
    }


def torchs(layer: Layer, samples: int, last: bool) -> dict[str, Callable[[], object]]:
    """Return torch's passes in one of its layouts."""
    import torch

    torch.set_num_threads(1)
    kind = torch.channels_last if last else torch.contiguous_format
    x, weights, dy = arrays(layer, samples)
    x = torch.tensor(x).permute(0, 3, 1, 2).contiguous(memory_format=kind)
    dy = torch.tensor(dy).permute(0, 3, 1, 2).contiguous(memory_format=kind)
    weights = torch.tensor(weights).permute(3, 2, 0, 1).contiguous(memory_format=kind)
    pads = [layer.padding] * 2

    def backward(*wanted: bool) -> Callable[[], object]:
        def go() -> Any:
            numbers = [1, 1], pads, [1, 1], False, [0, 0], 1
            return torch.ops.aten.convolution_backward(dy, x, weights, None, *numbers, wanted)

        return go

    def forward() -> object:
        with torch.no_grad():
            return torch.nn.functional.conv2d(x, weights, padding=pads)

    return {
        "forward": forward,
        "by input": backward(True, False, False),
        "by weights": backward(False, True, False),
    }


def measured(layer: Layer, samples: int, count: int, quick: bool) -> dict[str, Rates]:
    """Return the rates of every pass of a layer."""
    there = {OURS: ours(layer, samples)}
    if find_spec("torch"):
        there |= {FIRST: torchs(layer, samples, False), LAST: torchs(layer, samples, True)}
    units = 2 * layer.products * samples
    return {
        name: measuring.interleaved(
            {who: repeated(calls[name], units, quick) for who, calls in there.items()}, count
        )
        for name in PASSES
    }


def row(layer: Layer, rates: dict[str, Rates]) -> list[Any]:
    """Return GFLOP/s of ours, and our time over torch's, of each pass and of all three."""
    speeds = [statistics.median(rates[name][OURS]) / 1e9 for name in PASSES]
    ratios: list[Any] = [None] * (len(PASSES) + 1)
    if FIRST in rates[PASSES[0]]:
        best = [max(statistics.median(rates[n][who]) for who in (FIRST, LAST)) for n in PASSES]
        ratios = [their / 1e9 / speed for their, speed in zip(best, speeds, strict=True)]
        ratios += [sum(1 / s for s in speeds) / sum(1e9 / their for their in best)]
    return [str(layer), *speeds, *ratios]


def inference(layer: Layer, samples: int, quick: bool) -> dict[str, Contender]:
    """Return convolution, ReLU and pooling in halves: in steps, and fused."""
    shape, (x, weights, dy), pool = layer.geometry, arrays(layer, samples), Pool((2, 2), (2, 2))
    bias, maps, scratch = np.zeros(layer.maps, np.float32), np.empty_like(dy), Scratch()
    y = pooling.average(pool, maps)

    def steps() -> object:
        convolution.convolve(shape, x, weights, maps, scratch)
        kernels.relu(flat, bias, flat)
        return pooling.maximum(pool, maps, y)

    def tiles() -> object:
        return fused.forward(how, DenseParams(weights, bias), x, scratch)

    flat, how = maps.reshape(-1, layer.maps), Fused(shape, "relu", pool, "max")
    return {"steps": repeated(steps, samples, quick), "tiles": repeated(tiles, samples, quick)}


def training(layer: Layer, samples: int) -> dict[str, Callable[[], object]]:
    """Return a pass up and one down, through pooling by halves in a layer of its own and within."""
    halves, x = Pooling(size=(2, 2)), arrays(layer, samples)[0]
    shape = {"maps": layer.maps, "kernel": (layer.kernel, layer.kernel), "padding": layer.padding}
    alone, together = Convolution(**shape), Convolution(**shape, pooling=halves)

    def passing(net: tuple[Any, ...]) -> Callable[[], object]:
        shapes = shapes_through(net, x.shape[1:])
        pairs = zip(net, shapes, strict=False)
        params = [initial.fresh(own, taken, Key(0), "numpy") for own, taken in pairs]
        delta = np.ones((samples, *shapes[-1]), np.float32)

        def go() -> object:
            at = chain.passes(len(net), np.arange(samples), Key(0), Scratch())
            _, saved = chain.forward(net, params, x, at)
            return chain.backward(net, params, saved, delta.copy(), at, below=True)

        return go

    return {"two layers": passing((alone, halves)), "one": passing((together,))}


def peak(call: Callable[[], object]) -> float:
    """Return the megabytes that a call takes at its peak."""
    tracemalloc.start()
    call()
    found = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return found


def trained(layer: Layer, samples: int, count: int, quick: bool) -> list[Any]:
    """Return the rates of both ways, their ratio, and the peaks of both."""
    calls = training(layer, samples)
    rates = measuring.interleaved(
        {name: repeated(call, samples, quick) for name, call in calls.items()}, count
    )
    medians = [statistics.median(rates[name]) for name in calls]
    return [*medians, measuring.ratio(rates, "one", "two layers"), *map(peak, calls.values())]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = measuring.parser(__doc__, REPEATS).parse_args(argv)
    count = measuring.repeats(given, REPEATS)
    samples = SAMPLES_QUICK if given.quick else SAMPLES
    layers = LAYERS[::4] if given.quick else LAYERS
    measuring.begin(f"convolution, {samples} samples, median of {count}")
    head = ("GFLOP/s", *PASSES, *(f"{name} / torch" for name in PASSES), "all / torch")
    measuring.show(head, [row(one, measured(one, samples, count, given.quick)) for one in layers])
    rows = []
    for layer in layers:
        rates = measuring.interleaved(inference(layer, samples, given.quick), count)
        medians = [statistics.median(rates[name]) for name in ("steps", "tiles")]
        rows.append([str(layer), *medians, measuring.ratio(rates, "tiles", "steps")])
    measuring.show(("samples/s through ReLU and max", "steps", "tiles", "tiles / steps"), rows)
    head = ("samples/s of training", "two layers", "one", "one / two", "MB, two", "MB, one")
    rows = [[str(one), *trained(one, samples, count, given.quick)] for one in layers]
    measuring.show(head, rows)
    measuring.end()


if __name__ == "__main__":
    main()
