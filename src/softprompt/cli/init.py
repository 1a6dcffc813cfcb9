"""`softprompt init`: a table of your own to a task file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, named_base_options
from softprompt.cli.output import emit, printable, warn

if TYPE_CHECKING:
    from softprompt.tasks.draft.draft import Draft
    from softprompt.tasks.wording.chat import ChatFrame

ROWS = "Rows: .csv, .tsv, .jsonl, .json, .parquet, .xlsx or .txt, also with .gz."


@named_base_options
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=ROWS)],
    base: BaseOptions,
    text: Annotated[
        list[str] | None, typer.Option(help="Column of the input; may be repeated, and is guessed by default.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the answer; guessed by default.")] = None,
    word: Annotated[
        list[str] | None, typer.Option(metavar="LABEL=WORD", help="A word to say for a label; may be repeated.")
    ] = None,
    fold_labels: Annotated[
        bool, typer.Option("--fold-labels", help="Take labels that differ by case, spaces or as 1 and 1.0 do for one.")
    ] = False,
    problem_type: Annotated[
        str | None,
        typer.Option(help="Kind of answers: single_label_classification, multi_label_classification or regression."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Word the input in the chat template of the base.")] = False,
    name: Annotated[str | None, typer.Option("--task", help="Name of the task; by default the file's.")] = None,
    old_name: Annotated[str | None, typer.Option("--name", hidden=True)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a task file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a task file beside a table, to look at and to train."""
    import shlex
    from typing import get_args

    from softprompt.bases.files.adapter import find_adapter
    from softprompt.bases.files.locate import beside
    from softprompt.bases.files.vocabulary import chat_templates
    from softprompt.errors import ConfigError, nearest
    from softprompt.files import write_whole
    from softprompt.progress import Bars
    from softprompt.tasks.answers.kinds import ProblemType
    from softprompt.tasks.draft.draft import draft_task, stem_of

    if file.is_dir():
        raise ConfigError(f"{str(file)!r} is a folder; name a file of rows in it")
    target = file.with_name(f"{stem_of(file)}.yaml")
    if target.exists() and not force:
        raise ConfigError(f"{target} is there already; change it, or write it anew with --force")
    if problem_type is not None and problem_type not in get_args(ProblemType):
        raise ConfigError(f"--problem-type {problem_type!r} is unknown{nearest(problem_type, get_args(ProblemType))}")
    words: dict[str, str] = {}
    for pair in word or ():
        given, equals, said = pair.rpartition("=")
        if not equals or not said.strip() or given in words:
            raise ConfigError(f"--word {pair!r} has no word for a label, or is the second for it; write --word 1=positive")
        words[given] = said
    frame, told, headed, begins = None, None, False, None
    for path in filter(None, (base.source, base.adapter)):
        _check_single(path, file.parent)
    if base.adapter is not None:
        find_adapter(beside(base.adapter, file.parent))
    if base.source is not None or chat:
        with Bars().loading(base.address):  # which may be fetched first
            found, task_type = _look(base, file.parent)
            headed = task_type == "SEQ_CLS"
            frame = _frame(base, file.parent) if chat else None
            begins = _begins(base, found) if task_type == "CAUSAL_LM" else None
        if not chat and chat_templates(found):
            told = f"{base.address} has a chat template; --chat words the input in it"
    draft = draft_task(
        file,
        text=text or (),
        label=label,
        name=name or old_name,
        words=words,
        fold_labels=fold_labels,
        problem_type=problem_type,
        base=base,
        frame=frame,
        headed=headed,
        begins=begins,
    )
    draft = replace(draft, notes=(told, *draft.notes)) if told else draft
    try:
        write_whole(target, draft.yaml.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(target)!r}: {error.strerror or error}; mend that, or choose another folder"
        ) from None
    if as_json:
        for note in draft.notes:
            warn(note)
        row = {"file": str(target), "rows": draft.rows, "text": draft.text, "label": draft.label, "answers": draft.answers}
        emit([row | {"taken": draft.taken, "left": draft.left, "notes": draft.notes}], True, "")
        return
    typer.echo(draft.yaml, nl=False)
    _explain(draft)
    typer.echo(f"\nwritten to {target}; next: softprompt train {shlex.quote(str(target))}", err=True)


