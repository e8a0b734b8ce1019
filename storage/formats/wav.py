"""Recordings as spectrograms: WAV files to levels in dB over time and frequency.

A frame of sound under a Hann window, transformed every hop: J. B. Allen and L. R. Rabiner, "A
unified approach to short-time Fourier analysis and synthesis" (1977). A sine at full scale has
0 dB. T counts frames, F frequencies.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Wav
from deepstrata.storage.formats.base import SAMPLE, Content, Rows, placeholder
from deepstrata.storage.formats.files import Files, find_files, in_order, read_names, with_columns
from deepstrata.storage.formats.riff import Sound, read_header, read_samples

TINY = np.finfo(np.float32).tiny


class Transform(NamedTuple):
    """How a recording becomes a spectrogram; lengths in samples."""

    rate: int
    frame: int
    hop: int
    frames: int
    floor: float
    """Least level in dB."""

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Middles of the T frames in seconds."""
        return np.arange(self.frames) * self.hop / self.rate

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """The F frequencies in Hz."""
        return np.arange(self.frame // 2 + 1) * self.rate / self.frame

    @property
    def window(self) -> npt.NDArray[np.float32]:
        """(frame,) the window, of which a sine at full scale makes a peak of 1."""
        from scipy.signal import get_window

        window = np.asarray(get_window("hann", self.frame))
        return np.asarray(2 * window / window.sum(), np.float32)


def open_wav(source: str | None, sample_dim: str | None, options: Wav | None = None) -> Content:
    """Open a WAV file, or all in a directory; see ``Format`` and ``schemas.formats.Wav``.

    Gives ``spectrogram`` (sample, time, frequency) float32 in dB, and coordinates: ``file``,
    ``duration`` and what the paths tell. Each recording is cut, or padded with silence.
    """
    options, dim = options or Wav(), sample_dim or SAMPLE
    files = in_order(find_files(source, "wav", (".wav",)), options)
    columns = read_names(files, options)
    sounds = _headers(files, options.rate)
    transform = _transform(files, sounds, options)
    template = with_columns(_template(files, sounds, transform, dim), columns, dim)
    labels = {name: template[name].values for name in ("file", "duration", *columns)}

    def blocks(rows: int) -> Iterator[Rows]:
        window = transform.window
        for start in range(0, len(sounds), rows):
            block = slice(start, start + rows)
            values = [_spectrogram(sound, transform, window) for sound in sounds[block]]
            yield {"spectrogram": np.stack(values)} | {n: v[block] for n, v in labels.items()}

    return Content(template, dim, blocks)


def _headers(files: Files, rate: int | None) -> list[Sound]:
    sounds: list[Sound] = []
    for path in files.paths:
        sound = read_header(path)
        said = "declared" if rate is not None else "that of the first file"
        wanted = rate or (sounds[0].rate if sounds else sound.rate)
        if sound.rate != wanted:
            raise SchemaError(
                f"{path}: sampling rate: expected {wanted} Hz ({said}), found {sound.rate} Hz; "
                "resample it, or ingest recordings of each rate apart"
            )
        sounds.append(sound)
    return sounds


def _transform(files: Files, sounds: list[Sound], options: Wav) -> Transform:
    rate = sounds[0].rate
    frame, hop = (_samples(length, rate) for length in (options.frame, options.hop))
    if frame < 2 or not 1 <= hop <= frame:
        raise SchemaError(
            f"{files.root}: expected a frame of at least two samples and a hop of one up to a "
            f"frame, found frame={options.frame!r} and hop={options.hop!r}: {frame} and {hop} "
            f"samples at {rate} Hz (a whole number counts samples, a fraction is in seconds)"
        )
    frames = options.frames or 1 + (max(sound.samples for sound in sounds) - 1) // hop
    return Transform(rate, frame, hop, frames, options.floor)


def _samples(length: int | float, rate: int) -> int:
    return length if isinstance(length, int) else round(length * rate)


def _spectrogram(
    sound: Sound, transform: Transform, window: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the (T, F) levels of the first frames in dB; the first is centred on the start."""
    from scipy.fft import rfft

    _, frame, hop, frames, floor = transform
    before = frame // 2
    signal = np.zeros((frames - 1) * hop + frame, np.float32)
    samples = read_samples(sound, len(signal) - before)
    signal[before : before + len(samples)] = samples
    cut = np.lib.stride_tricks.sliding_window_view(signal, frame)[::hop]
    magnitude = np.abs(rfft(cut * window))
    magnitude[:, 0] /= 2  # no negative frequency goes with 0, nor with half the sampling rate
    if frame % 2 == 0:
        magnitude[:, -1] /= 2
    levels: npt.NDArray[np.float32] = 20 * np.log10(np.maximum(magnitude, TINY))
    return np.maximum(levels, np.float32(floor))


def _template(files: Files, sounds: list[Sound], transform: Transform, dim: str) -> xr.Dataset:
    times, frequencies = transform.times, transform.frequencies
    dims, shape = (dim, "time", "frequency"), (len(sounds), len(times), len(frequencies))
    seconds = np.array([sound.seconds for sound in sounds])
    return xr.Dataset(
        {"spectrogram": placeholder(dims, shape, np.float32, units="dB", long_name="level")},
        coords={
            "time": ("time", times, {"units": "s"}),
            "frequency": ("frequency", frequencies, {"units": "Hz"}),
            "file": (dim, np.array(files.names, dtype=object)),
            "duration": (dim, seconds, {"units": "s"}),
        },
        attrs={"sampling_rate": transform.rate},
    )
