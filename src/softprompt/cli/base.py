"""`softprompt base`: the frozen models."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.cli.options import Json, adapter_options
from softprompt.cli.output import emit, stderr

app = typer.Typer(help="Frozen base models.", no_args_is_help=True)

Source = Annotated[
    str, typer.Argument(metavar="ID", help="builtin/tiny, a hub id, an id@revision, a folder or a GGUF file.")
]


@app.command()
@adapter_options
def show(
    source: Source = DEFAULT_BASE,
    *,
    base: BaseOptions,
    as_json: Json = False,
) -> None:
    """Where a base is, its fingerprint, size, dtype and context, what ends a text, and what its tokenizer would begin one
    with."""
    from softprompt.bases.files.locate import locate
    from softprompt.bases.folder import check_options

    chosen = replace(base, source=source)
    check_options(chosen)  # before torch is loaded
    locate(chosen.address, code=chosen.trust_remote_code)
    emit([_describe(chosen)], as_json, source)


@app.command()
@adapter_options
def verify(
    source: Source = DEFAULT_BASE,
    *,
    base: BaseOptions,
    as_json: Json = False,
) -> None:
    """Read every byte of a base again, whatever is remembered of its files. Exits 1 where that is something else."""
    from softprompt.library.binding import prove

    chosen = replace(base, source=source)
    known, read = prove(chosen), prove(chosen, again=True)
    ok = known.fingerprint == read.fingerprint
    row = {"base": read.address, "path": str(read.folder), "fingerprint": read.fingerprint, "bytes": read.bytes, "ok": ok}
    emit([row if ok else {**row, "remembered": known.fingerprint}], as_json, source)
    if not ok:
        stderr().print("what was remembered of these files is not what they hold; it is put right now")
        raise typer.Exit(1)


@app.command("list")
def list_bases(as_json: Json = False) -> None:
    """The bases that come with softprompt."""
    from softprompt.bases.files.locate import BUILTIN

    rows = (_describe(BaseOptions(source=name)) for name in BUILTIN)
    emit(rows, as_json, "Built-in bases", ("base", "fingerprint", "params", "dtype", "context"))


def _describe(options: BaseOptions) -> dict[str, Any]:
    from softprompt.bases.base import FrozenBase
    from softprompt.model.architecture import architecture_of

    base = FrozenBase.load(options, device="cpu")
    head = architecture_of(base).head if base.task_type == "SEQ_CLS" else None
    return {
        "base": base.name,
        "path": str(base.path),
        "revision": base.revision,
        "adapter": base.adapter and base.adapter.name,
        "fingerprint": base.fingerprint,
        "params": base.params,
        "dtype": str(base.dtype).removeprefix("torch."),
        "context": base.context,
        "width": base.width,
        "architecture": base.architecture,
        "model_type": base.model.config.model_type,
        "task_type": base.task_type,
        **({"pooling": head.pooling} if head is not None else {}),
        "end_token": None if base.end_id is None else base.tokenizer.convert_ids_to_tokens(base.end_id),
        "begin_token": base.spelling.begins_with,
    }
