"""Prompts to the Hugging Face Hub and from there: a repository is a PEFT adapter for everybody, with our own file in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.bases.files.locate import is_local, split_revision
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, LibraryError, NotFound, PromptFileError, reason_of
from softprompt.exchange.card_file import CARD, CENTROID
from softprompt.exchange.exporting import Format
from softprompt.exchange.readme import hub_card
from softprompt.names import check_new_task
from softprompt.prompts.file import read_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from softprompt.library.filling import ToFill
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

FILE = "softprompt.safetensors"
"""Our file in a repository: the prompt as it is in the library, whatever PEFT can say of it."""

MOST_BYTES = 1 << 30
"""Size of the largest file that is fetched."""

_README = "README.md"
_OURS = (FILE, CONFIG, WEIGHTS, CENTROID, CARD, _README)
_PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Pushed:
    """A version that is on the hub."""

    version: Version
    repo: str
    url: str
    commit: str
    files: tuple[str, ...]
    created: bool
    """Whether the repository was made for it."""


@dataclass(frozen=True)
class Pulled:
    """A version that came from the hub."""

    version: Version
    repo: str
    commit: str
    file: str
    """What it was read from: our own file, or PEFT's config."""


def push(
    library: Library, ref: str, repo: str, *, private: bool = False, form: Format = Format.PEFT, force: bool = False
) -> Pushed:
    """Put a version into a repository of the hub, in one commit: our file, a PEFT adapter, and a model card that is written
    from the prompt's. A repository that has an earlier version of the same task gets a new commit.

    The token is that of `HF_TOKEN`, or of `hf auth login`.

    Args:
        repo: `owner/name`; it is made where it is not there.
        private: whether a new one is seen by its owner alone.
        form: `softprompt` leaves the PEFT adapter out, for prompts that PEFT cannot say.
        force: also over a repository that holds something else; what has other names stays there.

    Raises:
        NotFound: no such version.
        PromptFileError, ConfigError: PEFT cannot say it.
        LibraryError: there is no token, or it may not write; the hub cannot be reached, or refuses; the repository holds
            something else, or is public and a private one was asked for.
    """
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if form is Format.MLFLOW:
        raise ConfigError("the hub takes no MLflow model; push with --format peft or softprompt")
    if form in (Format.TOKENS, Format.GGUF):
        raise ConfigError(
            f"--format {form.value} makes a whole base, and push puts a prompt on the hub; push with --format peft or "
            "softprompt, or export the base and upload its folder (`hf upload`)"
        )
    version = library.registry.resolve(ref)
    if repo.count("/") != 1:
        raise LibraryError(f"{repo[:100]!r} names no repository of the hub; write owner/name")
    token = huggingface_hub.get_token()
    if not token:
        raise LibraryError(
            f"no token says who pushes to {repo!r}; put one with write access into HF_TOKEN, or log in (`hf auth login`)"
        )
    files = _files_of(library, version, repo, form)
    api = HfApi(token=token)
    with _explained(repo, None, writes=True):
        try:
            info = api.model_info(repo)
            created = False
        except RepositoryNotFoundError:
            api.create_repo(repo, private=private, exist_ok=False)
            info, created = api.model_info(repo), True
        there = [file.rfilename for file in info.siblings or ()]
        if not created:
            _refuse_others(api, repo, info, there, version.task, private=private, force=force)
        operations: list[Any] = [CommitOperationAdd(name, data) for name, data in files.items()]
        if FILE in there:  # what an earlier push has and this one has not
            operations += [CommitOperationDelete(name) for name in there if name in _OURS and name not in files]
        with _silent():
            done = api.create_commit(repo, operations, commit_message=version.ref, parent_commit=info.sha)
    return Pushed(version, repo, f"{api.endpoint}/{repo}", str(done.oid), tuple(files), created)


def pull(
    library: Library | ToFill,
    source: str,
    *,
    task: str | None = None,
    base: BaseOptions | str | None = None,
    tags: Iterable[str] = (),
    warn: Callable[[str], object] | None = None,
) -> Pulled:
    """Publish a prompt of the hub as a new version: from our own file where there is one, else from a PEFT adapter. Only
    safetensors and JSON are fetched, never a pickle.

    Args:
        source: `owner/name`, or `owner/name@revision`: a branch, a tag or a commit.
        task: the task it becomes a version of; by default the one that our file names, or the repository's name.
        base, tags, warn: as for :func:`~softprompt.exchange.importing.import_prompt`.

    Raises:
        NotFound: no such repository or revision.
        PromptFileError: it holds no prompt, or one in a pickle alone; or as an import.
        LibraryError: the hub cannot be reached, or refuses; or as an import.
    """
    from huggingface_hub import HfApi, hf_hub_download

    from softprompt.exchange.importing import import_prompt

    repo, revision = split_revision(source)
    api = HfApi()
    with _explained(repo, revision, writes=False):
        info = api.model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = _wanted(repo, sizes)
        paths = [Path(hf_hub_download(repo, name, revision=info.sha)) for name in wanted]
    found = paths[0] if wanted[0] == FILE else paths[0].parent
    if task is None and wanted[0] != FILE:
        task = check_new_task(repo.rpartition("/")[2])
    version = import_prompt(library, found, task=task, base=base, tags=tags, warn=warn)
    return Pulled(version, repo, str(info.sha), wanted[0])


