"""The documents hold what the code does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from softprompt.tasks.config.config import TaskConfig, parse_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", ["commands", "python"])
def test_a_page_that_is_made_from_the_code_is_what_the_code_says(page: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / f"{page}.py", "--check"], check=False)
    assert done.returncode == 0, f"docs/{page}.md is old; write it anew with `make docs`"


def test_every_key_of_a_task_file_has_a_line_in_the_docs() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    missing = [key for key in TaskConfig.model_fields if f"`{key}" not in page and f"`{key}:`" not in page]
    assert missing == []


def test_the_defaults_of_a_task_file_are_those_in_the_docs() -> None:
    """Of the tables' rows those whose default is a value; where it is in words, nobody can tell."""
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    looked = 0
    for keys, column in re.findall(r"^\| ((?:`[a-z_0-9]+`(?:, )?)+) \| ([^|]+) \|", page, re.M):
        names, values = re.findall("`([^`]+)`", keys), [part.strip() for part in column.split(", ")]
        if len(names) != len(values):
            continue
        for name, said in zip(names, values, strict=True):
            field = TaskConfig.model_fields.get(name)
            if field is None or not re.fullmatch(r"`[^`]+`|[0-9.]+|true|false", said):
                continue
            by_silence = {
                    "objective": "language_modelling", "base": "builtin/tiny", "label_separator": ";", "num_train_epochs": 3,
                }  # fmt: skip
            default = by_silence.get(name, field.default)
            assert (said[1:-1] if said.startswith("`") else yaml.safe_load(said)) == default, name
            looked += 1
    assert looked > 20


def test_the_limits_of_a_server_are_those_in_the_docs() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").partition("## Limits")[2].partition("## Errors")[0]
    helped = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").partition("## `softprompt serve`")[2]
    looked = 0
    for options, defaults in re.findall(r"^\| ([^|]*`[^|]*) \| ([0-9, ]+) \|", page, re.M):
        names = re.findall("`(--[a-z-]+)`", options.partition(";")[0])
        for name, said in zip(names, defaults.split(", "), strict=True):
            assert re.search(rf"^\* `{name} .*(?:default: |else ){said}\b", helped.partition("\n## ")[0], re.M), name
            looked += 1
    assert looked > 9


def test_every_code_of_an_error_is_in_the_docs() -> None:
    """Those of a console's pages apart, which are for people."""
    http = ROOT / "src" / "softprompt" / "http"
    files = [file for file in [*http.rglob("*.py"), *http.parent.glob("deploy/*.py")] if "console" not in file.parts]
    codes = {code for file in files for code in re.findall(r'code="([a-z_]+)"', file.read_text(encoding="utf-8"))}
    assert len(codes) > 20
    pages = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("serving.md", "ray.md"))
    assert {code for code in codes if f"`{code}`" not in pages} == set()


def test_every_counter_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").partition("## Watch it")[2].partition("## The end")[0]
    source = "".join(
        (ROOT / "src" / "softprompt" / file).read_text(encoding="utf-8")
        for file in ("serving/monitor.py", "http/traffic.py", "lifecycle/drift/watch.py")
    )
    made = r'(?:counter|histogram|gauge)\(\s*"(\w+)"|\(\s*(?:gauge|counter),\s*"(\w+)"|"softprompt_(\w+)"'
    names = {name for found in re.findall(made, source) for name in found if name}
    assert len(names) > 25
    assert {name for name in names if f"`{name}`" not in page and f"`softprompt_{name}`" not in page} == set()


def test_commands_that_messages_and_pages_name_are_there_with_their_options() -> None:
    """What stands in backticks behind `softprompt`, in the source, the console's templates and all pages."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    there: dict[str, set[str]] = {}
    for part in re.split(r"^##+ `softprompt ", page, flags=re.M)[1:]:
        name, _, rest = part.partition("`")
        options = [line for line in rest.splitlines() if line.startswith("* `")]
        there[name] = set(re.findall(r"--[a-z][a-z-]+", "\n".join(options))) | {"--home", "--tenant", "--help", "--json"}
    source = [file for end in ("py", "html") for file in (ROOT / "src").rglob(f"*.{end}")]
    named = 0
    for file in [*source, *(one for one in PAGES if one.name not in ("LOG.md", "commands.md"))]:
        text = re.sub(r'"\n\s+f?"', "", file.read_text(encoding="utf-8"))  # a message over two lines
        for words, given in re.findall(r"`softprompt ([a-z][a-z-]+(?: [a-z]+)?)([^`\n]*)`", text):
            name = next((one for one in (words, words.split()[0]) if one in there), None)
            assert name is not None, f"{file}: softprompt {words}"
            options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", given))
            assert options <= there[name], f"{file}: softprompt {words}{given}"
            named += 1
    assert named > 200


def test_every_benchmark_is_on_the_page_of_benchmarks() -> None:
    scripts = {file.name for file in (ROOT / "benchmarks").glob("*.py") if "__main__" in file.read_text(encoding="utf-8")}
    assert (
        set(re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), re.M))
        == scripts
    )


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    page = (tmp_path / "site" / "concepts" / "index.html").read_text(encoding="utf-8")
    assert 'href=".."' in page, "the README is the first page, and links lead to it"
    assert 'href="../log/"' in (tmp_path / "site" / "limits" / "index.html").read_text(encoding="utf-8")


def test_notebooks_are_kept_without_what_they_printed() -> None:
    notebooks = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
    assert len(notebooks) == 3
    for file in notebooks:
        assert file.name in (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            printed = [*(cell.get("outputs") or []), *filter(None, [cell.get("execution_count")])]
            assert printed == [], f"clear the outputs of {file.name}"


def test_the_task_file_in_the_readme_parses() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert parse_config(yaml.safe_load(block)).task == "trec6"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
