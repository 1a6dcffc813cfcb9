"""`softprompt deploy`: the library over HTTP, by replicas on a cluster."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, base_options, library_options
from softprompt.cli.output import emit, warn
from softprompt.cli.serving import (
    MOST_PROMPTS,
    EngineQueue,
    EngineRows,
    Grace,
    Host,
    LogLevel,
    MaxBodyKb,
    MaxRows,
    MaxTokens,
    Port,
    RequireKeys,
    Source,
    choose,
    wished_device,
)
from softprompt.errors import ConfigError


@library_options
@base_options
def deploy(
    *,
    ray: Annotated[bool, typer.Option("--ray", help="On Ray, which is the one way there is.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray that runs, or `auto`; by default one is started on this machine.", show_default=False
        ),
    ] = None,
    min_replicas: Annotated[int, typer.Option(min=1, help="Fewest replicas.")] = 2,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Most replicas; by default as many as the fewest.", show_default=False)
    ] = None,
    target_requests: Annotated[
        int,
        typer.Option(min=1, help="Requests at one replica at once; beyond it others take over, and there are to be more."),
    ] = 32,
    scale_down_after: Annotated[
        float, typer.Option(min=1, max=86400, help="Seconds for which fewer replicas must have been enough.")
    ] = 60,
    replica_cpus: Annotated[float, typer.Option(min=0.1, help="CPUs of a replica.")] = 1,
    replica_gpus: Annotated[float, typer.Option(min=0, help="GPUs of a replica; parts of one are shared.")] = 0,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    source: Source = None,
    base: BaseOptions,
    require_keys: RequireKeys = False,
    engine_rows: EngineRows = 64,
    engine_queue: EngineQueue = 1024,
    max_tokens: MaxTokens = 4096,
    max_rows: MaxRows = 256,
    max_body_kb: MaxBodyKb = 4096,
    grace: Grace = 30,
    log_level: LogLevel = "warning",
    where: Location,
    as_json: Json = False,
) -> None:
    """Serve the library by replicas behind one address. A lost replica is replaced, and what it had not begun to answer
    goes to another. SIGHUP looks anew which base most tasks are made for, and moves to it; SIGTERM or Ctrl-C ends."""
    from softprompt.bases.folder import check_options

    if not ray:
        raise ConfigError("deploy needs to know on what; add --ray")
    most = min_replicas if max_replicas is None else max_replicas
    if most < min_replicas:
        raise ConfigError(f"--max-replicas {most} is less than --min-replicas {min_replicas}; raise it, or lower the other")
    from softprompt.cluster import Place, check_ray

    check_options(replace(base, source=source))
    check_ray()
    from softprompt.deploy.deploy import Plan, deploy
    from softprompt.deploy.replica import Serving, Where
    from softprompt.deploy.scaling import Bounds
    from softprompt.http.auth import is_loopback
    from softprompt.http.limits import Limits
    from softprompt.http.opening import Settings, bind, log_to_stderr, refuse_open_doors, url_of
    from softprompt.progress import Bars
    from softprompt.serving.which_base import read_wishes
    from softprompt.text import plural

    log_to_stderr(log_level)
    where.check_home()
    with where.open(make=True) as library, bind(host, port) as bound:
        refuse_open_doors(library, bound.getsockname()[0])
        chosen = source or choose(library)
        wishes = read_wishes(library, chosen)
        for warning in wishes.warnings:
            warn(warning)
        registry = where.registry or os.environ.get("SOFTPROMPT_REGISTRY")
        store = where.store or os.environ.get("SOFTPROMPT_STORE")
        settings = Settings(
            base=replace(base, source=chosen, device=base.device or wished_device(wishes)),
            always_keys=require_keys or not is_loopback(bound.getsockname()[0]),
            registry=registry,
            store=store,
            max_prompts=wishes.prompts or MOST_PROMPTS,
            engine_rows=engine_rows,
            engine_queue=engine_queue,
            grace_s=grace,
            limits=Limits(body_bytes=max_body_kb << 10, max_tokens=max_tokens, max_rows=max_rows),
        )
        plan = Plan(
            where=Where(home=str(library.home), registry=registry, store=store, tenant=library.tenant),
            settings=settings,
            bounds=Bounds(least=min_replicas, most=most, target=target_requests, idle_s=scale_down_after),
            place=Place(cpus=replica_cpus, gpus=replica_gpus),
            address=address,
            log_level=log_level,
        )
        progress = Bars()

        def ready(first: Serving) -> None:
            if as_json:
                row = {"url": url_of(bound), "base": first.base, "fingerprint": first.fingerprint, "dtype": first.dtype}
                with redirect_stdout(own):
                    emit([row], True, "Serving")
            at = f"{url_of(bound)} by {plural(min_replicas, 'replica')}"
            progress.note(f"serving {first.base} in {first.dtype} on {at}")

        own = sys.stdout
        with redirect_stdout(sys.stderr):  # Ray prints there what happens to its processes
            deploy(plan, bound, progress, next_base=lambda: source or choose(library), on_ready=ready)
