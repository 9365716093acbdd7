"""The conformance statement is what the code does, and what peers are told."""

from pydicom.uid import UID
from pynetdicom import AE

from pacspark.gateway.conformance import describe_conformance
from pacspark.gateway.dimse.services import SERVICE_OF_CLASS, STORAGE_CLASSES
from pacspark.gateway.server import Gateway
from tests.conftest import REPOSITORY


def test_statement__is_up_to_date() -> None:
    """Write it anew with `Path("docs/conformance.md").write_text(describe_conformance())`."""
    assert (REPOSITORY / "docs" / "conformance.md").read_text() == describe_conformance()


def test_every_class_of_the_statement__is_accepted(gateway: Gateway) -> None:
    classes = sorted([*SERVICE_OF_CLASS, *STORAGE_CLASSES])
    text = describe_conformance()
    accepted = set()
    for start in range(0, len(classes), 128):
        entity = AE("TEST")
        for uid in classes[start : start + 128]:
            entity.add_requested_context(UID(uid))
            assert f"| {uid} |" in text
        association = entity.associate("127.0.0.1", gateway.dimse.port)
        accepted |= {str(context.abstract_syntax) for context in association.accepted_contexts}
        association.release()
    assert accepted == set(classes)