def _wanted(repo: str, sizes: dict[str, int]) -> Sequence[str]:
    """The files of a repository that are fetched: our own, or those of an adapter with its config first."""
    wanted = [FILE] if FILE in sizes else [CONFIG, WEIGHTS, *(name for name in (CENTROID, CARD) if name in sizes)]
    pickles = sorted(name for name in sizes if name.endswith(_PICKLES))
    if missing := [name for name in wanted if name not in sizes]:
        if pickles and missing == [WEIGHTS]:
            raise PromptFileError(
                f"{repo!r} has its adapter in {pickles[0]!r}, a pickle, which may run anything when it is opened; ask for "
                f"{WEIGHTS} (PEFT writes it by default)"
            )
        raise PromptFileError(f"{repo!r} holds no prompt: it has neither {FILE} nor {' and '.join(missing)}; give another")
    for name in wanted:
        if sizes[name] > MOST_BYTES:
            raise PromptFileError(
                f"{name!r} of {repo!r} has {sizes[name]} bytes, and a prompt at most {MOST_BYTES}; give another"
            )
    return wanted


def _files_of(library: Library, version: Version, repo: str, form: Format) -> dict[str, bytes]:
    """What goes into a repository, by name. No path of this machine is in it: a base that has no hub id goes by its name."""
    data, card = library.read(version), version.card
    base, revision = (card.base, None) if is_local(version.base) else split_revision(version.base)
    files = {FILE: data}
    if form is Format.PEFT:
        from softprompt.exchange.peft import save_peft
        from softprompt.prompts.prompt import SoftPrompt

        with tempfile.TemporaryDirectory(prefix="softprompt-") as folder:
            made = save_peft(SoftPrompt.from_bytes(data, digest=version.digest), folder, base, revision)
            files |= {file.name: file.read_bytes() for file in made.iterdir() if file.name != _README}
    id_of_hub = None if is_local(version.base) else base
    return files | {_README: hub_card(card, id_of_hub, repo, peft=form is Format.PEFT).encode()}


def _refuse_others(api: HfApi, repo: str, info: Any, there: Sequence[str], task: str, *, private: bool, force: bool) -> None:
    """Refuse a repository that is there and holds something else."""
    from huggingface_hub import hf_hub_download

    if private and not info.private:
        raise LibraryError(
            f"{repo!r} is there and public, and --private is for a new one; make it private on the hub, or take another name"
        )
    others = [name for name in there if name != ".gitattributes"]
    if FILE not in there and others and not force:
        raise LibraryError(
            f"{repo!r} is there and holds {others[0]!r}, which softprompt did not push; take another name, or add --force"
        )
    if FILE in there and not force:
        owner = read_card(Path(hf_hub_download(repo, FILE, revision=info.sha, token=api.token)).read_bytes()).task
        if owner != task:
            raise LibraryError(f"{repo!r} is there and holds task {owner!r}; take another name, or add --force")


@contextmanager
def _silent() -> Iterator[None]:
    """Within, the hub's client draws no bars: a prompt is there before one is seen."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


@contextmanager
def _explained(repo: str, revision: str | None, *, writes: bool) -> Iterator[None]:
    """Turn what the hub's client raises into what was wrong and what to do."""
    from huggingface_hub import errors as hub

    try:
        try:
            yield
        except RuntimeError as error:  # an upload that failed in a thread, with the reason behind it
            raise error.__cause__ or error from None
    except (LibraryError, PromptFileError):
        raise
    except hub.HFValidationError:
        raise LibraryError(f"{repo[:100]!r} is no valid id of a repository; write owner/name") from None
    except hub.GatedRepoError:
        raise LibraryError(f"{repo!r} is gated; accept its terms on its hub page and log in with `hf auth login`") from None
    except hub.RevisionNotFoundError:
        raise NotFound(f"{repo!r} has no revision {revision!r} on the hub; give a branch, a tag or a commit") from None
    except hub.RepositoryNotFoundError:
        raise NotFound(
            f"the hub has no {repo!r}, or it is not yours to see; check the id, or put a token into HF_TOKEN"
        ) from None
    except hub.OfflineModeIsEnabled:
        raise LibraryError(
            f"{repo!r} is not asked for: HF_HUB_OFFLINE is set; unset it, or use files (`softprompt export`)"
        ) from None
    except hub.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            which = "may not write to" if writes else "may not read"
            raise LibraryError(
                f"the hub answers {status}: the token {which} {repo!r}; put one into HF_TOKEN that may"
            ) from None
        if status == 412:
            raise LibraryError(f"{repo!r} was changed meanwhile, by another; push again") from None
        raise LibraryError(f"the hub answers {status} for {repo!r} ({reason_of(error)}); try again later") from None
    except Exception as error:  # connections that break do so with classes of a package that the hub's own replaces
        raise LibraryError(
            f"the hub cannot be reached for {repo!r} ({type(error).__name__}: {reason_of(error)}); check the network and "
            "HF_ENDPOINT, then try again"
        ) from None
