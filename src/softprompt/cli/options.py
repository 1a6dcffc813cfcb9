"""The options that many commands share, each set written once and given to a command by a decorator.

The options `--home --registry --store --tenant` stand before or after the name of a command; after wins, and what is said
nowhere comes from the environment (`SOFTPROMPT_HOME` ...).
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from softprompt.bases.options import COMMAND_OPTIONS, BaseOptions
from softprompt.errors import NotFound

if TYPE_CHECKING:
    from softprompt.library.filling import ToFill
    from softprompt.library.library import Library

Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines for machines.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the file; may be repeated."),
]
TaskFile = Annotated[Path | None, typer.Option("--task-file", help="The task, for a version that came without its own.")]
PassagesFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--passages",
        help="Where passages for inputs are looked up: a folder of texts, or a Python function FILE.py:NAME; TASK=SOURCE "
        "for one task; may be repeated. By default the folder that the prompt was tuned with.",
        show_default=False,
    ),
]

Command = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a library is; what is not said is None."""

    home: Path | None = None
    registry: str | None = None
    store: str | None = None
    tenant: str | None = None

    def check_home(self) -> None:
        """Refuse a home that is not there, for what makes no library by itself. A registry that is named may be new to it.

        Raises:
            LibraryError: there is none.
        """
        from softprompt.library.homes import home_of, no_library

        folder = home_of(self.home)
        if not (self.registry or os.environ.get("SOFTPROMPT_REGISTRY") or folder.exists()):
            raise no_library(folder)

    def open(self, *, make: bool = False) -> Library:
        """The library there; `make` makes an empty one where there is none, which only commands do that put something in.

        Raises:
            LibraryError: it is not there, or cannot be opened.
        """
        from softprompt.library.library import Library

        tenant = self.tenant or os.environ.get("SOFTPROMPT_TENANT") or "default"
        return Library.open(self.home, registry=self.registry, store=self.store, tenant=tenant, create=make)

    def to_fill(self) -> ToFill:
        """The library there, or one that is made for the first thing that is put in. One whose registry is named is made at
        once, as only opening it tells whether it is there.

        Raises:
            LibraryError: it cannot be opened, or made.
        """
        from softprompt.library.filling import ToFill
        from softprompt.library.homes import check_home, home_of

        named = self.registry or os.environ.get("SOFTPROMPT_REGISTRY")
        try:
            return ToFill(self.open(make=bool(named)), lambda: self.open(make=True))
        except NotFound:
            check_home(home_of(self.home))
            return ToFill(None, lambda: self.open(make=True))


_before: ContextVar[Location] = ContextVar("_before")


def stand_before(where: Location) -> None:
    """Keep the options that stood before the command's name."""
    _before.set(where)


