"""`softprompt sweep`: many candidates of one task, the best one published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.context import Home, Json, RegistryUrl, StoreUrl, Tenant, emit, open_library
from softprompt.cli.train import Device, Dtype, Quantization, stopping_cleanly


@stopping_cleanly()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task whose keys are varied.")],
    choices: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2...", help="Values to try, such as learning_rate=0.03,0.1 seed=0,1,2."),
    ],
    samples: Annotated[int | None, typer.Option(help="Draw so many combinations at random instead of all.")] = None,
    halving: Annotated[bool, typer.Option(help="Drop the worse half at a quarter and at half of the steps.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Write a page of the candidates' curves there.")] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    quantization: Quantization = None,
    home: Home = None,
    registry: RegistryUrl = None,
    store: StoreUrl = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Train many candidates of a task at once, drop the losers early, publish the survivor."""
    import yaml

    from softprompt.errors import ConfigError
    from softprompt.progress import Bars

    wanted = {}
    for choice in choices:
        key, equals, values = choice.partition("=")
        if not equals or not values:
            raise ConfigError(f"{choice!r} is no choice; write KEY=V1,V2, such as learning_rate=0.03,0.1")
        wanted[key] = yaml.safe_load(f"[{values}]")
    progress = Bars()
    with progress.loading("torch and the library"):
        from softprompt.training.sweep import RUNGS
        from softprompt.training.sweep import sweep as run_sweep

        library = open_library(home, registry, store, tenant)
    swept = run_sweep(
        file,
        wanted,
        samples=samples,
        rungs=RUNGS if halving else (),
        library=library,
        dtype=dtype,
        device=device,
        quantization=quantization,
        progress=progress,
    )
    row = swept.tuned.row()
    if plot is not None:
        from softprompt.training.curves import write_page

        progress.note(f"curves: {write_page(plot, row['task'], swept.candidates, swept.histories)}")
    if not as_json:
        emit(swept.candidates, False, f"{row['task']}: candidates by validation")
    emit([row], as_json, f"Published {row['task']}@{row['version']}", ("task", "version", "metric", "value", "validation"))
