"""What schemathesis makes of the OpenAPI description: every answer is one that it has."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.server import Gateway
from pacspark.gateway.web.media import DICOM, MULTIPART
from pacspark.gateway.web_config import WebConfig, WebLimits
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.ct_objects import SERIES_UID, STUDY_UID
from tests.gateway.conftest import LIMITS
from tests.gateway.http import STORE_TYPE, body_of, client_of, stow
from tests.gateway.web_objects import ct

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance, unsupported_method,
]  # fmt: skip
KNOWN = {"study": STUDY_UID, "series": SERIES_UID, "instance": f"{SERIES_UID}.1", "frames": "1"}


def content_of(value: object) -> bytes:
    """Give what is to be an object, whatever it is, as bytes."""
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogatepass")


@schemathesis.serializer(DICOM)
def as_body(_context: object, value: object) -> bytes:
    return content_of(value)


@schemathesis.serializer(MULTIPART)
def as_part(_context: object, value: object) -> bytes:
    return body_of([content_of(value)])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    storage = open_storage(tmp_path_factory.mktemp("openapi") / "archive")
    create_tables(storage)
    everything = WebConfig(
        anonymous=("read", "write", "delete"), limits=WebLimits(requests_per_minute=10**7)
    )
    config = GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS, web=everything)
    with Gateway(storage, config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def description(gateway: Gateway) -> Any:
    assert gateway.web is not None
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{gateway.web.port}/openapi.json")


def test_description__has_every_route(description: Any) -> None:
    paths = description.raw_schema["paths"]
    assert {"get", "post"} <= paths["/dicom-web/studies"].keys()
    assert set(paths["/dicom-web/studies/{study}"]) == {"get", "post", "delete"}
    assert len(paths) > 25
    assert "/{path:path}" not in paths


@pytest.mark.parametrize("examples", [2, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("known", [True, False], ids=["known", "any"])
def test_requests__are_answered_as_described(
    gateway: Gateway, description: Any, known: bool, mode: GenerationMode, examples: int
) -> None:
    asked = 0
    with client_of(gateway) as client:
        for result in description.get_all_operations():
            assert stow(client, ct(1), ct(2)).status_code == 200  # unless the last one deleted it
            operation = result.ok()
            of_path = {one.name for one in operation.path_parameters} if known else set()
            given_parts = {name: KNOWN[name] for name in of_path if name in KNOWN}
            cases = operation.as_strategy(mode, path_parameters=given_parts or None)

            @seed(examples)
            @settings(
                max_examples=examples, deadline=None, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=cases)
            def ask(case: Any) -> None:
                nonlocal asked
                asked += 1
                is_parts = str(case.media_type).startswith(MULTIPART)
                case.call_and_validate(
                    checks=CHECKS, headers={"Content-Type": STORE_TYPE} if is_parts else None
                )

            with suppress(Unsatisfiable):  # where nothing but what is given can be wrong
                ask()
    assert asked > 10 * examples
