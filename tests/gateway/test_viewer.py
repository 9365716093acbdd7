"""The viewer: its files, how they are fetched, and OHIF itself in a browser."""

import io
import json
import os
import tarfile
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha512
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pacspark.cli import app
from pacspark.errors import StorageError, UsageError
from pacspark.gateway.config import read_config
from pacspark.gateway.server import Gateway
from pacspark.gateway.web import viewer_install
from pacspark.gateway.web.access import Credentials
from pacspark.gateway.web.viewer import viewer_folder
from tests.gateway.browser import watched
from tests.gateway.http import client_of, stow

FILES = {
    "package/package.json": b"{}",
    "package/dist/index.html": b"<html>OHIF</html>",
    "package/dist/app.bundle.js": b"run()",
    "package/dist/app.bundle.js.map": b"{}",
    "package/dist/0dd.wasm": b"\0asm",
    "package/dist/ort/ort.wasm": b"\0asm",
    "package/dist/dicom-microscopy-viewer/x.js": b"",
    "package/dist/google.js": b"track()",
    "package/dist/sw.js": b"",
    "package/dist/app-config.js": b"theirs",
    "package/dist/assets/images/CT-Bone.png": b"\x89PNG",
    "package/dist/../../../../outside": b"no",
}


def tarball(folder: Path, names: list[str]) -> Path:
    path = folder / "ohif.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(FILES[name])
            archive.addfile(member, io.BytesIO(FILES[name]))
    return path


