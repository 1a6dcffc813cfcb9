"""The server's own description: it can be read, it is true, and nothing made from it brings a route down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import openapi_spec_validator
import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from softprompt.bases.base import FrozenBase
from softprompt.http.routes.batches import batch_routes
from softprompt.http.routes.files import file_routes
from softprompt.http.routes.jobs import job_routes
from softprompt.library.library import Library
from tests.http_server import Running, fill, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        with serving(
            library,
            base,
            routers=[file_routes(library), batch_routes(library), job_routes(library, {base.name: str(base_folder)})],
        ) as found:
            yield found


@pytest.fixture(scope="module")
def document(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.http.get(f"{running.url}/openapi.json").json()
    return found


def test_it_is_valid_and_every_part_has_words(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document)
    assert document["info"]["title"] == "softprompt"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["description"] if operation["tags"] != ["training"] else True, (method, path)
            assert "422" not in operation["responses"], (method, path)
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description") or name.startswith("Body_"), name  # those are forms, named by FastAPI


def test_every_answer_in_json_has_a_shape(document: dict[str, Any]) -> None:
    shapes = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation["responses"]["200"]["content"]
            if "application/json" in content:
                shapes[f"{method} {path}"] = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert shapes["get /v1/files"] == "FileList"
    assert shapes["post /v1/fine_tuning/jobs"] == "JobObject"
    assert len(shapes) == 29
    fields = document["components"]["schemas"]["EventObject"]["properties"]
    assert list(fields) == ["id", "object", "created_at", "level", "type", "message", "data"]


def test_unsupported_fields_are_told_apart(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert "Not supported" in fields["tools"]["description"]
    assert "Not supported" not in fields["n"]["description"]


def test_nothing_made_from_it_brings_a_route_down(running: Running, document: dict[str, Any]) -> None:
    statuses: Counter[int] = Counter()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        _try(found.ok(), running, statuses)
    assert set(statuses) <= {200, 400, 404, 405, 413, 429}
    assert min(statuses[200], statuses[400], statuses[404]) > 5  # they got past the door


def _try(operation: Any, running: Running, statuses: Counter[int]) -> None:
    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        derandomize=True,
        database=None,
    )
    @hypothesis.given(case=operation.as_strategy(), model=st.sampled_from(["tell", "kind@1", "tiny-llama", None]))
    def attempt(case: Any, model: str | None) -> None:
        if isinstance(case.body, dict) and model is not None:
            case.body["model"] = model  # what is made up names nothing
        answer = case.call(base_url=running.url, session=session)
        case.validate_response(answer, checks=[not_a_server_error])
        statuses[answer.status_code] += 1

    with requests.Session() as session:
        attempt()
