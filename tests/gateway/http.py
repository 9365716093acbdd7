"""A client of DICOMweb as bare as can be: what is on the wire, and nothing remembered."""

from collections.abc import Iterable
from email import message_from_bytes
from email.message import Message
from typing import Any

import httpx

from pacspark.gateway.server import Gateway

BOUNDARY = "a-boundary"
STORE_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def client_of(gateway: Gateway, **options: Any) -> httpx.Client:
    """Give a client whose paths begin at the gateway."""
    assert gateway.web is not None
    base = f"http://127.0.0.1:{gateway.web.port}"
    return httpx.Client(base_url=base, timeout=60, trust_env=False, **options)


def body_of(objects: Iterable[bytes], boundary: str = BOUNDARY) -> bytes:
    """Write objects as the parts of one body."""
    parts = [
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + one + b"\r\n"
        for one in objects
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def stow(client: httpx.Client, *objects: bytes, path: str = "/dicom-web/studies") -> httpx.Response:
    """Store objects."""
    return client.post(path, content=body_of(objects), headers={"Content-Type": STORE_TYPE})


def parts_of(answer: httpx.Response) -> list[tuple[Message, bytes]]:
    """Take an answer in parts apart; the standard library's parser is an independent one."""
    boundary = answer.headers["content-type"].rpartition("boundary=")[2].strip('"').encode()
    found = []
    *pieces, last = answer.content.split(b"--" + boundary)
    assert last == b"--\r\n"
    assert pieces[0] == b""
    for piece in pieces[1:]:
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        assert data.endswith(b"\r\n")
        found.append((message_from_bytes(head + b"\r\n\r\n"), data[:-2]))
    return found


def values(elements: dict[str, Any], tag: str) -> list[Any]:
    """Give the values of an element of DICOM JSON."""
    found: list[Any] = elements.get(tag, {}).get("Value", [])
    return found
