"""`softprompt evaluate`: versions judged on rows with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library
from softprompt.cli.train import Device, Dtype, Quantization

COLUMNS = ("task", "version", "metric", "value", "rows", "loss")


def evaluate(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="TASK...", help="Task files, for their test rows; or, with --data, TASK[@N|@ALIAS]."),
    ],
    data: Annotated[Path | None, typer.Option(help="Rows with answers (.jsonl, .csv, .parquet ...) to judge on.")] = None,
    version: Annotated[str | None, typer.Option(help="Version or alias to judge, where task files are given.")] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    quantization: Quantization = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Judge tuned prompts on the test rows of their task files, or on rows of your own."""
    from softprompt.progress import Bars

    progress = Bars()
    with progress.loading("torch and the library"):
        from softprompt.evaluation.versions import judge, judge_on

        library = open_library(home, registry, store, tenant)
    if data is not None:
        rows = judge_on(library, refs, data, dtype=dtype, device=device, quantization=quantization, progress=progress)
    else:
        rows = judge(library, refs, version, dtype=dtype, device=device, quantization=quantization, progress=progress)
    emit(rows, as_json, "Evaluation", COLUMNS)
