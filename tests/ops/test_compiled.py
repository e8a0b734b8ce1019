"""How kernels are compiled."""

from deepstrata.ops import compiled


def test_a_machine_without_a_place_to_cache_compiles_anyway(monkeypatch):
    asked = []

    def njit(cache=False, **options):
        asked.append((cache, options["nogil"]))
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled(max) is max
    assert asked == [(True, True), (False, True)]
