"""Much at once: others are served meanwhile, and memory stays bounded."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import Event, Lock, get_ident
from typing import Any, Final

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom.pixels.utils import pixel_array

from pacspark.gateway.limits import Room
from pacspark.gateway.server import Gateway
from pacspark.gateway.web import frames
from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.http import client_of, stow
from tests.gateway.web_objects import ct, instance


def test_address__that_asks_for_much_leaves_threads_for_others(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = Event(), Event()

    def search(*_: object) -> list[Any]:
        began.set()
        goes_on.wait(60)
        return []

    monkeypatch.setattr("pacspark.gateway.web.query.search", search)
    other = httpx.HTTPTransport(local_address="127.0.0.2")
    with client_of(gateway) as client, ThreadPoolExecutor(80) as threads:
        limits = httpx.Limits(max_connections=None)
        with (
            client_of(gateway, limits=limits) as many,
            client_of(gateway, transport=other) as honest,
        ):
            asked = [threads.submit(many.get, "/dicom-web/studies") for _ in range(80)]
            try:
                assert began.wait(30)
                assert honest.get("/status", timeout=20).status_code == 200
            finally:
                goes_on.set()
            assert {one.result().status_code for one in asked} == {204}
        assert client.get("/dicom-web/studies").status_code == 204


@pytest.mark.parametrize("form", ["/rendered", "/thumbnail", "/frames/1/rendered"])
def test_pictures__are_drawn_as_far_as_there_is_room(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    busy: set[int] = set()
    most: list[int] = []

    def counted(*given: Any, **more: Any) -> Any:
        busy.add(get_ident())
        most.append(len(busy))
        try:
            return pixel_array(*given, **more)
        finally:
            busy.discard(get_ident())

    monkeypatch.setattr(frames, "pixel_array", counted)
    monkeypatch.setattr(frames, "DECODING", Room(1))
    with client_of(gateway) as client, ThreadPoolExecutor(8) as threads:
        assert stow(client, ct(1)).status_code == 200
        answers = list(threads.map(lambda _: client.get(instance(1) + form), range(24)))
    assert {one.status_code for one in answers} == {200}
    assert (len(most), max(most)) == (24, 1)


@pytest.mark.parametrize(
    "viewport", ["viewport=2000,1000", "viewport=2000,1000,,,,", "columns=2000&rows=1000"]
)
def test_picture__in_a_large_viewport_has_room_for_what_is_drawn(
    filled: httpx.Client, monkeypatch: pytest.MonkeyPatch, viewport: str
) -> None:
    class Watched(Room):
        held: Final[list[int | None]] = []

        def hold(self, size_bytes: int | None) -> Any:
            self.held.append(size_bytes)
            return super().hold(size_bytes)

    monkeypatch.setattr(frames, "DECODING", Watched(1 << 30))
    asked = f"studyUID={STUDY_UID}&seriesUID={SERIES_UID}&objectUID={SERIES_UID}.1"
    path = instance(1) + "/rendered" if "view" in viewport else f"/wado?requestType=WADO&{asked}"
    answer = filled.get(f"{path}{'&' if '?' in path else '?'}{viewport}")
    assert answer.status_code == 200
    picture = Image.open(BytesIO(answer.content))
    assert 1000 in picture.size or 2000 in picture.size
    assert Watched.held[0] is not None
    assert Watched.held[0] >= 3 * picture.width * picture.height


def test_picture__of_many_strips_is_one_picture(gateway: Gateway) -> None:
    pixels = np.arange(2100 * 1000, dtype=np.uint32).reshape(2100, 1000) // 40
    image = ct_image(
        pixels.astype(np.uint16), 1, (0.0, 0.0, 0.0), PhotometricInterpretation="MONOCHROME1"
    )
    with client_of(gateway) as client:
        assert stow(client, encoded(image)).status_code == 200
        answer = client.get(f"{instance(1)}/rendered", headers={"Accept": "image/png"})
    drawn = np.asarray(Image.open(BytesIO(answer.content)))
    assert np.array_equal(drawn, np.rint((1 - pixels / pixels.max()) * 255).astype(np.uint8))


def test_room__is_given_in_turn_and_once_to_a_thread() -> None:
    room, lock, held, most = Room(100), Lock(), [0], [0]

    def work(size: int) -> None:
        with room.hold(size), room.hold(size):
            with lock:
                held[0] += min(size, 100)
                most[0] = max(most[0], held[0])
            Event().wait(0.002)
            with lock:
                held[0] -= min(size, 100)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, [30, 1000, 60, 10] * 20))
    assert 0 < most[0] <= 100
    with pytest.raises(ZeroDivisionError), room.hold(None):
        _ = 1 / 0
    with room.hold(100):
        pass
