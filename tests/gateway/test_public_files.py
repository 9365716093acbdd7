"""Every public file through the DIMSE door: in and out as it is, and out decoded."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from pacspark.dicom import codecs
from pacspark.dicom.decode import index_instance
from pacspark.errors import DicomDecodeError
from pacspark.gateway import statuses
from pacspark.gateway.config import Destination
from pacspark.gateway.dimse.commands import C_STORE
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.dimse.services import PLAIN_SYNTAXES
from pacspark.gateway.part10 import file_header
from pacspark.gateway.server import Gateway
from tests.gateway.conftest import LIMITS
from tests.gateway.peers import dcmtk
from tests.gateway.test_retrieving import data_set, get, getting


def storable(folder: Path) -> list[tuple[Path, str]]:
    """Give the public files that the archive takes, one per UID, and their transfer syntaxes."""
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if data[128:132] != b"DICM":
            continue  # storescu reads files only
        try:
            index = index_instance(data)
        except DicomDecodeError:
            continue
        found.setdefault(index.sop_instance_uid, (path, index.transfer_syntax_uid))
    return list(found.values())


def test_public_files__come_out_as_they_went_in(
    gateway: Gateway, tmp_path: Path, shared_data: Path
) -> None:
    """Every storable file goes in by C-STORE and out by C-GET, in its own transfer syntax."""
    files = storable(shared_data / "dicom")
    assert len(files) > 100
    sent: dict[str, bytes] = {}
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    for start in range(0, len(files), 60):
        some = files[start : start + 60]
        kinds = {index_of(path)[1:] for path, _ in some}
        association = request(here, "TEST", [(c, [t]) for c, t in sorted(kinds)], LIMITS)
        for number, (path, _) in enumerate(some, 1):
            uid, sop_class, syntax = index_of(path)
            context = association.sending_contexts(sop_class).get(syntax)
            assert context is not None, (path, sop_class, syntax)
            command = {
                "AffectedSOPClassUID": sop_class, "CommandField": C_STORE, "MessageID": number,
                "Priority": 0, "AffectedSOPInstanceUID": uid,
            }  # fmt: skip
            association.link.send(command, context.context_id, data_set(path.read_bytes()))
            answer = association.link.receive()
            assert answer is not None
            assert answer.command["Status"] == 0, (path, answer.command)
            sent[uid] = data_set(path.read_bytes())
        association.link.release()
    gateway.store.flush()
    received: dict[str, bytes] = {}
    by_study: dict[str, set[tuple[str, str]]] = {}
    for uid in sent:
        one = gateway.store.instance(uid)
        kind = (one.sop_class_uid, one.transfer_syntax_uid)
        by_study.setdefault(one.study_instance_uid, set()).add(kind)
    for study, kinds in by_study.items():
        association = getting(gateway, [(c, [t]) for c, t in sorted(kinds)])
        objects, answers = get(association, {0x0020000D: study})
        assert answers[-1]["Status"] == 0, answers[-1]
        received |= {uid: data for uid, (_, data) in objects.items()}
    assert received == sent


@pytest.mark.slow
def test_public_files__are_decoded_for_peers_that_take_plain_pixels_only(
    gateway: Gateway, shared_data: Path
) -> None:
    """Every compressed file in, and out in plain pixels; pydicom's decoding is the measure."""
    codecs.register()
    decoded = refused = 0
    for path, syntax in storable(shared_data / "dicom"):
        if syntax in PLAIN_SYNTAXES or not pydicom.uid.UID(syntax).is_compressed:
            continue
        try:
            expected = pydicom.dcmread(path).pixel_array
        except (RuntimeError, NotImplementedError, AttributeError, ValueError):
            continue  # no image, or none that anybody decodes here
        stored = gateway.store.store(path.read_bytes(), "x").instance
        association = getting(gateway, [(stored.sop_class_uid, [ExplicitVRLittleEndian])])
        keys = {
            0x0020000D: stored.study_instance_uid,
            0x0020000E: stored.series_instance_uid,
            0x00080018: stored.sop_instance_uid,
        }
        objects, answers = get(association, keys, level="IMAGE")
        if answers[-1]["Status"] != statuses.SUCCESS:
            refused += 1
            continue
        ((_, data),) = objects.values()
        whole = pydicom.dcmread(
            BytesIO(
                file_header(stored.sop_class_uid, stored.sop_instance_uid, ExplicitVRLittleEndian)
                + data
            )
        )
        assert np.array_equal(whole.pixel_array, expected), path
        decoded += 1
    assert decoded > 20
    assert refused == 0


def index_of(path: Path) -> tuple[str, str, str]:
    index = index_instance(path.read_bytes())
    return index.sop_instance_uid, index.sop_class_uid, index.transfer_syntax_uid


def test_public_files__are_stored_as_dcmsend_sends_them(
    gateway: Gateway, shared_data: Path
) -> None:
    """Another sender, which proposes each file's own transfer syntax and never decodes."""
    files = storable(shared_data / "dicom")
    said = dcmtk(
        "dcmsend", "-v", "-dn", "-nh", "-nuc", "127.0.0.1", gateway.dimse.port,
        *(path for path, _ in files),
    )  # fmt: skip
    kept = {uid: gateway.store.index.lookup(uid) for uid, *_ in map(index_of, map(first, files))}
    stored = {uid: one for uid, one in kept.items() if one is not None}
    # dcmsend itself refuses some: classes of later editions, file meta information that is none
    assert len(stored) > 0.9 * len(files), said[-2000:]
    for path, syntax in files:
        uid = index_of(path)[0]
        if uid in stored:
            if {stored[uid].transfer_syntax_uid, syntax} <= set(PLAIN_SYNTAXES):
                continue  # it chose another byte order or another kind of VR
            assert stored[uid].transfer_syntax_uid == syntax
            # it writes lengths of sequences in its own way, so pixels are compared
            sent, got = path.read_bytes(), gateway.store.read(stored[uid])
            assert pixels(got) == pixels(sent), path


def first(pair: tuple[Path, str]) -> Path:
    return pair[0]


def pixels(data: bytes) -> bytes:
    index = index_instance(data).frames
    if index.kind != "encapsulated":
        start = index.pixel_data_offset or 0
        return data[start : start + (index.pixel_data_length or 0)]
    return b"".join(
        data[start : start + length]
        for start, length in zip(index.fragment_offsets, index.fragment_lengths, strict=True)
    )
