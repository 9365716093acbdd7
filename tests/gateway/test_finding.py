"""C-FIND with pynetdicom as the peer: sequences, extended negotiation, keys that match nothing."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from pacspark.gateway import statuses
from pacspark.gateway.dimse.services import MODALITY_WORKLIST, STUDY_ROOT
from pacspark.gateway.server import Gateway
from tests.ct_objects import SERIES_UID, STUDY_UID
from tests.gateway.test_dimse import store, written

FIND, MOVE = f"{STUDY_ROOT}.1", f"{STUDY_ROOT}.2"


def item(**told: object) -> Dataset:
    made = Dataset()
    for keyword, value in told.items():
        setattr(made, keyword, value)
    return made


def found(
    gateway: Gateway, query: Dataset, extended: bytes = b""
) -> tuple[list[Dataset], list[int]]:
    """Ask; give the answers and all statuses."""
    entity = AE("TEST")
    entity.add_requested_context(FIND)
    proposal = SOPClassExtendedNegotiation()
    proposal.sop_class_uid, proposal.service_class_application_information = FIND, extended
    association = entity.associate(
        "127.0.0.1", gateway.dimse.port, ext_neg=[proposal] if extended else []
    )
    told = list(association.send_c_find(query, FIND))
    association.release()
    statuses_of = [int(status.Status) for status, _ in told]
    return [answer for _, answer in told if answer], statuses_of


def series(**keys: object) -> Dataset:
    return item(QueryRetrieveLevel="SERIES", StudyInstanceUID=STUDY_UID, SeriesInstanceUID="",
                **keys)  # fmt: skip


@pytest.fixture
def requested(gateway: Gateway, tmp_path: Path) -> Gateway:
    """One series that was made for two steps, the first of them with a protocol."""
    code = item(CodeValue="T-D1100", CodingSchemeDesignator="SRT")
    steps = [
        item(ScheduledProcedureStepID="S1", RequestedProcedureID="R1",
             ScheduledProtocolCodeSequence=Sequence([code])),
        item(ScheduledProcedureStepID="S2", RequestedProcedureID="R2"),
    ]  # fmt: skip
    store(gateway, *written(tmp_path / "in", 1, RequestAttributesSequence=Sequence(steps)))
    return gateway


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        (item(ScheduledProcedureStepID="S2", RequestedProcedureID=""), ["S2"]),
        (item(ScheduledProcedureStepID="S?"), ["S1", "S2"]),
        (item(ScheduledProcedureStepID="S1", RequestedProcedureID="R2"), None),  # of no one item
        (item(ScheduledProcedureStepID="",
              ScheduledProtocolCodeSequence=Sequence([item(CodeValue="T-D1100")])), ["S1"]),
        (item(ScheduledProcedureStepID="S3"), None),
    ],
)  # fmt: skip
def test_sequence__is_matched_item_by_item(
    requested: Gateway, asked: Dataset, steps: list[str] | None
) -> None:
    answers, told = found(requested, series(RequestAttributesSequence=Sequence([asked])))
    assert told[-1] == statuses.SUCCESS
    if steps is None:
        assert answers == []
        return
    (answer,) = answers
    assert told[0] == statuses.PENDING
    items = answer.RequestAttributesSequence
    assert [one.ScheduledProcedureStepID for one in items] == steps
    assert all({e.keyword for e in one} == {e.keyword for e in asked} for one in items)


def test_sequence__without_keys_comes_whole(requested: Gateway) -> None:
    (answer,), told = found(requested, series(RequestAttributesSequence=Sequence([])))
    assert [one.RequestedProcedureID for one in answer.RequestAttributesSequence] == ["R1", "R2"]
    assert told == [statuses.PENDING, statuses.SUCCESS]


def test_sequence__of_two_items_is_refused(requested: Gateway) -> None:
    two = Sequence([item(ScheduledProcedureStepID="S1"), item(ScheduledProcedureStepID="S2")])
    _, told = found(requested, series(RequestAttributesSequence=two))
    assert told == [statuses.DOES_NOT_MATCH]


def test_negotiation__says_what_is_done(gateway: Gateway) -> None:
    entity = AE("TEST")
    proposals: list[Any] = []
    for uid in (FIND, MOVE, MODALITY_WORKLIST, CTImageStorage):
        entity.add_requested_context(uid)
        proposal = SOPClassExtendedNegotiation()
        proposal.sop_class_uid = uid
        proposal.service_class_application_information = b"\x01" * 7
        proposals.append(proposal)
    association = entity.associate("127.0.0.1", gateway.dimse.port, ext_neg=proposals)
    told = association.acceptor.sop_class_extended
    association.release()
    assert told == {
        FIND: b"\x01\x01\x01\x00\x00\x01\x01",
        MOVE: b"\x01\x00",
        MODALITY_WORKLIST: b"\x01\x01\x01\x00",
        CTImageStorage: b"\x02\x00\x03\x00\x00",
    }


def test_context__is_refused_for_what_is_not_there(gateway: Gateway) -> None:
    entity = AE("TEST")
    entity.add_requested_context(FIND, DeflatedExplicitVRLittleEndian)
    entity.add_requested_context("1.2.3.4")
    entity.add_requested_context(MOVE, [DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", gateway.dimse.port)
    refused = {str(one.abstract_syntax): one.result for one in association.rejected_contexts}
    (accepted,) = association.accepted_contexts
    association.release()
    assert refused == {FIND: 4, "1.2.3.4": 3}  # of the transfer syntaxes, of the class
    assert accepted.transfer_syntax == [ImplicitVRLittleEndian]


def test_context__is_accepted_in_its_own_first_transfer_syntax(gateway: Gateway) -> None:
    proposed: list[list[Any]] = [[JPEGBaseline8Bit], [ExplicitVRLittleEndian, JPEGBaseline8Bit]]
    entity = AE("TEST")
    association = entity.associate(
        "127.0.0.1",
        gateway.dimse.port,
        contexts=[build_context(CTImageStorage, syntaxes) for syntaxes in proposed],
    )
    accepted = [one.transfer_syntax[0] for one in association.accepted_contexts]
    association.release()
    assert accepted == [JPEGBaseline8Bit, ExplicitVRLittleEndian]


def test_names__are_fuzzy_where_that_was_agreed(gateway: Gateway, tmp_path: Path) -> None:
    store(gateway, *written(tmp_path / "in", 1, PatientName="Doe^Jane Mary"))
    query = item(QueryRetrieveLevel="STUDY", PatientName="jane doe")
    assert found(gateway, query)[0] == []
    (answer,), _ = found(gateway, query, b"\x01\x01\x01")
    assert answer.PatientName == "Doe^Jane Mary"


def test_answer__has_the_time_zone_of_its_times(gateway: Gateway, tmp_path: Path) -> None:
    zoned = {"TimezoneOffsetFromUTC": "+0200", "StudyInstanceUID": "1.2.3"}
    store(gateway, *written(tmp_path / "in", 1))
    store(gateway, *written(tmp_path / "zoned", 1, series_uid="1.2.3.1", **zoned))
    query = item(QueryRetrieveLevel="STUDY", StudyInstanceUID="", StudyTime="")
    told = {
        answer.StudyInstanceUID: answer.get("TimezoneOffsetFromUTC")
        for answer in found(gateway, query)[0]
    }
    assert told == {STUDY_UID: None, "1.2.3": "+0200"}


def test_key__that_nothing_is_held_against_is_passed_over(gateway: Gateway, tmp_path: Path) -> None:
    store(gateway, *written(tmp_path / "in", 2))
    (answer,), told = found(gateway, series(NumberOfSeriesRelatedInstances="7", Modality=""))
    assert answer.NumberOfSeriesRelatedInstances == 2
    assert answer.SeriesInstanceUID == SERIES_UID
    assert told == [statuses.PENDING_WITH_WARNING, statuses.SUCCESS]
