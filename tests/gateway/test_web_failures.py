"""What goes wrong over HTTP has its own status, its count, and no row that says success."""

import pytest

from pacspark.errors import StorageError
from pacspark.gateway.server import Gateway
from tests.gateway.http import client_of, stow
from tests.gateway.test_web_forms import URI, lossy
from tests.gateway.web_objects import ct, instance

LITTLE = "1.2.840.10008.1.2.1"


def test_error__of_the_gateway_is_one_line_and_counted(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pacspark.gateway.web.query.search", lambda *_: 1 / 0)
    with client_of(gateway) as client:
        answer = client.get("/dicom-web/studies")
        assert (answer.status_code, answer.json()["status"]) == (500, 500)
        counted = 'pacspark_http_requests_total{method="GET",route="get studies",status="500"} 1.0'
        assert counted in client.get("/metrics").text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("path", ["/frames/1", "/frames/1/rendered", "/rendered"])
def test_bytes__that_cannot_be_read_now_are_503(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with client_of(gateway) as client:
        assert stow(client, ct(1)).status_code == 200
        gateway.store.flush()
        read_range = gateway.store.read_range

        def fail(one: object, start: int, length: int, row: object = None) -> bytes:
            if start == 0:  # the header
                return read_range(one, start, length)  # type: ignore[arg-type]
            message = "the disk is away"
            raise StorageError(message)

        monkeypatch.setattr(gateway.store, "read_range", fail)
        assert client.get(instance(1) + path).status_code == 503
    assert gateway.audit.counts["retrieve", True] == 0


@pytest.mark.parametrize(
    "asked",
    [
        (f"{URI}.2&contentType=application/dicom&transferSyntax={LITTLE}", "*/*"),
        (instance(2), f"application/dicom; transfer-syntax={LITTLE}"),
        (f"{instance(2)}/frames/1", f"application/octet-stream; transfer-syntax={LITTLE}"),
    ],
    ids=["uri", "object", "frame"],
)
def test_object__that_was_refused_has_no_row_of_success(
    gateway: Gateway, asked: tuple[str, str]
) -> None:
    path, accept = asked
    with client_of(gateway) as client:
        assert stow(client, lossy(2)).status_code == 200
        assert client.get(path, headers={"Accept": accept}).status_code == 406
    assert gateway.audit.counts["retrieve", True] == 0
