"""Pictures of frames: rendered resources and thumbnails (PS3.18 10.4.1.1.3), and WADO-URI (9).

::

    stored ── modality LUT ── window, or what the object says, or all of it ── 8 bits ── viewport
"""

import io
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from starlette.responses import Response

from pacspark.errors import PacsparkError, QueryError, TranscodingError, UnacceptableError
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.web.call import Call, etag_of, not_modified
from pacspark.gateway.web.frames import FrameSource
from pacspark.gateway.web.media import DICOM
from pacspark.gateway.web.retrieve import frame_numbers, given_in, ranged

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
_FORMATS: Final = {JPEG: "JPEG", PNG: "PNG", GIF: "GIF"}
_FUNCTIONS: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_NOT_DONE: Final = ("annotation", "imageAnnotation", "iccprofile", "presentationUID")
"""Parameters that no picture here shows anything of, which the answer says."""
Window = tuple[float, float, str]
"""Center, width and function."""
_THUMBNAIL_PIXELS: Final = 128
_MOST_SIDE: Final = 8192
_STRIP_PIXELS: Final = 1 << 20
_KEYS_OF_WINDOW: Final = ("WindowCenter", "WindowWidth", "VOILUTFunction")
_KEYS_OF_SCALE: Final = ("RescaleIntercept", "RescaleSlope", "RescaleType")


def rendered(call: Call, *, thumbnail: bool = False) -> Response:
    """Answer a picture of what the path names: of a series, of the instance in its middle."""
    instance = call.instance() if call.level == "instance" else _middle(call.instances())
    return _picture(call, instance, call.request.path_params.get("frames"), thumbnail=thumbnail)


def uri(call: Call) -> Response:
    """Answer a WADO-URI request: one object, or a picture of it."""
    told = call.request.query_params
    if told.get("requestType") != "WADO":
        message = f"requestType: expected WADO, found {told.get('requestType', '')[:64]!r}"
        raise QueryError(message)
    names = {"study": "studyUID", "series": "seriesUID", "instance": "objectUID"}
    for name, parameter in names.items():
        call.request.path_params[name] = told.get(parameter, "")
    instance = call.instance()
    kinds = [part.split(";")[0].strip() for part in told.get("contentType", JPEG).split(",")]
    if "anonymize" in told:
        # what is asked for with it may be shown to nobody as it is (PS3.18 9.4.2.3)
        message = (
            "anonymize: expected nothing, since it is not done here; `pacspark anonymize` does"
        )
        raise UnacceptableError(message)
    if DICOM not in kinds:
        return _picture(call, instance, told.get("frameNumber"), kinds=kinds)
    syntax = told.get("transferSyntax")
    _, data = given_in(call, instance, syntax)
    call.record("retrieve", "success", transfer_syntax=syntax)
    if data is None:
        headers = {"ETag": etag_of([instance], DICOM, "*")}
        return ranged(call, instance, 0, instance.size_bytes, DICOM, headers)
    return Response(data, media_type=DICOM)