def _option(name: str, kind: Any, text: str, *, flag: str | None = None, default: object = None) -> inspect.Parameter:
    shown = default not in (None, False)
    annotation = Annotated[kind, typer.Option(flag or f"--{name}", help=text, show_default=shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _base_option(name: str) -> inspect.Parameter:
    option, default = COMMAND_OPTIONS[name], getattr(BaseOptions, name)
    kind = str | None if default is None else type(default)
    return _option(name, kind, option.help, flag=option.flag, default=default)


_LOCATION = (
    _option("home", Path | None, "Folder of the library (env SOFTPROMPT_HOME; default ./softprompt-home)."),
    _option("registry", str | None, "URL of the registry's database (env SOFTPROMPT_REGISTRY; default SQLite in the home)."),
    _option("store", str | None, "URL of the blob store (env SOFTPROMPT_STORE; default a folder in the home)."),
    _option("tenant", str | None, "Whose prompts (env SOFTPROMPT_TENANT; default 'default')."),
)
_BASE = {name: _base_option(name) for name in COMMAND_OPTIONS}
_NAMED = _option("source", str | None, "Base to tune on: builtin/tiny, a folder, a GGUF file or a hub id.", flag="--base")
_SOURCE = _option(
    "source",
    str | None,
    "Where the base is (a folder, a GGUF file, an id), if it has moved: the fingerprint decides.",
    flag="--base",
)
_TARGET = inspect.Parameter(
    "source",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[str, typer.Option("--to", help="The new base: builtin/tiny, a folder, a GGUF file or a hub id.")],
)


def _instead_of(
    parameter: str, options: Sequence[inspect.Parameter], make: Callable[..., object], command: Command
) -> Command:
    """A command that takes options in the place of one parameter, which gets what is made of their values. Typer reads the
    signature."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = make(**{option.name: values.pop(option.name) for option in options})
        command(**{parameter: made}, **values)

    signature = inspect.signature(command, eval_str=True)
    assert parameter in signature.parameters, f"{command.__name__} takes no {parameter!r}"
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for own in signature.parameters.values()
        for each in (options if own.name == parameter else (own,))
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _locate(**given: Any) -> Location:
    before = _before.get(Location())
    return Location(**{**vars(before), **{name: value for name, value in given.items() if value}})


def library_options(command: Command) -> Command:
    """Give a command `--home --registry --store --tenant`; it takes `where: Location`."""
    return _instead_of("where", _LOCATION, _locate, command)


def whole_library_options(command: Command) -> Command:
    """The same for what is done to the library of all tenants."""
    return _instead_of("where", _LOCATION[:-1], _locate, command)


def front_options(command: Command) -> Command:
    """The same for what stands before every command's name."""
    return _instead_of("where", _LOCATION, Location, command)


def base_options(command: Command) -> Command:
    """Give a command the options of how a base is loaded; it takes `base: BaseOptions`."""
    return _instead_of("base", [*_BASE.values()], BaseOptions, command)


def moved_base_options(command: Command) -> Command:
    """The same with `--base`, for commands whose versions name their base."""
    return _instead_of("base", [_SOURCE, *_BASE.values()], BaseOptions, command)


def target_base_options(command: Command) -> Command:
    """The same with `--to`, for commands that take versions to another base."""
    return _instead_of("base", [_TARGET, *_BASE.values()], BaseOptions, command)


def named_base_options(command: Command) -> Command:
    """Give a command the options that a task file has keys for; it takes `base: BaseOptions`."""
    return _instead_of("base", [_NAMED, _BASE["adapter"], _BASE["trust_remote_code"]], BaseOptions, command)


def adapter_options(command: Command) -> Command:
    """Give a command those of them that say which base it is; it takes `base: BaseOptions`."""
    return _instead_of("base", [_BASE["adapter"], _BASE["trust_remote_code"]], BaseOptions, command)


_VALUES = {
    "--methods": "METHOD...",
    **dict.fromkeys(("--home", "--to-home", "--base-adapter"), "DIR"),
    **dict.fromkeys(("--registry", "--store", "--to-registry", "--to-store", "--webhook", "--traces", "--url"), "URL"),
    **dict.fromkeys(
        (
            "--data",
            "--output",
            "--plot",
            "--instruction",
            "--history",
            "--task-file",
            "--key",
            "--since",
            "--export",
            "--reference",
            "--html",
            "--validation",
        ),
        "FILE",
    ),
    **dict.fromkeys(("--task", "--tenant", "--alias", "--like"), "NAME"),
    **dict.fromkeys(("--text", "--label"), "COLUMN"),
    **dict.fromkeys(("--base", "--from", "--to"), "BASE"),
    **dict.fromkeys(("--input", "--target"), "TEMPLATE"),
    "--suite": "SUITE",
    "--engine-args": "JSON",
    "--answer": "ID=ANSWER",
    "--passages": "SOURCE",
    "--report-to": "TRACKER",
    "--by": "OPERATION",
    "--dtype": "DTYPE",
    "--device": "DEVICE",
    "--quantization": "KIND",
    "--reason": "TEXT",
    "--version": "N|ALIAS",
    **dict.fromkeys(("--control", "--candidate", "--against"), "VERSION"),
    "--winner": "control|candidate",
    "--tag": "TAG",
    "--remove": "TAG",
    "--scope": "SCOPE",
    "--user": "ID",
    "--labels": "LABEL",
    "--metric": "METRIC",
    "--problem-type": "TYPE",
    "--set": "KEY=VALUE",
    "--word": "LABEL=WORD",
    "--older-than": "DAYS",
    "--host": "ADDRESS",
    "--address": "ADDRESS",
    **dict.fromkeys(("--grace", "--max-seconds", "--scale-down-after"), "SECONDS"),
    "--log-level": "LEVEL",
}
"""What stands for the value of an option in help: the same on every command. A number is N, and a choice its
words."""


def _plain(params: list[Any]) -> list[Any]:
    """Parameters as help shows them: a switch takes no value, and of an argument no type of Python is told."""
    for each in params:
        if each.param_type_name == "argument":
            each.display_type_rich = lambda ctx: None
        elif each.is_flag and each.metavar is None:
            each.metavar = ""
    return params


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: Any) -> Any:
        """As they are shown to people."""
        return _plain(super().get_params(ctx))


class KnowsKeys(TyperCommand):
    """A command that, asked for a task file's key as an option, says where keys go."""

    def get_params(self, ctx: Any) -> Any:
        """As they are shown to people."""
        return _plain(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every command, but for the advice."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # of typer's own copy of click, whose class has no public name
            option, known = getattr(error, "option_name", ""), {name for param in self.params for name in param.opts}
            if option not in known and "--set" in known:
                from softprompt.tasks.config.config import TaskConfig

                key = option.lstrip("-").replace("-", "_")
                if key in TaskConfig.model_fields:
                    raise typer.BadParameter(
                        f"there is no {option} here; it is a key of task files: --set {key}=VALUE", ctx=ctx
                    ) from error
            raise


def name_values(app: typer.Typer) -> None:
    """Say in the help of every command what stands for the value of each option and argument."""
    for command in [app.registered_callback, *app.registered_commands]:
        if command is not None and command.callback is not None:
            _name_values(command.callback)
    for named in app.registered_commands:
        named.cls = KnowsKeys
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            name_values(group.typer_instance)


def _name_values(command: Command) -> None:
    signature = inspect.signature(command, eval_str=True)
    for name, parameter in signature.parameters.items():
        info = next((each for each in get_args(parameter.annotation) if isinstance(each, OptionInfo)), None)
        if info is not None and get_args(parameter.annotation)[0] is not bool:
            named = [each for each in map(str, (info.default, *(info.param_decls or ()))) if each.startswith("--")]
            flag = named[0] if named else f"--{name.replace('_', '-')}"
            kind = get_args(parameter.annotation)[0]
            chosen = "|".join(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else None
            info.metavar = chosen or _VALUES.get(flag, "N")
        argument = next((each for each in get_args(parameter.annotation) if isinstance(each, ArgumentInfo)), None)
        if argument is not None and argument.metavar is None:
            argument.metavar = name.upper()
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}


def read_changes(changes: Sequence[str] | None) -> dict[str, Any]:
    """Keys of a task file and their other values, of :data:`Changes`.

    Raises:
        ConfigError: as :func:`read_pairs`.
    """
    return read_pairs(changes or (), "sets nothing; write --set KEY=VALUE, such as --set max_steps=100")


def read_pairs(pairs: Sequence[str], advice: str, *, many: bool = False) -> dict[str, Any]:
    """Keys and their values, `KEY=VALUE`, read as a task file reads them; with `many` a list of values behind each key.

    Raises:
        ConfigError: one is no such pair, which `advice` then says; or it cannot be read, or names a key again.
    """
    import yaml

    from softprompt.errors import ConfigError
    from softprompt.tasks.config.task_file import TaskLoader

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise ConfigError(f"{pair!r} {advice}")
        if key in found:
            mend = f"write all its values behind one {key}=" if many else "leave one out"
            raise ConfigError(f"{key!r} is given twice; {mend}")
        try:
            text = f"{'labels' if key == 'labels' else 'value'}: {f'[{value}]' if many else value}"
            (found[key],) = yaml.load(text, Loader=TaskLoader).values()
        except (yaml.YAMLError, ConfigError):
            what = "values" if many else "value"
            raise ConfigError(
                f"the {what} of {pair!r} cannot be read; put a text with braces, commas or colons in double quotes of its "
                "own, such as 'input=\"Question: {text}\"'"
            ) from None
    return found
