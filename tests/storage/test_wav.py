"""Recordings: levels as SciPy has them, names of files, and bad ones."""

import io
import os
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import ShortTimeFFT, get_window

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.formats.riff import read_header, read_samples
from deepstrata.storage.ingest import describe_source, ingest
from deepstrata.storage.splits import flags

RATE = 8000
NAMES = r"(?P<label>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)"


def sine(seconds: float, frequency: float = 1000, amplitude: float = 0.5) -> Any:
    times = np.arange(round(seconds * RATE)) / RATE
    return amplitude * np.sin(2 * np.pi * frequency * times)


def write(path: Path, signal: Any, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.round(signal * 32767).astype(np.int16))
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Recordings of different lengths of two speakers and two digits."""
    source = tmp_path / "recordings"
    for digit in (3, 7):
        for speaker in ("ada", "bob"):
            for index in range(2):
                length = 0.1 + 0.02 * (digit + index)
                write(source / f"{digit}_{speaker}_{index}.wav", sine(length))
    return source


def ingested(source: Path, **options: Any) -> Any:
    dest = str(source.parent / "d.zarr")
    assert ingest("wav", str(source), dest, **options) == describe_source(
        "wav", str(source), **options
    )
    return open_dataset(dest).load()


@pytest.mark.parametrize("frame", [64, 63])
def test_levels_are_those_of_scipy(tmp_path: Path, frame: int) -> None:
    signal = np.random.default_rng(0).uniform(-0.9, 0.9, 900)
    found = ingested(write(tmp_path / "a.wav", signal), frame=frame, hop=48)
    assert found.spectrogram.dims == ("sample", "time", "frequency")
    assert found.spectrogram.dtype == np.float32
    transform = ShortTimeFFT(
        get_window("hann", frame), 48, RATE, fft_mode="onesided2X", scale_to="magnitude"
    )
    magnitude = abs(transform.stft(np.round(signal * 32767) / 32768, p0=0, p1=19)).T
    wanted = 20 * np.log10(np.maximum(magnitude, 1e-5))
    np.testing.assert_allclose(found.spectrogram.values[0], wanted, atol=1e-2)
    np.testing.assert_allclose(found.time.values, transform.t(900, p0=0, p1=19))
    np.testing.assert_allclose(found.frequency.values, transform.f)
    assert found.frequency.attrs["units"] == "Hz"
    assert found.time.attrs["units"] == found.duration.attrs["units"] == "s"


def test_a_sine_has_its_level_at_its_frequency(tmp_path: Path) -> None:
    found = ingested(write(tmp_path / "a.wav", sine(0.5)), frames=20, floor=-60)
    peak = found.spectrogram.isel(sample=0, time=10)
    assert float(peak.max()) == pytest.approx(20 * np.log10(0.5), abs=0.01)
    assert float(found.frequency[int(peak.argmax("frequency"))]) == 1000
    assert float(found.spectrogram.min()) == -60
    assert found.sizes["time"] == 20


def test_names_of_files_become_variables(recordings: Path) -> None:
    found = ingested(recordings, names=NAMES, test=r"_0\.wav$")
    assert list(found.data_vars) == ["label", "spectrogram"]
    assert flags(found.label) == {0: "3", 1: "7"}
    assert flags(found.speaker) == {0: "ada", 1: "bob"}
    assert flags(found.subset) == {0: "train", 1: "test"}
    for sample in range(8):
        one = found.isel(sample=sample)
        digit, speaker, index = str(one.file.values).removesuffix(".wav").split("_")
        assert {"3": 0, "7": 1}[digit] == one.label
        assert {"ada": 0, "bob": 1}[speaker] == one.speaker
        assert int(index) == one["index"] == 1 - one.subset
        assert one.duration == pytest.approx(0.1 + 0.02 * (int(digit) + int(index)))
        last = np.flatnonzero((one.spectrogram.values > -100).any(axis=1))[-1]
        assert last == pytest.approx(float(one.duration) / 0.016, abs=1.5)
    assert float(found.time[-1]) <= 0.26 < float(found.time[-1]) + 0.016


def test_files_are_shuffled_alike_each_time_or_not_at_all(recordings: Path) -> None:
    shuffled = ingested(recordings).file.values.tolist()
    again = [str(n) for n in ingest_order(recordings, shuffle=True)]
    ordered = [str(n) for n in ingest_order(recordings, shuffle=False)]
    assert shuffled == again != ordered == sorted(shuffled)


def ingest_order(source: Path, shuffle: bool) -> Any:
    dest = str(source.parent / f"{shuffle}.zarr")
    ingest("wav", str(source), dest, shuffle=shuffle)
    return open_dataset(dest).file.values


def test_folders_are_classes_and_subsets(tmp_path: Path) -> None:
    source = tmp_path / "all"
    for name in ("train/dog/a", "train/cat/b", "Val/dog/c", "test/cat/d"):
        write(source / f"{name}.wav", sine(0.05))
    write(source / "train/.trash/e.wav", sine(0.05))
    found = ingested(source, shuffle=False)
    assert flags(found.label) == {0: "cat", 1: "dog"}
    assert flags(found.subset) == {0: "train", 1: "validation", 2: "test"}
    assert found.file.values.tolist() == [
        "Val/dog/c.wav",
        "test/cat/d.wav",
        "train/cat/b.wav",
        "train/dog/a.wav",
    ]
    assert found.label.values.tolist() == [1, 0, 0, 1]
    assert found.subset.values.tolist() == [1, 2, 0, 0]


def test_a_folder_around_all_tells_nothing(tmp_path: Path) -> None:
    write(tmp_path / "all" / "recordings" / "a.wav", sine(0.05))
    write(tmp_path / "all" / "recordings" / "b.wav", sine(0.05))
    assert "label" not in ingested(tmp_path / "all")


def of_24_bits(signal: Any) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(3)
        out.setframerate(RATE)
        whole = np.round(signal * (2**23 - 1)).astype("<i4")
        out.writeframes(whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    return file.getvalue()


@pytest.mark.parametrize("kind", ["u1", "i2", "i3", "i4", "f4", "f8"])
def test_every_coding_gives_the_same_sound(tmp_path: Path, kind: str) -> None:
    signal, path = sine(0.05), tmp_path / "a.wav"
    if kind == "i3":
        path.write_bytes(of_24_bits(signal))
    elif kind == "u1":
        wavfile.write(path, RATE, np.round(signal * 127 + 128).astype(np.uint8))
    elif kind.startswith("f"):
        wavfile.write(path, RATE, signal.astype(kind))
    else:
        wavfile.write(path, RATE, np.round(signal * np.iinfo(kind).max).astype(kind))
    sound = read_header(path)
    assert (sound.rate, sound.samples, sound.seconds) == (RATE, 400, 0.05)
    found = read_samples(sound, 10_000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, signal, atol=0.01 if kind == "u1" else 1e-4)
    assert np.array_equal(read_samples(sound, 7), found[:7])


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.stack([sine(0.05), np.zeros(400)], axis=1)
    wavfile.write(tmp_path / "a.wav", RATE, both.astype(np.float32))
    found = read_samples(read_header(tmp_path / "a.wav"), 400)
    np.testing.assert_allclose(found, sine(0.05) / 2, atol=1e-6)


def _rates(source: Path) -> None:
    write(source / "9_bob_0.wav", sine(0.05), 16_000)


def _cut(source: Path) -> None:
    path = source / "3_ada_0.wav"
    path.write_bytes(path.read_bytes()[:-100])


def _cut_early(source: Path) -> None:
    path = source / "3_ada_0.wav"
    path.write_bytes(path.read_bytes()[:20])


def _nothing(source: Path) -> None:
    (source / "3_ada_0.wav").write_bytes(b"")


def _no_samples(source: Path) -> None:
    write(source / "3_ada_0.wav", np.zeros(0))


def _other_format(source: Path) -> None:
    (source / "3_ada_0.wav").write_bytes(b"OggS" + bytes(100))


def _other_coding(source: Path) -> None:
    path = source / "3_ada_0.wav"
    data = bytearray(path.read_bytes())
    data[20:22] = b"\x02\x00"
    path.write_bytes(data)


def _no_recordings(source: Path) -> None:
    for path in source.glob("*.wav"):
        path.unlink()


def _other_name(source: Path) -> None:
    write(source / "noise.wav", sine(0.05))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_rates, r"9_bob_0\.wav: sampling rate: expected 8000 Hz \(declared\), found 16000 Hz"),
        (_cut, r"3_ada_0\.wav: truncated: expected 2604 bytes, found 2504"),
        (_cut_early, r"3_ada_0\.wav: truncated"),
        (_nothing, r"3_ada_0\.wav: not a WAV file: .*found an empty file"),
        (_no_samples, r"3_ada_0\.wav: empty"),
        (_other_format, r"3_ada_0\.wav: not a WAV file: expected .*, found b'OggS"),
        (_other_coding, r"3_ada_0\.wav: expected PCM .*found coding 0x0002 of 16 bits"),
        (_no_recordings, r"no files of format 'wav': expected \.wav"),
        (_other_name, r"noise\.wav: expected its path .* to match names=.*'label' is not"),
    ],
)
def test_bad_recordings(recordings: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(recordings)
    with pytest.raises(SchemaError, match=message):
        ingested(recordings, names=NAMES, rate=RATE)
    assert not (recordings.parent / "d.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 16_000}, r"expected 16000 Hz \(declared\), found 8000 Hz"),
        ({"hop": 0.1}, r"found frame=0\.032 and hop=0\.1: 256 and 800 samples at 8000 Hz"),
        ({"frame": 1}, "expected a frame of at least two samples"),
        ({"test": "x"}, "found none of 8"),
        ({"names": r"(?P<subset>\d)"}, "subset: expected one of train, .*, found '[37]'"),
        ({"names": r"(?P<time>\d)"}, "found 'time'"),
        ({"names": r"(?P<spectrogram>\d)"}, "found 'spectrogram'"),
    ],
)
def test_options_that_do_not_fit(recordings: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ingested(recordings, **options)


def test_a_file_beside_the_classes_is_named(tmp_path: Path) -> None:
    for name in ("all/dog/a.wav", "all/b.wav"):
        write(tmp_path / name, sine(0.05))
    with pytest.raises(SchemaError, match=r"b\.wav: lies beside the folders of the classes"):
        ingested(tmp_path / "all")


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    path = write(tmp_path / "all" / "0.wav", sine(0.1))
    for i in range(1, 200):
        os.link(path, path.with_name(f"{i}.wav"))
    tracemalloc.start()
    ingest("wav", str(path.parent), str(tmp_path / "d"), frame=2048, hop=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert open_dataset(str(tmp_path / "d")).spectrogram.nbytes > 30e6
    assert peak < 10e6


def test_real_recordings(shared_data: Path, tmp_path: Path) -> None:
    dest = str(tmp_path / "d")
    options = {"names": NAMES, "test": r"_[0-4]\.wav$", "frames": 32}
    ingest("wav", str(shared_data / "fsdd"), dest, **options)
    found = open_dataset(dest)
    assert dict(found.sizes) == {"sample": 3000, "time": 32, "frequency": 129}
    assert np.bincount(found.subset.values).tolist() == [2700, 300]
    assert np.bincount(found.label.values).tolist() == [300] * 10
    assert len(flags(found.speaker) or ()) == 6
