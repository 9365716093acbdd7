"""A proxy that has asked people who they are: its token counts, and the name that it tells."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pacspark.errors import UsageError
from pacspark.gateway.config import read_config
from pacspark.gateway.server import Gateway
from pacspark.gateway.web.access import hashed_token
from pacspark.gateway.web_config import WebConfig, WebUser
from pacspark.tables.catalog import Catalog
from tests.ct_objects import STUDY_UID, steps_archive
from tests.gateway.http import client_of

HEADER = "X-Forwarded-Email"
STUDY = f"/dicom-web/studies/{STUDY_UID}"
USERS = (
    WebUser("oidc", token=hashed_token("proxy"), user_header=HEADER),
    WebUser("station", token=hashed_token("station")),
)


def test_person_behind_a_proxy__is_in_the_audit(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    steps_archive(tmp_path / "archive")
    gateway = start_gateway(web=WebConfig(users=USERS))
    with client_of(gateway) as client:
        statuses = [
            client.get(STUDY, headers=headers).status_code
            for headers in (
                {"Authorization": "Bearer proxy", HEADER: "jane@example.org"},
                {"Authorization": "Bearer proxy"},
                {"Authorization": "Bearer proxy", HEADER: "x" * 200},
                {HEADER: "jane@example.org"},
                {"Authorization": "Bearer station", HEADER: "jane@example.org"},
            )
        ]
    assert statuses == [200, 401, 401, 401, 200]
    gateway.audit.flush()
    rows = Catalog(gateway.storage).table("audit").to_pylist()
    assert [row["actor"] for row in rows] == ["jane@example.org", "oidc", "oidc", "station"]


def test_header__is_read_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    text = '[[web.users]]\nname = "oidc"\ntoken = "{}"\nuser_header = "{}"\n'
    path.write_text(text.format(hashed_token("proxy"), HEADER))
    assert read_config(path).web.users == USERS[:1]
    path.write_text(text.format(hashed_token("proxy"), "X Y"))
    with pytest.raises(UsageError, match=r"web.users\[0\].user_header: expected the name of a hea"):
        read_config(path)
