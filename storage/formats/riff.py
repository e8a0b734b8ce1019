"""WAV files: the chunks of RIFF, and the first samples in them, linear PCM or floats.

Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991).
"""

import struct
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.formats.base import opened, read_exactly

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
TYPES = {
    (PCM, 8): "u1",
    (PCM, 16): "<i2",
    (PCM, 24): "<i4",
    (PCM, 32): "<i4",
    (FLOAT, 32): "<f4",
    (FLOAT, 64): "<f8",
}


class Sound(NamedTuple):
    """What a file says of itself."""

    path: Path
    rate: int
    """Samples per second."""
    channels: int
    kind: tuple[int, int]
    """Coding and bits of a number: a key of ``TYPES``."""
    start: int
    """Byte at which the samples begin."""
    samples: int

    @property
    def width(self) -> int:
        """Bytes of a sample of all channels."""
        return self.channels * self.kind[1] // 8

    @property
    def seconds(self) -> float:
        """Length in time."""
        return self.samples / self.rate


def read_header(path: Path) -> Sound:
    """Read what a file says of itself.

    Raises
    ------
    SchemaError
        It is not WAV, is truncated, holds nothing, or is coded in another way than ``TYPES``.
    """
    with opened(path) as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            found = f"found {head!r}" if head else "found an empty file"
            raise SchemaError(f"{path}: not a WAV file: expected b'RIFF....WAVE', {found}")
        layout, size = _chunks(file, path)
        start = file.tell()
        there = file.seek(0, 2) - start
    if there < size:
        raise SchemaError(
            f"{path}: truncated: expected {start + size} bytes, found {start + there}"
        )
    coding, channels, rate, bits = layout
    if (coding, bits) not in TYPES or not channels or not rate:
        raise SchemaError(
            f"{path}: expected PCM of 8, 16, 24 or 32 bits or floats of 32 or 64, found coding "
            f"{coding:#06x} of {bits} bits, {channels} channels at {rate} Hz; convert it first"
        )
    sound = Sound(path, rate, channels, (coding, bits), start, 0)
    sound = sound._replace(samples=size // sound.width)
    if not sound.samples:
        raise SchemaError(f"{path}: empty: a header and no samples")
    return sound


def _chunks(file: IO[bytes], path: Path) -> tuple[tuple[int, int, int, int], int]:
    """Return coding, channels, rate and bits; and the size of the data, which comes next."""
    layout = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise SchemaError(f"{path}: truncated: ends before its chunk of samples ('data')")
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            break
        if name == b"fmt " and size >= 16:
            body = read_exactly(file, size, path, file.tell(), file.tell() + size)
            coding, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if coding == EXTENSIBLE and size >= 26:
                (coding,) = struct.unpack("<H", body[24:26])
            layout = (coding, channels, rate, bits)
            size = 0
        file.seek(size + size % 2, 1)
    if layout is None:
        raise SchemaError(f"{path}: not a WAV file: no chunk 'fmt ' before its samples")
    return layout, size


def read_samples(sound: Sound, count: int) -> npt.NDArray[np.float32]:
    """Read up to ``count`` samples from the start: the mean of all channels.

    Returns
    -------
    numpy.ndarray
        (samples,) float32; full scale is 1.
    """
    count = min(count, sound.samples)
    with opened(sound.path) as file:
        file.seek(sound.start)
        total = sound.start + sound.samples * sound.width
        data = read_exactly(file, count * sound.width, sound.path, sound.start, total)
    dtype = np.dtype(TYPES[sound.kind])
    if sound.kind == (PCM, 24):
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data = wide.tobytes()
    values = np.frombuffer(data, dtype).astype(np.float32)
    if dtype.kind == "u":
        values -= 128
    if dtype.kind in "iu":
        values /= 2.0 ** (8 * dtype.itemsize - 1)
    mono: npt.NDArray[np.float32] = values.reshape(count, sound.channels).mean(axis=1)
    return mono
