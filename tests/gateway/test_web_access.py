"""Who may ask what of DICOMweb, and how much: deletes, users, rates, hosts, connections, TLS."""

import json
from collections.abc import Callable

import httpx
import pytest

from pacspark.gateway.server import Gateway
from pacspark.gateway.web.access import hashed_password, hashed_token
from pacspark.gateway.web_config import WebConfig, WebLimits, WebUser
from pacspark.tables.catalog import Catalog
from pacspark.tables.holds import set_hold
from tests.ct_objects import SERIES_UID, STUDY_UID
from tests.gateway.http import client_of, parts_of, stow
from tests.gateway.web_objects import SERIES, STUDY, ct, instance


def test_delete__needs_its_scope_and_is_one_commit(start_gateway: Callable[..., Gateway]) -> None:
    web = WebConfig(anonymous=("read", "write", "delete"))
    gateway = start_gateway(web=web)
    with client_of(gateway) as client:
        stow(client, ct(1), ct(2), ct(3))
        assert client.delete(instance(2)).status_code == 204
        assert client.get(instance(2)).status_code == 404
        assert len(client.get("/dicom-web/instances").json()) == 2
        assert client.delete(STUDY).status_code == 204
        assert client.get("/dicom-web/studies").status_code == 204
        assert client.delete(STUDY).status_code == 404
    assert Catalog(gateway.storage).table("instances", ["sop_instance_uid"]).num_rows == 0


