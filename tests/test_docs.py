"""The documents hold what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from softprompt.tasks.config import TaskConfig, parse_config

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


def test_the_task_file_in_the_readme_parses() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert parse_config(yaml.safe_load(block)).task == "trec6"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
