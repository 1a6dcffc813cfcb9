"""Where a base comes from: a built-in name, a folder, a GGUF file, or a Hugging Face id with a revision or without. No
torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from softprompt.bases.architectures import refuse_unless_tuned, task_type_of_config
from softprompt.bases.gguf.file import is_gguf, parts_of
from softprompt.errors import BaseModelError, reason_of

BUILTIN = {"builtin/tiny": Path(__file__).parent.parent / "builtin" / "tiny"}
"""The bases that come with the package, by name."""

SAFE, BIN, INDEX = "model.safetensors", "pytorch_model.bin", ".index.json"
"""What files of weights are called, and what stands behind that in the name of an index of several."""

# What is fetched of a model beside its weights. Its code (`*.py`) only where that may be run.
_DESCRIBING = ["*.json", "*.jinja", "*.model", "*.txt", "*.spm", "*.tiktoken", "*.codes", "*.tokenizer"]


def split_revision(source: str) -> tuple[str, str | None]:
    """A hub id and what stands behind its `@`; a path, whatever signs it has, stays whole.

    Raises:
        BaseModelError: nothing stands before or behind the `@`.
    """
    name, at, revision = source.partition("@")
    if not at or name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(source).exists():
        return source, None
    if not name or not revision:
        raise BaseModelError(f"{source!r} names no revision of a base; write id@revision, such as gpt2@main")
    return name, revision


def locate(source: str, *, revision: str | None = None, code: bool = False) -> Path:
    """The folder of a base, or its GGUF file: a built-in name, a path, or a Hugging Face id (fetched, or in the
    local cache).

    Args:
        source: `id@revision` too.
        revision: branch, tag or commit of an id.
        code: fetch the code that comes with a model, too.

    Raises:
        BaseModelError: no such built-in, folder, id or revision; no network and not in the cache; two revisions are named,
            or one of what has none.
    """
    name, named = split_revision(source)
    if revision is not None and named not in (None, revision):
        raise BaseModelError(f"{source!r} names the revision {named!r}, and {revision!r} was asked for; give one of them")
    revision = revision or named
    if name.startswith("builtin/"):
        if name not in BUILTIN:
            raise BaseModelError(f"no built-in base {name!r}; there is {', '.join(BUILTIN)}")
        return _without_revision(BUILTIN[name], name, revision)
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return _without_revision(folder.resolve(), name, revision)
    if folder.is_file():
        if not is_gguf(folder):
            whole = (folder.parent / "config.json").is_file()
            instead = f"the folder that it lies in, {str(folder.parent)!r}" if whole else "a folder with a saved model"
            raise BaseModelError(f"{name!r} is a file and no folder, and no GGUF file; give {instead}")
        # Where a name is a link to a blob, the name tells which part it is.
        return _without_revision(parts_of(folder.parent.resolve() / folder.name)[0], name, revision)
    if is_local(name):
        if "://" in name:
            raise BaseModelError(f"{name!r} is a URL; give a hub id, or download the model and give its path")
        if name.lower().endswith(".gguf"):
            raise BaseModelError(
                f"no file {name!r}; give a GGUF file that is here (`hf download ID FILE.gguf` fetches one from the hub), a "
                "folder with a saved model, a hub id, or builtin/tiny"
            )
        raise BaseModelError(f"no folder {name!r}; give a folder with a saved model, a hub id, or builtin/tiny")
    return _fetch(name, revision, code)


def is_local(source: str) -> bool:
    """Whether a source can only be on this machine, there or not: a built-in, a folder, a GGUF file, a path."""
    name = split_revision(source)[0]
    outside = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.lower().endswith(".gguf")
    return name.startswith("builtin/") or outside or Path(os.path.expanduser(name)).exists()


def is_gone(source: str) -> bool:
    """Whether a source can only be on this machine, and is not there."""
    return is_local(source) and not source.startswith("builtin/") and not os.path.exists(os.path.expanduser(source))


def beside(path: str, folder: Path) -> str:
    """A path of a base or an adapter that lies beside a file of this folder, as it is found from here; any other source as
    it is."""
    there = folder / path
    if not is_saved(there) or (os.path.exists(path) and there.samefile(path)):
        return path
    return str(there)


def is_saved(path: Path) -> bool:
    """Whether a path that is named as a base, or as an adapter, is one by its kind: a folder, or a GGUF file."""
    return path.is_dir() or (path.suffix.lower() == ".gguf" and path.is_file())


def kind_of(path: str) -> str:
    """What a path of a base is, there or not: a folder or a file."""
    return "file" if path.lower().endswith(".gguf") else "folder"


def two_forms(one: str, other: str) -> str:
    """For messages about another base: a tail that says so where one name is a GGUF file's, and the other a folder's or an
    id's; else nothing."""
    if kind_of(one) == kind_of(other) or any(name.startswith("builtin/") for name in (one, other)):
        return ""
    return " (a GGUF file and a folder of the same model are two bases: the numbers in them differ, and so do the answers)"


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache (`.../snapshots/<commit>`), or of a file in it; None of any other."""
    folder = folder.parent if folder.is_file() else folder
    found = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if found else None


def _without_revision(folder: Path, name: str, revision: str | None) -> Path:
    if revision is not None:
        raise BaseModelError(f"{name!r} is no hub id, so it has no revision {revision!r}; leave that out")
    return folder


def _fetch(repo: str, revision: str | None, code: bool) -> Path:
    from huggingface_hub import errors as hub

    try:
        return _download(repo, revision, code)
    except BaseModelError:
        raise
    except hub.HFValidationError:
        raise BaseModelError(
            f"{repo!r} is neither a folder here nor a valid hub id; give `owner/name`, a folder, or builtin/tiny"
        ) from None
    except hub.GatedRepoError:
        raise BaseModelError(
            f"{repo!r} is gated; accept its terms on its hub page and log in with `hf auth login`"
        ) from None
    except hub.RevisionNotFoundError:
        raise BaseModelError(f"{repo!r} has no revision {revision!r} on the hub; give a branch, a tag or a commit") from None
    except hub.RepositoryNotFoundError:
        raise BaseModelError(f"the hub has no model {repo!r} (or it is private); check the id") from None
    except hub.LocalEntryNotFoundError as error:
        which = f"revision {revision!r} of {repo!r}" if revision else repr(repo)
        answer = getattr(error.__cause__, "response", None)
        if answer is not None:
            why, mend = f"the hub answers {answer.status_code} {answer.reason_phrase}".rstrip(), "try again later"
        else:
            why, mend = "the hub cannot be reached", "connect once to fetch it"
        raise BaseModelError(
            f"{which} is not in the local cache and {why}; {mend}, or give a folder, or builtin/tiny"
        ) from None
    except Exception as error:  # connections that break do so with classes of a package that the hub's own replaces
        raise BaseModelError(
            f"{repo!r} could not be fetched ({type(error).__name__}: {reason_of(error)}); files that came whole are kept: "
            "try again, or check the network, or give a folder, or builtin/tiny"
        ) from None


def _download(repo: str, revision: str | None, code: bool) -> Path:
    """The folder of the hub's cache with all of a model that is opened, and no weights beside those: many come in several
    formats.

    Raises:
        BaseModelError: it is no causal model, which is told before weights are fetched, or nothing but GGUF files.
    """
    from huggingface_hub import HfApi, snapshot_download

    folder = Path(snapshot_download(repo, revision=revision, allow_patterns=["README.md", *_DESCRIBING, *["*.py"] * code]))

    def fetch(*names: str) -> None:
        if not all((folder / name).is_file() for name in names):  # the config is there: asked for so that something is
            snapshot_download(repo, revision=folder.name, allow_patterns=["config.json", *names])

    if (folder / "config.json").is_file():
        config = read_object(folder / "config.json")
        refuse_unless_tuned(task_type_of_config(config), repo)
        for name in names_of_weights(config):
            if not name.endswith(INDEX):
                fetch(name)
            if (folder / name).is_file():
                if name.endswith(INDEX):
                    fetch(*names_in_index(folder / name))
                return folder
    if (folder / "adapter_config.json").is_file():
        return folder
    files = [name for name in HfApi().list_repo_files(repo, revision=folder.name) if name.endswith(".gguf")]
    if files:
        some = f"{', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"
        raise BaseModelError(f"the hub has {repo!r} as GGUF only ({some}); download one of these files and give its path")
    return folder


def names_of_weights(config: dict[str, Any]) -> list[str]:
    """The names under which transformers looks for the weights of a saved model, the first one first: that which its config
    gives, else `model.safetensors`, an index of several, and the same of `pytorch_model.bin`."""
    named = config.get("transformers_weights")
    return [named] if isinstance(named, str) and named else [SAFE, SAFE + INDEX, BIN, BIN + INDEX]


def names_in_index(file: Path) -> list[str]:
    """The files of weights that an index names.

    Raises:
        BaseModelError: it names none.
    """
    names = read_object(file).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise BaseModelError(f"{file} names no files of weights; fetch it again")
    return sorted({*names.values()})


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BaseModelError: it cannot be read, or is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"{file} cannot be read ({error.strerror}); mend that, or fetch it again") from None
    except ValueError as error:
        raise BaseModelError(f"{file} is not JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise BaseModelError(f"{file} is not a JSON object; fetch it again")
    return content
