"""MLflow's model flavour: a prompt as a model that `mlflow.pyfunc` loads, serves and registers.

The folder has a small library with the one version in it, and says which base it is for; the base itself stays where it is.
This module is the flavour: MLflow calls `save_model` and `_load_pyfunc`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, LibraryError
from softprompt.library.library import Library
from softprompt.library.passages import Sources
from softprompt.tasks.form import Form

if TYPE_CHECKING:
    from softprompt.serving.offline import Service

FLAVOR, HOME = "softprompt", "home"
_LOADING = ("dtype", "device", "quantization", "adapter", "trust_remote_code", "batch_invariant")
"""What a model's config says of how its base is loaded, beside where it is."""


def save_model(library: Library, ref: str, path: str | Path, *, mlflow_model: Any = None) -> Path:
    """Write a version as an MLflow model to a folder that is not there, or empty. `mlflow.pyfunc.load_model(PATH)` loads it
    on the base that it names, or on that of `model_config={"base": PLACE}`; `adapter` there names the base's adapter,
    `passages` what finds passages, and `dtype`, `device`, `quantization`, `trust_remote_code` and `batch_invariant` how the
    base is loaded.

    Args:
        mlflow_model: what MLflow hands over when it logs a model.

    Raises:
        ConfigError: MLflow is not installed.
        NotFound: no such version.
        LibraryError: the folder holds something.
    """
    pyfunc, model_of = _mlflow()
    version = library.registry.resolve(ref)
    card, target = version.card, Path(path)
    if target.exists() and any(target.iterdir()):
        first = min(one.name for one in target.iterdir())
        raise LibraryError(f"{str(path)!r} holds {first!r}, and a model goes to an empty folder; choose one")
    model = mlflow_model if mlflow_model is not None else model_of.Model()
    said = {"task": card.task, "version": version.number, "digest": version.digest, "fingerprint": card.fingerprint}
    model.add_flavor(FLAVOR, base=version.base, **said)
    with tempfile.TemporaryDirectory(prefix="softprompt-") as folder:
        with Library.open(Path(folder) / HOME) as own:
            own.publish(library.read(version), base=version.base)
        pyfunc.save_model(
            str(target),
            loader_module=__name__,
            data_path=str(Path(folder) / HOME),
            mlflow_model=model,
            signature=_signature(Form.of_card(card), model_of),
            # MLflow leaves out what is given later and is not named here.
            model_config={"base": version.base, **{name: getattr(BaseOptions, name) for name in _LOADING}, "passages": None},
            pip_requirements=["softprompt"],
        )
    return target


def log_model(library: Library, ref: str, name: str, **named: Any) -> Any:
    """Log a version as a model of the active MLflow run, or register it with `registered_model_name`; what `mlflow` makes of
    it. Raises as :func:`save_model` does."""
    import importlib

    _, model_of = _mlflow()
    flavor = importlib.import_module(__name__)
    return model_of.Model.log(None, name=name, flavor=flavor, library=library, ref=ref, **named)


def load_model(path: str | Path, *, base: BaseOptions | str | None = None, passages: Sources = None) -> PromptModel:
    """A model that :func:`save_model` wrote, without MLflow.

    Args:
        base: where its base is, and how it is loaded; by default where it was.
        passages: what finds passages for inputs, for a prompt that looks them up: a folder of texts, or a function.

    Raises:
        NotFound: there is none.
        LibraryError: it cannot be read.
    """
    return PromptModel(Path(path) / "data" / HOME, BaseOptions.of(base), passages)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> PromptModel:
    said = dict(model_config or {})
    options = {name: said[name] for name in _LOADING if name in said}
    return PromptModel(Path(path), BaseOptions(source=said.get("base"), **options), said.get("passages"))


class PromptModel:
    """A prompt on its base, which is loaded with the first inputs."""

    def __init__(self, folder: Path, base: BaseOptions, passages: Sources = None) -> None:
        with Library.open(folder, create=False) as library:
            (entry,) = library.registry.tasks()
        self.task = entry.task
        self._folder, self._base, self._passages = folder, base, passages
        self._service: Service | None = None

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """The answers to inputs: a table with the template's columns, or a list of texts or rows. There are no `params`.

        Raises:
            ConfigError: there are parameters.
            BaseModelError, FingerprintMismatch, DataError: as :meth:`softprompt.Service.predict`.
        """
        if params:
            raise ConfigError(f"params has {sorted(params)[0]!r}, and a prompt takes none; leave it out")
        if self._service is None:
            from softprompt.serving.offline import Service

            self._service = Service(Library.open(self._folder, create=False), base=self._base, passages=self._passages)
        return [one.output for one in self._service.predict(model_input, self.task)]


def _mlflow() -> tuple[Any, Any]:
    """MLflow's modules of Python functions and of models."""
    try:
        import mlflow.models
        import mlflow.pyfunc
    except ModuleNotFoundError as error:
        raise ConfigError(f"an MLflow model needs {error.name}; pip install 'softprompt[mlflow]'") from None
    return mlflow.pyfunc, mlflow.models


def _signature(form: Form, model_of: Any) -> Any:
    """Columns of inputs and the answer, as text; none where something else than a row makes the input."""
    from mlflow.types import ColSpec, Schema

    if form.retriever is not None:
        return None
    inputs = Schema([ColSpec("string", name) for name in dict.fromkeys(form.input.fields)])
    return model_of.ModelSignature(inputs=inputs, outputs=Schema([ColSpec("string")]))
