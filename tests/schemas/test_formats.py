"""Options of formats: what is refused, and how it is said."""

from typing import Any

import pytest

from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.formats import HDF5, OPTIONS, Images, Patches, Svmlight, Wav, declared


def test_options_are_declared_by_the_name_of_the_format() -> None:
    assert declared("wav", {"frame": 256, "hop": 0.5}) == Wav(frame=256, hop=0.5)
    assert declared("images", {"size": (3, 4)}) == Images(size=(3, 4))
    assert declared("hdf5", {"groups": ("a",)}) == HDF5(groups=("a",))
    assert declared("patches", {"size": (8, 8)}) == Patches(size=(8, 8))
    assert declared("svmlight", {}) == Svmlight()
    assert declared("csv", {}) is None


def test_whole_numbers_and_fractions_stay_apart() -> None:
    assert [type(Wav(frame=n).frame) for n in (2, 2.0)] == [int, float]


@pytest.mark.parametrize("format", sorted(OPTIONS))
def test_every_option_explains_itself(format: str) -> None:
    assert all(field.description for field in OPTIONS[format].model_fields.values())


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("csv", {"rate": 1}, "expected none, found rate"),
        ("wav", {"rat": 1}, "no field 'rat'; there are: names, test, shuffle, frame"),
        ("wav", {"rate": 0}, "rate: should be greater than 0"),
        ("wav", {"hop": -0.1}, "hop: should be greater than 0"),
        ("wav", {"names": "("}, "names: expected a regular expression: missing"),
        ("wav", {"names": "a"}, "names: expected a named group in it"),
        ("wav", {"test": "a", "names": "(?P<subset>a)"}, "found both"),
        ("images", {"size": (3,)}, "size"),
        ("images", {"mode": "green"}, "mode: should be 'grey' or 'colour'"),
        ("patches", {"patches": 0}, "patches: should be greater than 0"),
        ("svmlight", {"zero_based": "maybe"}, "zero_based"),
        ("hdf5", {"groups": ()}, "groups: expected at least 1, found 0"),
    ],
)
def test_what_does_not_fit_is_named(format: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declared(format, options)
    assert str(refused.value).startswith(f"options of format {format!r}: ")
    assert message in str(refused.value)