def _middle(instances: list[StoredInstance]) -> StoredInstance:
    images = [one for one in instances if one.rows and one.columns]
    if not images:
        message = "expected an image, found none"
        raise UnacceptableError(message)
    first = [one for one in images if one.series_instance_uid == images[0].series_instance_uid]
    return first[len(first) // 2]


def _picture(
    call: Call,
    instance: StoredInstance,
    frames: str | None,
    *,
    kinds: list[str] | None = None,
    thumbnail: bool = False,
) -> Response:
    media_type = _media_type(call, kinds)
    asked = call.request.query_params
    etag = etag_of([instance], "picture", media_type, str(thumbnail), frames or "", str(asked))
    if call.has(etag):
        return not_modified(etag)
    source = FrameSource(call.store, instance, call.door.places.of(instance),
                         call.door.config.web.limits.rendered_pixels)  # fmt: skip
    if not source.count:
        message = f"{instance.sop_instance_uid}: expected an image, found none"
        raise UnacceptableError(message)
    number = source.count // 2 if frames is None and thumbnail else 0
    if frames is not None:
        number, *others = frame_numbers(frames, source.count)
        if others:
            message = "frames: expected one frame in one picture, found several"
            raise UnacceptableError(message)
    viewport = asked.get("viewport") or _pair(asked, "columns", "rows")
    quality = _count(asked.get("quality") or asked.get("imageQuality") or "90", "quality", 100)
    options = {"quality": quality} if media_type == JPEG else {}
    buffer = io.BytesIO()
    # a small image in a large viewport is a large picture
    with source.decoding(0 if viewport is None else math.prod(_size_of(viewport))):
        picture = _drawn(source, number, _window(asked))
        picture = _region(picture, asked.get("region"))
        picture = _in_viewport(picture, viewport, thumbnail=thumbnail)
        if media_type == GIF:
            picture = picture.convert("P")
        picture.save(buffer, _FORMATS[media_type], **options)
    call.record_reading(instance, "pictures")
    headers = {"ETag": etag, "Cache-Control": "private, max-age=60", "Vary": "Accept"}
    ignored = [name for name in _NOT_DONE if asked.get(name, "no") != "no"]
    if ignored:
        headers["Warning"] = f'299 pacspark "Not supported: {", ".join(ignored)}"'
    return Response(buffer.getvalue(), media_type=media_type, headers=headers)


def _media_type(call: Call, kinds: list[str] | None) -> str:
    if kinds is not None:
        found = [kind for kind in kinds if kind in _FORMATS]
    else:
        forms = [form for form in call.accepted() if form.multipart is not True]
        found = [kind for form in forms for kind in _FORMATS if form.takes(kind)]
    if not found:
        message = f"expected one of {', '.join(_FORMATS)} to be accepted, found none"
        raise UnacceptableError(message)
    return found[0]


def _window(asked: Any) -> Window | None:
    """Give the window that is asked for: in one parameter, or in the two of WADO-URI."""
    text = asked.get("window") or _pair(asked, "windowCenter", "windowWidth")
    numbers = _numbers(text, "window", 2)
    if text is None or numbers is None:
        return None
    name = (text.split(",")[2:] or ["linear"])[0].strip().lower()
    if name not in _FUNCTIONS or numbers[1] <= 0:
        expected = f"center, a width above 0 and one of {', '.join(_FUNCTIONS)}"
        message = f"window: expected {expected}, found {text[:64]!r}"
        raise QueryError(message)
    return numbers[0], numbers[1], _FUNCTIONS[name]


def _pair(asked: Any, *names: str) -> str | None:
    """Give two parameters of WADO-URI as one; neither is there without the other."""
    values = [asked.get(name) for name in names]
    if not any(values):
        return None
    if not all(values):
        message = f"expected {' and '.join(names)}, found one of them alone"
        raise QueryError(message)
    return ",".join(values)


def _numbers(text: str | None, name: str, count: int) -> list[float] | None:
    if not text:
        return None
    parts = text.split(",")[:count]
    try:
        numbers = [float(part) for part in parts if len(part) < 32]
    except ValueError:
        numbers = []
    if len(numbers) < count or not all(math.isfinite(number) for number in numbers):
        message = f"{name}: expected {count} numbers separated by commas, found {text[:64]!r}"
        raise QueryError(message)
    return numbers


def _count(text: str, name: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= most:
        message = f"{name}: expected a number from 1 to {most}, found {text[:64]!r}"
        raise QueryError(message)
    return int(text)


def _drawn(source: FrameSource, number: int, window: Window | None) -> Image.Image:
    try:
        return Image.fromarray(_grey_or_rgb(source, number, window))
    except PacsparkError:
        raise
    except Exception as error:
        # whatever a header says that no picture can be made of: tables without entries, 600 bits
        told = " ".join(str(error).split())[:200]
        uid = source.instance.sop_instance_uid
        message = f"{uid}: expected what makes a picture of its pixels, found {told!r}"
        raise TranscodingError(message) from error


def _grey_or_rgb(source: FrameSource, number: int, window: Window | None) -> NDArray[np.uint8]:
    """Give 8-bit pixels: grey, or red, green and blue."""
    pixels, header = source.pixels(number), source.header
    kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
        return (pixels >> 8 if pixels.dtype.itemsize > 1 else pixels).astype(np.uint8)
    if pixels.ndim == 3:
        shift = max(int(header.get("BitsStored", 8)) - 8, 0)
        return np.ascontiguousarray((pixels >> shift).astype(np.uint8)[..., :3])
    values = _of_frame(header, number)
    if window is not None:
        values.WindowCenter, values.WindowWidth, values.VOILUTFunction = window
    has_window = "WindowCenter" in values and _is_window(values)
    low, high = (0.0, 1.0) if has_window else _extent(pixels, values)
    drawn = np.empty(pixels.shape, np.uint8)
    for rows in _strips(pixels):  # as floating point, all of it takes many times its memory
        scaled = _scaled(pixels[rows], values)
        grey = _windowed(scaled, values) if has_window else (scaled - low) / max(high - low, 1e-12)
        grey = np.clip(np.nan_to_num(grey), 0.0, 1.0)
        drawn[rows] = np.rint((1.0 - grey if kind == "MONOCHROME1" else grey) * 255)
    return drawn


def _strips(pixels: NDArray[Any]) -> Iterator[slice]:
    count = max(_STRIP_PIXELS // max(pixels[:1].size, 1), 1)
    return (slice(start, start + count) for start in range(0, len(pixels), count))


def _scaled(pixels: NDArray[Any], values: Dataset) -> NDArray[np.float64]:
    return apply_modality_lut(pixels, values).astype(np.float64, copy=False)


def _extent(pixels: NDArray[Any], values: Dataset) -> tuple[float, float]:
    """Give the least and the greatest value that is finite."""
    found = []
    for rows in _strips(pixels):
        scaled = _scaled(pixels[rows], values)
        finite = scaled[np.isfinite(scaled)]
        if finite.size:
            found += [float(finite.min()), float(finite.max())]
    return (min(found), max(found)) if found else (0.0, 1.0)


def _is_window(values: Dataset) -> bool:
    try:
        first = [float(_first(values[key].value)) for key in ("WindowCenter", "WindowWidth")]
    except (TypeError, ValueError, KeyError, IndexError):
        return False
    return all(map(math.isfinite, first)) and first[1] > 0


def _first(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else value[0]


def _windowed(pixels: NDArray[np.float64], values: Dataset) -> NDArray[np.float64]:
    """Map a window to 0 to 1 (PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    center, width = (float(_first(values[key].value)) for key in ("WindowCenter", "WindowWidth"))
    function = str(values.get("VOILUTFunction", "LINEAR"))
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4 * (pixels - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (pixels - center) / width + 0.5
    return (pixels - (center - 0.5)) / max(width - 1, 1e-9) + 0.5


def _of_frame(header: Dataset, number: int) -> Dataset:
    """Give scale and window of one frame, which enhanced objects have in functional groups."""
    values = Dataset()
    for keyword in (*_KEYS_OF_WINDOW, *_KEYS_OF_SCALE, "ModalityLUTSequence"):
        if keyword in header:
            values[keyword] = header[keyword]
    groups = list(header.get("SharedFunctionalGroupsSequence") or ())[:1]
    groups += list(header.get("PerFrameFunctionalGroupsSequence") or ())[number : number + 1]
    for group in groups:
        for name, keywords in (
            ("PixelValueTransformationSequence", _KEYS_OF_SCALE),
            ("FrameVOILUTSequence", _KEYS_OF_WINDOW),
        ):
            for item in list(group.get(name) or ())[:1]:
                for keyword in keywords:
                    if keyword in item:
                        values[keyword] = item[keyword]
    return values


def _region(picture: Image.Image, text: str | None) -> Image.Image:
    """Cut to ``xmin,ymin,xmax,ymax``, of which 0 to 1 is all of the image (PS3.18 9.5.1.2.5)."""
    numbers = _numbers(text, "region", 4)
    if numbers is None:
        return picture
    left, top, right, bottom = numbers
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        message = f"region: expected xmin,ymin,xmax,ymax from 0 to 1, found {str(text)[:64]!r}"
        raise QueryError(message)
    width, height = picture.size
    return picture.crop((
        math.floor(left * width), math.floor(top * height),
        math.ceil(right * width), math.ceil(bottom * height),
    ))  # fmt: skip


def _size_of(viewport: str) -> tuple[int, int]:
    parts = viewport.split(",")
    if len(parts) not in {2, 6}:
        message = f"viewport: expected 2 or 6 numbers, found {viewport[:64]!r}"
        raise QueryError(message)
    width, height = (_count(part, "viewport", _MOST_SIDE) for part in parts[:2])
    return width, height


def _in_viewport(picture: Image.Image, text: str | None, *, thumbnail: bool) -> Image.Image:
    """Cut and scale to a viewport ``width,height[,x,y,width,height]`` (PS3.18 8.3.5.1.3)."""
    if text is None:
        if thumbnail:
            picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
        return picture
    width, height = _size_of(text)
    parts = text.split(",")
    if len(parts) == 6:
        given = [part or default for part, default in
                 zip(parts[2:], ("0", "0", str(picture.width), str(picture.height)),
                     strict=True)]  # fmt: skip
        x, y, w, h = _numbers(",".join(given), "viewport", 4) or []
        mirrored = (w < 0, h < 0)
        box = (max(int(x), 0), max(int(y), 0), int(min(x + abs(w), picture.width)),
               int(min(y + abs(h), picture.height)))  # fmt: skip
        if box[0] >= box[2] or box[1] >= box[3]:
            message = f"viewport: expected a part of the image, found {text[:64]!r}"
            raise QueryError(message)
        picture = picture.crop(box)
        if mirrored[0]:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if mirrored[1]:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    scale = min(width / picture.width, height / picture.height)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.BILINEAR)
