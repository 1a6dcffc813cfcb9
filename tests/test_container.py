"""The Containerfile names what there is: files, extras, commands, ports and routes of the project. It is read, not built."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

from softprompt.http.routes import health
from tests.test_docs_run import parse

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
STEPS = [tuple(line.split(" ", 1)) for line in TEXT.splitlines() if line and not line.startswith("#")]


def of(step: str) -> list[str]:
    """What the steps of a kind say."""
    return [said for name, said in STEPS if name == step]


def test_python_and_extras_are_those_of_the_project() -> None:
    for image in of("FROM"):
        (version,) = re.findall(r"/python:([\d.]+)-slim", image)
        assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    (extras,) = [said.removeprefix("EXTRAS=") for said in of("ARG") if said.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    (install,) = [said for said in of("RUN") if "pip install" in said]
    assert '"/source[$EXTRAS]"' in install
    assert "--constraint /source/constraints.txt" in install


def test_what_is_copied_is_there_and_let_in() -> None:
    let_in = {line.removeprefix("!") for line in (ROOT / ".containerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {word for said in of("COPY") if "--from" not in said for word in said.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert PROJECT["readme"] in copied


def test_it_serves_as_somebody_else_than_root_from_a_volume() -> None:
    assert parse([*json.loads(of("CMD")[0])]) == "softprompt serve"
    assert json.loads(of("ENTRYPOINT")[0]) == ["softprompt"] == list(PROJECT["scripts"])
    settings = dict(word.split("=", 1) for word in shlex.split(of("ENV")[0]))
    (volume,) = of("VOLUME")
    assert all(settings[name].startswith(f"{volume}/") for name in ("SOFTPROMPT_HOME", "XDG_CACHE_HOME", "HF_HOME"))
    (user,) = of("USER")
    assert user == "softprompt"
    assert any(f"useradd --uid 10001 --user-group --no-create-home {user} " in said for said in of("RUN"))


def test_the_health_check_asks_a_route_at_the_port_that_is_served() -> None:
    (check,), (port,) = of("HEALTHCHECK"), of("EXPOSE")
    served = json.loads(of("CMD")[0])
    assert served[served.index("--port") + 1] == port
    command = json.loads(check[check.index("[") :])
    (asked,) = re.findall(rf"http://127\.0\.0\.1:{port}(/\w+)", command[-1])
    assert asked in {route.path for route in health.router.routes}
    compile(command[-1], "the health check", "exec")