def known(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    digest = b64encode(sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(viewer_install, "INTEGRITY", f"sha512-{digest}")
    return path


def test_install__keeps_what_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = known(tarball(tmp_path, list(FILES)[:-1]), monkeypatch)
    folder = tmp_path / "cache" / "ohif"
    size = viewer_install.install(folder, path)
    found = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}
    assert found == {"index.html", "app.bundle.js", "0dd.wasm", "assets/images/CT-Bone.png"}
    assert size == sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    assert [one.name for one in folder.parent.iterdir()] == ["ohif"]


def test_install__refuses_another_tarball_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tarball(tmp_path, list(FILES)[:-1])
    with pytest.raises(UsageError, match=r"expected @ohif/app@3\.13\.2 with sha512-WZdxmp"):
        viewer_install.install(tmp_path / "cache" / "ohif", path)
    path = known(tarball(tmp_path, list(FILES)), monkeypatch)
    with pytest.raises(UsageError, match=r"found package/dist/\.\./"):
        viewer_install.install(tmp_path / "cache" / "ohif", path)
    assert not list((tmp_path / "cache").iterdir())
    assert not list(tmp_path.rglob("outside"))


def test_install__of_a_package_without_files_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = known(tarball(tmp_path, []), monkeypatch)
    folder = tmp_path / "viewer"
    folder.mkdir()
    (folder / "index.html").write_text("before")
    with pytest.raises(UsageError, match="found none"):
        viewer_install.install(folder, path)
    assert (folder / "index.html").read_text() == "before"


@pytest.mark.parametrize(
    ("script", "said"), [("exec sleep 60", "an end within"), (r"printf '\377' >&2; false", "npm")]
)
def test_install__by_an_npm_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(viewer_install, "_TIMEOUT_S", 0.2)
    with pytest.raises(StorageError, match=said):
        viewer_install.install(tmp_path / "viewer")


def test_viewer__is_a_single_page_application(
    start_gateway: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACSPARK_CACHE", str(tmp_path / "cache"))
    path = known(tarball(tmp_path, list(FILES)[:-1]), monkeypatch)
    viewer_install.install(viewer_folder(), path)
    with client_of(start_gateway()) as client:
        for page in (
            "/",
            "/viewer?StudyInstanceUIDs=1.2.3",
            "/index.html",
            "/any",
            "/..%2f..%2fetc%2fpasswd",
        ):
            assert client.get(page).text == "<html>OHIF</html>"
        wasm = client.get("/0dd.wasm")
        assert wasm.headers["content-type"] == "application/wasm"
        told = {"If-None-Match": wasm.headers["etag"]}
        assert client.get("/0dd.wasm", headers=told).status_code == 304
        config = client.get("/app-config.js").text
        source = json.loads(config.removeprefix("window.config = ").rstrip(";\n"))["dataSources"][0]
        assert source["configuration"]["qidoRoot"] == "/dicom-web"
        for path_ in ("/google.js", "/dicom-web", "/%2e%2e/x.js"):
            assert client.get(path_).status_code == 404
        lost = client.get("/studies", headers={"Accept": "application/dicom+json"})
        assert (lost.status_code, "DICOMweb is below /dicom-web" in lost.text) == (404, True)
        assert "<title>pacspark</title>" in client.get("/simple").text


def test_viewer__that_is_not_installed_says_so(
    start_gateway: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACSPARK_CACHE", str(tmp_path / "none"))
    with client_of(start_gateway()) as client:
        lost = client.get("/viewer?StudyInstanceUIDs=1.2.3")
        assert (lost.status_code, "OHIF is not installed" in lost.text) == (404, True)
        assert "<title>pacspark</title>" in client.get("/").text


def test_credential__is_what_the_configuration_takes(tmp_path: Path) -> None:
    runner = CliRunner()
    lines = runner.invoke(app, ["credential", "radiology"], input="see\n").stdout
    token = runner.invoke(app, ["credential", "station", "--token", "--scope", "write"])
    path = tmp_path / "gateway.toml"
    path.write_text(f"[web]\nanonymous = []\n{lines}{token.stdout}")
    users = read_config(path).web.users
    assert [(user.name, user.scopes) for user in users] == [
        ("radiology", ("read",)),
        ("station", ("write",)),
    ]
    wrong = runner.invoke(app, ["credential", "station", "--token", "--scope", "rite"])
    assert isinstance(wrong.exception, UsageError)
    assert "--scope: expected some of read, write, delete" in str(wrong.exception)
    credentials = Credentials(users)
    basic = b64encode(b"radiology:see").decode()
    assert credentials.proven(f"Basic {basic}") == users[0]
    assert credentials.proven(f"Basic {b64encode(b'radiology:no').decode()}") is None
    secret = token.stderr.rpartition(" ")[2].strip()
    assert credentials.known(f"Bearer {secret}") == users[1]
    assert secret not in token.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[web]\nanonymus = []", "web.anonymus"),
        ('[web]\nanonymous = ["all"]', "web.anonymous: expected some of read, write"),
        ('[[web.users]]\nname = "x"', "web.users[0].password"),
        ('[[web.users]]\nname = "x"\npassword = "plain"', "pacspark credential"),
        ('[web]\npublic_url = "javascript:x"', "web.public_url"),
        ("[web.limits]\nparts = 0", "web.limits.parts"),
        ('[web]\nenabled = "no"', "web.enabled"),
    ],
)
def test_config__of_the_web_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert said in str(caught.value)
    assert "plain" not in str(caught.value)  # what may be a secret is not repeated


@pytest.mark.slow
def test_ohif__lists_a_study_and_shows_its_pixels(
    start_gateway: Callable[..., Gateway], shared_data: Path, tmp_path: Path
) -> None:
    gateway = start_gateway()
    folder = shared_data / "dicom/dcm_qa_ct-philips-S21570-S2010/In"
    with client_of(gateway) as client:
        files = [path.read_bytes() for path in folder.rglob("I*") if path.is_file()]
        assert stow(client, *files).status_code in {200, 202}
        (study,) = client.get("/dicom-web/studies").json()
    uid = study["0020000D"]["Value"][0]
    seen = watched(gateway, "watch_viewer.mjs", "TRAUMA", uid, str(tmp_path))
    assert "TRAUMA" in seen["row"]
    assert seen["greys"] >= 32
    assert seen["plain"] == ["15 / 28", 512, 128]
