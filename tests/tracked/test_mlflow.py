"""A prompt is a model of a real MLflow: saved, loaded, logged, with the answers that it has without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, ConfigError, FingerprintMismatch, LibraryError
from softprompt.exchange.mlflow import load_model, log_model, save_model
from softprompt.library.library import Library
from softprompt.serving.offline import predict
from softprompt.training.train import train
from tests.bases.files.test_adapter import make_adapter
from tests.commands import Run
from tests.models import some_prompt
from tests.training.test_resume import make_task

pytestmark = [pytest.mark.mlflow, pytest.mark.filterwarnings("default")]

TEXTS = ["the red apple 1", "the blue stone 9", "a red thing"]


@pytest.fixture
def library(home: Path, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    library = Library.open(home)
    train(make_task(tmp_path, "one", base=str(base_folder)), library=library)
    return library


def answers(library: Library) -> list[str]:
    return [one.output for one in predict(TEXTS, "one", library=library)]


def test_it_answers_as_without(library: Library, tmp_path: Path) -> None:
    import mlflow.pyfunc
    import pandas

    save_model(library, "one@1", tmp_path / "model")
    model: Any = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    flavor = model.metadata.flavors["softprompt"]
    assert (flavor["task"], flavor["version"], flavor["digest"]) == ("one", 1, library.registry.resolve("one").digest)
    assert model.metadata.signature.inputs.input_names() == ["text"]
    assert model.predict(pandas.DataFrame({"text": TEXTS})) == answers(library)
    assert model.predict([{"text": text} for text in TEXTS]) == answers(library)
    assert load_model(tmp_path / "model").predict(TEXTS) == answers(library)
    with pytest.raises(Exception, match="text"):
        model.predict(pandas.DataFrame({"other": TEXTS}))
    with pytest.raises(ConfigError, match="params has 'temperature', and a prompt takes none"):
        load_model(tmp_path / "model").predict(TEXTS, {"temperature": 1})


def test_on_a_base_that_has_moved_and_on_none_else(
    library: Library, tmp_path: Path, base_folder: Path, other_folder: Path
) -> None:
    import mlflow.pyfunc
    import pandas

    moved = Path(shutil.copytree(base_folder, tmp_path / "moved" / "tiny-llama"))
    save_model(library, "one", tmp_path / "model")
    table = pandas.DataFrame({"text": TEXTS})
    for place, refusal in ((str(moved), None), (str(other_folder), FingerprintMismatch), ("/nowhere", BaseModelError)):
        model: Any = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"base": place})
        if refusal is None:
            assert model.predict(table) == answers(library)
        else:
            with pytest.raises(refusal):
                model.predict(table)


def test_the_adapter_of_its_base_is_named_when_it_is_loaded(library: Library, tmp_path: Path, base_folder: Path) -> None:
    import mlflow.pyfunc
    import pandas

    adapter = make_adapter(tmp_path / "adapter")
    base = BaseOptions(source=str(base_folder), adapter=str(adapter))
    loaded = FrozenBase.load(base)
    library.publish(some_prompt(loaded, "adapted", labels=("red", "blue")).to_bytes(), base=loaded.address)
    wanted = [one.output for one in predict(TEXTS, "adapted", library=library, base=base)]
    save_model(library, "adapted", tmp_path / "model")
    table = pandas.DataFrame({"text": TEXTS})
    model: Any = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"adapter": str(adapter)})
    assert model.predict(table) == wanted
    assert load_model(tmp_path / "model", base=base).predict(TEXTS) == wanted
    with pytest.raises(FingerprintMismatch):
        mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(table)


def test_passages_are_looked_up_where_it_is_told(library: Library, tmp_path: Path, base_folder: Path) -> None:
    import mlflow.pyfunc
    import pandas

    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "one.txt").write_text("the red apple\n")
    base = FrozenBase.load(str(base_folder))
    recipe = {"retrieve": {"query": "{text}", "k": 1}}
    prompt = some_prompt(base, "found", labels=("red", "blue"), input="{passages} {text}", recipe=recipe)
    library.publish(prompt.to_bytes(), base=base.address)
    wanted = [one.output for one in predict(TEXTS, "found", library=library, passages=str(texts))]
    save_model(library, "found", tmp_path / "model")
    model: Any = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"passages": str(texts)})
    assert model.predict(pandas.DataFrame({"text": TEXTS})) == wanted
    assert load_model(tmp_path / "model", passages=texts).predict(TEXTS) == wanted


def test_it_is_logged_to_a_run(library: Library) -> None:
    import mlflow
    import pandas

    with mlflow.start_run():
        logged = log_model(library, "one", "prompt")
    model: Any = mlflow.pyfunc.load_model(logged.model_uri)
    assert model.predict(pandas.DataFrame({"text": TEXTS})) == answers(library)


def test_the_command(library: Library, run: Run, tmp_path: Path) -> None:
    (row,) = run("export", "one", tmp_path / "model", "--format", "mlflow", "--json").rows
    assert (row["format"], row["path"]) == ("mlflow", str(tmp_path / "model"))
    assert (tmp_path / "model" / "MLmodel").is_file()
    assert (
        "holds 'MLmodel', and a model goes to an empty folder"
        in run("export", "one", tmp_path / "model", "--format", "mlflow", "--force").refused()
    )
    (blob,) = (tmp_path / "model" / "data" / "home" / "blobs").iterdir()
    assert run("import", blob, "--task", "again", "--json").rows[0]["task"] == "again"
    with pytest.raises(LibraryError):
        save_model(library, "one", tmp_path / "model")
