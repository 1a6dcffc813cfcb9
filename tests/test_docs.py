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