def test_delete__of_a_study_on_hold_is_a_conflict(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(web=WebConfig(anonymous=("read", "write", "delete")))
    with client_of(gateway) as client:
        assert stow(client, ct(1)).status_code == 200
        gateway.store.flush()
        set_hold(gateway.storage, STUDY_UID, reason="case 4711")
        assert client.delete(STUDY).status_code == 409
        assert client.get(instance(1)).status_code == 200


def test_delete__of_a_series_leaves_what_another_study_has_under_its_uid(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway(web=WebConfig(anonymous=("read", "write", "delete")))
    with client_of(gateway) as client:
        assert stow(client, ct(1), ct(2, StudyInstanceUID="1.2.3")).status_code == 200
        series = f"/dicom-web/studies/1.2.3/series/{SERIES_UID}"
        assert client.delete(series).status_code == 204
        assert client.get(series).status_code == 404
        assert client.get(instance(1)).status_code == 200


def test_delete__is_not_for_anybody(filled: httpx.Client) -> None:
    assert filled.delete(STUDY).status_code == 403
    assert filled.get(instance(1)).status_code == 200


USERS = (
    WebUser("reader", password=hashed_password("see"), scopes=("read",)),
    WebUser("other", password=hashed_password("too")),
    WebUser("station", token=hashed_token("secret-token"), scopes=("read", "write")),
)


@pytest.mark.parametrize(
    "told", [b"Basic \xe9\xe9", b"Basic !", b"Basic /w==", b"Basic", b"Bearer \xe9"]
)
def test_credentials__that_are_none_are_nobodys(
    start_gateway: Callable[..., Gateway], told: bytes
) -> None:
    with client_of(start_gateway(web=WebConfig(users=USERS))) as client:
        headers = {b"Authorization": told}
        assert client.get("/dicom-web/studies", headers=headers).status_code == 401


def test_users__do_what_their_scopes_say(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(web=WebConfig(users=USERS))
    with client_of(gateway) as nobody:
        for path in ("/dicom-web/studies", "/metrics", "/status", STUDY):
            refused = nobody.get(path)
            assert refused.status_code == 401
            assert "Basic" in refused.headers["www-authenticate"]
        assert stow(nobody, ct(1)).status_code == 401
        assert nobody.get("/healthz").text == "ok\n"
        assert nobody.get("/dicom-web/studies", auth=("reader", "wrong")).status_code == 401
        assert nobody.get("/dicom-web/studies", auth=("station", "")).status_code == 401
    with client_of(gateway, headers={"Authorization": "Bearer secret-token"}) as station:
        assert stow(station, ct(1)).status_code == 200
        assert station.delete(STUDY).status_code == 403
    with client_of(gateway, auth=("reader", "see")) as reader:
        assert parts_of(reader.get(STUDY))[0][1] == ct(1)
        assert stow(reader, ct(2)).status_code == 403
    gateway.store.flush()
    (row,) = Catalog(gateway.storage).table("instances", ["source"]).to_pylist()
    assert row["source"] == "http://station@127.0.0.1"
    gateway.audit.flush()
    (stored,) = (row for row in Catalog(gateway.storage).table("audit").to_pylist()
                 if row["action"] == "store")  # fmt: skip
    assert json.loads(stored["detail"])["studies"] == [STUDY_UID]
    told = Catalog(gateway.storage).table("audit").to_pylist()
    assert {(row["actor"], row["action"], row["level"]) for row in told} == {
        ("anonymous", "sign in", None),
        ("station", "store", None),
        ("reader", "retrieve", "study"),
    }


def test_guesses__of_credentials_are_few(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(web=WebConfig(users=USERS))
    with client_of(gateway) as client:

        def status(password: str, name: str = "reader", **headers: str) -> int:
            answer = client.get("/dicom-web/studies", auth=(name, password), headers=headers)
            return answer.status_code

        assert status("see") == 204
        assert [status(f"guess-{number}") for number in range(10)] == [401] * 10
        assert {status(f"guess-{number}") for number in range(4)} == {429}
        # nor is it another address because it says so, nor the password that was guessed at last
        assert status("guess", **{"X-Forwarded-For": "10.1.2.3"}) == 429
        assert status("too", "other") == 429
        assert status("see") == 204
        token = {"Authorization": "Bearer secret-token"}
        assert client.get("/dicom-web/studies", headers=token).status_code == 204


def test_address__is_that_of_the_connection(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()
    with client_of(gateway, headers={"X-Forwarded-For": "10.1.2.3"}) as client:
        assert stow(client, ct(1)).status_code == 200
    gateway.audit.flush()
    (row,) = Catalog(gateway.storage).table("audit").to_pylist()
    assert row["address"] == "127.0.0.1"


def test_rates__are_bounded_for_each_address(start_gateway: Callable[..., Gateway]) -> None:
    limits = WebLimits(requests_per_minute=30)
    with client_of(start_gateway(web=WebConfig(limits=limits))) as client:
        statuses = [client.get("/healthz").status_code for _ in range(14)]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses[10:]


def test_host__of_somebody_else_is_refused(filled: httpx.Client) -> None:
    answer = filled.get("/dicom-web/studies", headers={"Host": "evil.example"})
    assert (answer.status_code, "hosts under [web]" in answer.text) == (400, True)


def test_cors__is_for_the_origins_that_are_configured(
    start_gateway: Callable[..., Gateway], filled: httpx.Client
) -> None:
    origin = "https://viewer.example"
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    assert "access-control-allow-origin" not in filled.get("/healthz", headers=asked).headers
    web = WebConfig(cors_origins=(origin,))
    with client_of(start_gateway(web=web)) as other:
        told = other.options("/dicom-web/studies", headers=asked)
        assert told.headers["access-control-allow-origin"] == origin
        bad = other.get("/healthz", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in bad.headers


def test_metrics__count_requests_and_instances(filled: httpx.Client) -> None:
    assert filled.get("/dicom-web/studies/1.2.3").status_code == 404
    text = filled.get("/metrics").text
    assert "pacspark_instances 3.0" in text
    assert 'pacspark_http_requests_total{method="GET",route="get study",status="404"}' in text
    assert "python_info" not in text


def test_metrics__tell_of_failures_of_both_doors(
    start_gateway: Callable[..., Gateway], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start_gateway(web=WebConfig(users=USERS))
    gateway.audit.record("CT1", "10.0.0.1", "store", "stored")
    gateway.audit.record("CT1", "10.0.0.1", "store", "failed: no room\nleft")
    gateway.store.landing.reserve_bytes = 1 << 60
    with client_of(gateway) as client:
        assert "nobody's" in client.get("/status", auth=("reader", "wrong")).text
        text = client.get("/metrics", auth=("reader", "see")).text
        told = client.get("/status", auth=("reader", "see"), headers={"Accept": "application/json"})
    assert 'pacspark_accesses_total{action="store",outcome="success"} 1.0' in text
    assert 'pacspark_accesses_total{action="store",outcome="failure"} 1.0' in text
    assert 'pacspark_accesses_total{action="sign in",outcome="failure"} 1.0' in text
    assert "pacspark_landing_free_bytes -" in text
    assert "pacspark_tables_fail 0.0" in text
    assert told.json()["bytes that its disk can take in"] < 0
    assert "CT1 at 10.0.0.1: store: failed: no room?left" in caplog.text
    assert "anonymous at 127.0.0.1: sign in: failed: unknown credentials" in caplog.text


def test_pages__are_there_without_a_viewer(filled: httpx.Client) -> None:
    assert "<title>pacspark</title>" in filled.get("/simple").text
    told = filled.get("/status", headers={"Accept": "application/json"}).json()
    assert told["instances"] == 3
    assert told["HTTP requests"] >= told["HTTP requests in the last minute"] >= 3
    assert (told["objects received"], told["objects received in the last minute"]) == (3, 3)
    assert "<td>3</tr>" in filled.get("/status").text
    assert filled.get("/app-config.js").text.startswith("window.config = {")
    assert filled.get("/no-such-file.js").status_code == 404
    assert filled.post("/dicom-web/series").status_code == 405


def test_head__is_answered_without_a_body(filled: httpx.Client) -> None:
    for path in (f"{SERIES}/metadata", instance(1), "/simple", "/healthz"):
        answer = filled.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_options__tell_what_can_be_asked(filled: httpx.Client) -> None:
    answer = filled.options(STUDY)
    assert answer.status_code == 200
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"
    assert answer.json()["paths"] == filled.get("/openapi.json").json()["paths"]


def test_gateway__with_the_web_off_has_no_door(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(web=WebConfig(enabled=False))
    assert gateway.web is None
    assert gateway.addresses()["http_port"] is None