def _check_single(path: str, folder: Path) -> None:
    """Raises `ConfigError` where a path means one thing here, and another beside the table, where the task file looks
    first."""
    from softprompt.bases.files.locate import beside, is_saved
    from softprompt.errors import ConfigError

    there = beside(path, folder)
    if there != path and is_saved(Path(path)):
        raise ConfigError(
            f"{path!r} is here, and another is {there!r}, where the task file will look; give one of them whole"
        )


def _look(base: BaseOptions, folder: Path) -> tuple[Path, str]:
    """Where a base is, which may lie beside the table, and its task type; by its files alone."""
    from softprompt.bases.architectures import task_type_of_config
    from softprompt.bases.files.locate import beside, locate
    from softprompt.bases.folder import check_folder

    found = locate(beside(base.address, folder), revision=base.revision, code=base.trust_remote_code)
    config = check_folder(found, base.address, code=base.trust_remote_code)
    return found, task_type_of_config(config)


def _begins(base: BaseOptions, found: Path) -> str | None:
    """What the tokenizer of a base begins texts with: of a GGUF file by its metadata, else by the tokenizer itself, which
    takes torch.

    Raises:
        BaseModelError: it cannot be read.
    """
    from softprompt.bases.files.locate import BUILTIN
    from softprompt.bases.gguf.file import read_gguf
    from softprompt.bases.gguf.tokenizer import begin_token

    if found.is_file():
        return begin_token(read_gguf(found))
    if found in BUILTIN.values():  # which begin texts with nothing
        return None
    from softprompt.bases.reading import read_tokenizer
    from softprompt.bases.spelling import Spelling

    return Spelling(read_tokenizer(replace(base, source=str(found))), base.address, None).begins_with


def _frame(base: BaseOptions, folder: Path) -> ChatFrame:
    """The frame of a base's chat template; a base beside the table is found, too.

    Raises:
        BaseModelError: its tokenizer cannot be read.
        ConfigError: it has no chat template, or one that does not word messages as they are.
    """
    from softprompt.bases.files.locate import beside
    from softprompt.bases.reading import read_tokenizer
    from softprompt.bases.spelling import Spelling
    from softprompt.errors import ConfigError
    from softprompt.tasks.wording.chat import chat_frame, has_chat_template

    source = base.address
    tokenizer = read_tokenizer(replace(base, source=beside(source, folder)))
    if not has_chat_template(tokenizer):
        raise ConfigError(f"{source} has no chat template; leave --chat out")
    try:
        return chat_frame(tokenizer, Spelling(tokenizer, source, None).controls)
    except ConfigError as error:
        raise ConfigError(f"the chat template of {source} cannot word an input: {error}, and leave --chat out") from None


def _explain(draft: Draft) -> None:
    """What was taken, what was left and why, in lines as wide as the terminal."""
    import shutil
    import textwrap

    lines = [("read", draft.told), *(("input", f"{name}: {draft.taken[name]}") for name in draft.text)]
    lines += [("answer", f"{draft.label}: {draft.taken[draft.label]}"), ("", f"the answers are {draft.answers}")]
    lines += [("left", f"{name}: {why}") for name, why in draft.left.items()]
    lines += [("note", note) for note in draft.notes]
    sys.stderr.write("\n")
    for what, told in lines:
        wrapped = textwrap.wrap(printable(told), max(40, shutil.get_terminal_size().columns - 9), break_on_hyphens=False)
        sys.stderr.write("".join(f"{what if at == 0 else '':8} {line}\n" for at, line in enumerate(wrapped)))
