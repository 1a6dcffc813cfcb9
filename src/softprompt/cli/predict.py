"""`softprompt predict`: texts to answers."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library
from softprompt.cli.train import Device, Dtype, Quantization


def predict(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task, TASK@N or TASK@ALIAS.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="Inputs; without any, one per line of stdin."),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    quantization: Quantization = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Answer texts with a tuned prompt."""
    from softprompt.errors import ConfigError, DataError

    given = list(texts or [])
    if not given:
        if sys.stdin.isatty():
            raise ConfigError("no text was given; put texts behind the task, or pipe them in, one a line")
        try:
            given = [line.rstrip("\n") for line in sys.stdin if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"stdin is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    library = open_library(home, registry, store, tenant)
    library.registry.resolve(task)  # a wrong name is told before torch is loaded
    from softprompt.serving.offline import Service

    told = Service(library, dtype=dtype, device=device, quantization=quantization).predict(given, task)
    rows: list[dict[str, Any]] = [
        {"task": p.task, "version": p.version, "text": p.text, "output": p.output, "scores": p.scores} for p in told
    ]
    if not as_json:
        for row, prediction in zip(rows, told, strict=True):
            row["score"] = max(prediction.scores.values()) if prediction.scores else None
    cut = sum(p.truncated for p in told)
    if cut:
        from softprompt.cli.context import warn

        warn(f"{cut} of {len(told)} inputs were cut to fit the context")
    columns = ("text", "output", "score") if told and told[0].scores else ("text", "output")
    emit(rows, as_json, f"{told[0].task}@{told[0].version}" if told else task, columns)
