"""A real TensorBoard and a real MLflow keep what a training tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.errors import TrainingStopped
from softprompt.library.library import Library
from softprompt.training.train import train
from tests.commands import Run
from tests.models import make_base
from tests.training.test_resume import make_task

pytestmark = [pytest.mark.mlflow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return [(event.step, pytest.approx(event.value, rel=1e-6)) for event in read.Scalars(name)]


def test_tensorboard_has_the_curves(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    (tuned,) = train(make_task(tmp_path, "one"), base=base, library=library, report_to="tensorboard")
    (folder,) = (library.runs / "tensorboard").iterdir()
    assert folder.name.startswith("one-")
    assert [(int(row["step"]), row["value"]) for row in tuned.history] == scalars(folder, "validation/value")
    assert [(int(row["step"]), row["loss"]) for row in tuned.history] == scalars(folder, "train/loss")
    assert scalars(folder, "test/accuracy")[0][1] == tuned.report.value
    assert scalars(folder, "baseline/majority")[0][0] == 0


def stopped_and_gone_on_with(base: FrozenBase, folder: Path, library: Library, name: str) -> list[dict[str, float]]:
    """Stop a training behind its sixth step, and end it; its history."""
    import threading

    from softprompt.progress import Silent

    stop, steps = threading.Event(), []

    class Stops(Silent):
        def stage(self, name: str, total: int):  # type: ignore[no-untyped-def]
            from contextlib import nullcontext

            def advance(done: int, text: str) -> None:
                steps.extend([name] * done)
                if steps.count("train") >= 6:
                    stop.set()

            return nullcontext(advance)

    task = make_task(folder, "one", eval_per_epoch=4)
    with pytest.raises(TrainingStopped):
        train(task, base=base, library=library, report_to=name, stop=stop, progress=Stops())
    (tuned,) = train(task, base=base, library=library, report_to=name)
    return tuned.history


def test_tensorboard_goes_on_in_the_same_folder(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    history = stopped_and_gone_on_with(base, tmp_path, library, "tensorboard")
    (folder,) = (library.runs / "tensorboard").iterdir()
    assert [step for step, _ in scalars(folder, "validation/value")] == [int(row["step"]) for row in history]


def test_mlflow_has_the_runs(base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    library = Library.open(tmp_path / "home")
    history = stopped_and_gone_on_with(base, tmp_path, library, "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("softprompt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "one")
    assert run.data.tags["softprompt.version"] == "one@1"
    assert run.data.tags["softprompt.digest"] == library.registry.resolve("one").digest
    assert run.data.params["learning_rate"] == "0.1"
    kept = client.get_metric_history(run.info.run_id, "validation/value")
    assert [metric.step for metric in kept] == [int(row["step"]) for row in history]
    assert "test/accuracy" in run.data.metrics


def test_the_command(run: Run, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    make_task(tmp_path, "one")
    (tmp_path / "one.yaml").write_text("base: builtin/tiny\ndata: rows.jsonl\nlabels: [good, bad]\nmax_steps: 2\n")
    (row,) = run("train", tmp_path / "one.yaml", "--report-to", "tensorboard", "--json").rows
    (folder,) = (tmp_path / "curves").iterdir()
    assert scalars(folder, "test/accuracy") == [(2, row["value"])]
