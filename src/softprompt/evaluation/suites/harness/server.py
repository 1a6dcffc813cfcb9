"""A server for a harness: one of ours, started on a free port until the harness is done, or one that runs. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, ConfigError, FingerprintMismatch
from softprompt.registry.records import Version

if TYPE_CHECKING:
    from softprompt.library.library import Library

KEY = "SOFTPROMPT_API_KEY"
"""The variable with the key that a server asks for."""
_PATIENCE_S = 30


@contextmanager
def started(
    library: Library, options: BaseOptions, folder: Path, *, registry: str | None = None, store: str | None = None
) -> Iterator[str]:
    """The URL of a server of a library on a base, until the block ends. What it says goes to `server.log` in the folder.

    Args:
        registry, store: the URLs that the library was opened with, where they were given.

    Raises:
        BaseModelError: it does not start.
    """
    command = [
        sys.executable, "-m", "softprompt.cli", "serve", "--json", "--host", "127.0.0.1", "--port", "0", "--no-drift",
        "--home", str(library.home), "--tenant", library.registry.tenant, "--base", options.address, *options.arguments(),
    ]  # fmt: skip
    given = {"SOFTPROMPT_REGISTRY": registry, "SOFTPROMPT_STORE": store}
    environment = os.environ | {name: url for name, url in given.items() if url is not None}
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BaseModelError(
                f"the server for the harness did not start: {last_line(log)}; see whether `softprompt serve` does"
            )
        yield json.loads(line)["url"]
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process of ours."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def check_served(url: str, version: Version, key: str) -> None:
    """See that a server answers with this very version.

    Raises:
        ConfigError: it cannot be reached, refuses the key, or does not know the version.
        FingerprintMismatch: what it calls so is another prompt, or on another base.
    """
    request = Request(f"{url}/v1/models/{quote(version.ref, safe='@')}", headers={"Authorization": f"Bearer {key}"})
    try:
        with urlopen(request, timeout=_PATIENCE_S) as answer:
            told = json.loads(answer.read())["system_fingerprint"]
    except HTTPError as error:
        try:
            why = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):  # another kind of server
            why = error.reason
        what = f"set {KEY} to one of its keys" if error.code in (401, 403) else "serve this library there"
        raise ConfigError(f"the server at {url} does not serve {version.ref} ({why}); {what}, or leave --url out") from None
    except (URLError, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"no server of softprompt answers at {url} ({error}); mend --url, or leave it out") from None
    own = f"{version.fingerprint[:12]}-{version.digest[:12]}"
    if told != own:
        raise FingerprintMismatch(
            f"the server at {url} calls {version.ref} what is {told}, and this library's is {own}; serve this library "
            "there, or leave --url out"
        )


def last_line(log: Path) -> str:
    """The last thing that a program said."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:500].removeprefix("error: ") if lines else "it said nothing"
