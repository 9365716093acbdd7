"""The gateway's TOML file: strict, one line for what is wrong."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pacspark.errors import UsageError
from pacspark.gateway.config import (
    SERVICES,
    Caller,
    Destination,
    GatewayConfig,
    Limits,
    ReconstructionConfig,
    Tls,
    read_config,
)
from pacspark.gateway.web_config import WebConfig, WebLimits, WebUser
from pacspark.tables.storage import open_storage

WHOLE = """
ae_title = "ARCHIVE"
host = "0.0.0.0"
dimse_port = 104
http_port = 0
allow_unencrypted = true
landing = "landing"
worklist = "/worklist"
private_sop_classes = ["1.2.3"]
[[destinations]]
ae_title = "VIEWER"
host = "viewer.local"
port = 11112
[[destinations]]
ae_title = "SAFE"
host = "10.0.0.7"
port = 2762
tls = true
[[callers]]
ae_title = "CT1"
address = "10.1.0.0/16"
services = ["echo", "store"]
[[callers]]
ae_title = "*"
address = "10.0.0.7"
[tls]
certificate = "cert.pem"
key = "key.pem"
client_ca = "ca.pem"
[limits]
associations = 7
idle_s = 2
[reconstructions]
voxels = 1000000000
at_once = 2
command = ["spark-submit", "pacspark.py"]
"""


def written(folder: Path, text: str) -> Path:
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (folder / name).touch()
    path = folder / "gateway.toml"
    path.write_text(text)
    return path


def test_whole_file__is_read(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, WHOLE)).checked()
    assert (config.ae_title, config.host, config.dimse_port, config.http_port) == (
        "ARCHIVE", "0.0.0.0", 104, 0,
    )  # fmt: skip
    assert config.landing == tmp_path / "landing"
    assert config.worklist == Path("/worklist")
    assert config.private_sop_classes == ("1.2.3",)
    assert config.destinations == {
        "VIEWER": Destination("VIEWER", "viewer.local", 11112),
        "SAFE": Destination("SAFE", "10.0.0.7", 2762, tls=True),
    }
    assert config.callers == (
        Caller("CT1", "10.1.0.0/16", ("echo", "store")),
        Caller("*", "10.0.0.7"),
    )
    assert config.tls == Tls(*(tmp_path / f"{name}.pem" for name in ("cert", "key", "ca")))
    assert config.limits == Limits(associations=7, idle_s=2.0)
    assert config.reconstructions == ReconstructionConfig(
        2, 20, ("spark-submit", "pacspark.py"), 10**9
    )


@pytest.mark.parametrize(
    "kind",
    [GatewayConfig, Destination, Caller, Tls, Limits, ReconstructionConfig, WebConfig, WebUser,
     WebLimits],
)  # fmt: skip
def test_documentation__has_every_key(kind: type) -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = "".join((docs / name).read_text() for name in ("gateway.md", "dicomweb.md"))
    written = set(re.findall(r"^\[*(?:web\.)?(\w+)(?: = |\])", text, re.MULTILINE))
    assert {one.name for one in fields(kind)} <= written


def test_callers__may_do_what_their_rows_say(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, WHOLE))
    assert config.services_of("CT1", "10.1.2.3") == {"echo", "store"}
    assert config.services_of("CT1", "10.0.0.7") == set(SERVICES)
    assert config.services_of("CT1", "10.2.0.1") == set()
    assert config.services_of("CT2", "10.1.2.3") == set()
    assert GatewayConfig().services_of("ANY", "1.2.3.4") == set(SERVICES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aetitle = 'X'", "aetitle: expected one of the keys .*did you mean ae_title"),
        ("ae_title = 'SEVENTEEN LETTERS'\nx = 1", "x: expected one of the keys"),
        ("dimse_port = '104'", "dimse_port: expected a whole number"),
        ("allow_unencrypted = 1", "allow_unencrypted: expected true or false, found 1"),
        ("private_sop_classes = ['a']", "private_sop_classes: expected UIDs"),
        ("[limits]\npdu = 1", r"limits.pdu: expected one of the keys .*"),
        ("[limits]\nidle_s = -1", "limits.idle_s: expected a number > 0"),
        ("[limits]\nassociations = 0", "limits.associations: expected a whole number >= 1"),
        ("[reconstructions]\ncommand = []", "reconstructions.command: expected a program"),
        ("[reconstructions]\nat_once = 0", "reconstructions.at_once: expected a whole number >= 1"),
        ("destinations = 1", "destinations: expected tables"),
        ("[[destinations]]\nae_title = 'X'\nhost = 'h'\nport = 70000", r"destinations\[0\].port"),
        ("[[destinations]]\nae_title = 'A\\\\B'\nhost = 'h'\nport = 7", r"destinations\[0\].ae_t"),
        ("[[callers]]\nae_title = 'X'\naddress = '10'", r"callers\[0\].address: expected an IP"),
        ("[[callers]]\nae_title = 'X'\nservices = ['all']", r"callers\[0\].services: expected"),
        ("[tls]\ncertificate = 'none.pem'\nkey = 'key.pem'", "tls.certificate: expected a PEM"),
        ("[tls]\nkey = 'key.pem'", "tls.certificate: expected a text, found nothing"),
        ("a = [", "expected TOML"),
        ("\xff", "expected one of the keys|expected TOML"),
    ],
)
def test_wrong_file__is_one_line_with_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=said) as caught:
        read_config(path).checked()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file__is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a gateway's configuration, found No such file"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "hospital.example"])
def test_other_machines__are_served_in_plain_text_on_purpose_only(host: str) -> None:
    with pytest.raises(UsageError, match="allow_unencrypted"):
        GatewayConfig(host=host).checked()
    GatewayConfig(host=host, allow_unencrypted=True).checked()
    GatewayConfig(host=host, tls=Tls(Path("c"), Path("k"))).checked()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_this_machine__is_served_as_it_comes(host: str) -> None:
    GatewayConfig(host=host).checked()


@pytest.mark.parametrize("title", ["", " ", "SEVENTEEN LETTERS", "T\u00e4TEL", "A\\B", "A\nB"])
def test_ae_title__that_cannot_be_is_refused(title: str) -> None:
    with pytest.raises(UsageError, match="ae_title: expected an AE title"):
        GatewayConfig(ae_title=title).checked()


def test_landing__is_below_a_local_root_and_else_in_the_users_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GatewayConfig(ae_title="ONE")
    assert config.landing_folder(open_storage(tmp_path)) == tmp_path / "_landing" / "ONE"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = config.landing_folder(open_storage("s3://bucket/archive"))
    assert folder.parent.parent == tmp_path / "pacspark" / "landing"
