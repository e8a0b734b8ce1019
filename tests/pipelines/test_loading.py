"""Where pipelines come from: recipes, files, modules; and what is not one."""

from pathlib import Path

import pytest
from support import dbn_pipeline

from deepstrata import DeclarationError, Pipeline
from deepstrata.pipelines.loading import load_pipeline, recipes

FILE = """
from deepstrata import RBM, Pipeline, Pretrain, ZarrSource

pipeline = Pipeline(
    name="mine",
    source=ZarrSource(path="data.zarr", features="x"),
    stages=(Pretrain(model=RBM(hidden={hidden})),),
)
other = 3
"""


def test_every_recipe_declares_a_pipeline_and_says_what_it_is() -> None:
    known = recipes()
    assert {"dbn-digits", "dbn-mnist", "rbm-climate"} <= set(known)
    assert {"autoencoder-mnist", "sdae-mnist"} <= set(known)
    for name, summary in known.items():
        pipeline = load_pipeline(name)
        assert pipeline.name == name
        assert summary.endswith(".")
        assert Pipeline.from_json(pipeline.to_json()) == pipeline


def test_a_python_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(hidden=5))
    assert load_pipeline(str(path)).name == "mine"
    assert load_pipeline(str(path), "elsewhere.zarr").source.path == "elsewhere.zarr"


def test_a_json_file_has_the_verbs_too(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.json"
    path.write_text(dbn_pipeline("bars.zarr").to_json())
    found = load_pipeline(str(path))
    assert found == dbn_pipeline("bars.zarr")
    assert isinstance(found, Pipeline)


def test_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_module.py").write_text(FILE.format(hidden=5))
    monkeypatch.chdir(tmp_path)
    assert load_pipeline("somebodys_module:pipeline").name == "mine"
    with pytest.raises(DeclarationError, match="found int"):
        load_pipeline("somebodys_module:other")
    with pytest.raises(DeclarationError, match="no 'nothing'; pipelines there: pipeline"):
        load_pipeline("somebodys_module:nothing")


def test_a_folder_around_one_store_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "air.zarr").mkdir()
    found = load_pipeline("rbm-climate", str(tmp_path))
    assert found.source.path == str(tmp_path / "air.zarr")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dbn-digitz", "expected a recipe .*dbn-digits"),
        ("nothing.py", "nothing.py: no such file"),
        ("no_such_module:pipeline", "cannot import 'no_such_module'"),
    ],
)
def test_what_is_not_there(spec: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        load_pipeline(spec)


def test_a_declaration_that_does_not_hold_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(FILE.format(hidden=-5))
    with pytest.raises(DeclarationError, match=r"broken\.py.*hidden.*-5"):
        load_pipeline(str(path))
