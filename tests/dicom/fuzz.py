"""A seeded fuzzer that knows where elements begin: objects that are nearly sound.

Run: python -m tests.dicom.fuzz FOLDER ROOT [--rounds 20000] [--seed 1] [--taken-in 10]
Every mutant goes through `index_instance`, every so many through an `Intake` into a new archive
ROOT as well. Each has to end as an index or as one `DicomDecodeError` of one line, within its time.
Prints one JSON object; a mutant that does not is kept in ROOT, with its number.
"""

import argparse
import json
import random
import re
import struct
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pydicom

from pacspark.dicom.decode import index_instance
from pacspark.errors import DicomDecodeError
from pacspark.tables.creating import create_tables
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.storage import open_storage

CPU_SECONDS_EACH = 3.0
VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW "
    b"PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV XX"
).split()
COMMIT_EVERY = 1000


class Seed:
    """A sound object, and where the values of its outermost elements begin."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.values = sorted(_values(data))


def _values(data: bytes) -> Iterator[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data_set = pydicom.dcmread(BytesIO(data), force=True)
        except Exception:  # noqa: BLE001 -- any file may be a seed, broken ones too
            return
        for element in data_set._dict.values():
            place = getattr(element, "value_tell", None) or getattr(element, "file_tell", None)
            if place is not None and 8 <= place < len(data):
                yield place


def mutants(seeds: Sequence[Seed], rounds: int, seed: int) -> Iterator[bytes]:
    """Give mutants, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(rounds):
        origin = chance.choice(seeds)
        data = bytearray(origin.data)
        for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
            _mutate(data, origin.values, chance, seeds)
        yield bytes(data)


def _mutate(
    data: bytearray, values: Sequence[int], chance: random.Random, seeds: Sequence[Seed]
) -> None:
    # most of what is interesting is in the header
    reach = len(data) if chance.random() < 0.2 else min(len(data), 4096)
    place = chance.randrange(reach) if reach else 0
    value = min(chance.choice(values), len(data)) if values else place
    length = chance.choice((1, 2, 4, 8, 64, 1000))
    match chance.randrange(13):
        case 0:  # bits
            for _ in range(chance.randint(1, 8)):
                if data:
                    data[chance.randrange(len(data)) if reach == len(data) else place] ^= (
                        1 << chance.randrange(8)
                    )
        case 1:  # the end is missing
            del data[chance.choice((place, value, max(0, value - chance.randint(1, 8)))) :]
        case 2 | 3:  # another length, short or long
            size = chance.choice((2, 2, 4))
            number = chance.choice(
                (0, 1, 7, 0xFFFE, 0xFFFF, 1 << 31, 0xFFFFFFFF, len(data), length)
            )
            data[max(0, value - size) : value] = struct.pack("<I", number)[:size]
        case 4:  # another VR
            data[max(0, value - 4) : max(0, value - 2)] = chance.choice(VRS)
        case 5:  # another tag
            other = chance.choice(values) if values else place
            data[max(0, value - 8) : max(0, value - 4)] = bytes(
                data[max(0, other - 8) : max(0, other - 4)]
            )
        case 6:  # twice
            start = max(0, chance.choice((place, value - 8)))
            data[start:start] = data[start : start + length]
        case 7:  # gone
            start = max(0, chance.choice((place, value - 8)))
            del data[start : start + length]
        case 8:  # of another object
            other_data = chance.choice(seeds).data
            start = chance.randrange(max(1, len(other_data)))
            data[place:place] = other_data[start : start + length]
        case 9 | 10 | 11:  # another value
            size = chance.randint(1, 4)
            data[value : value + size] = chance.randbytes(size)
        case _:  # items and delimiters
            mark = chance.choice((b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"))
            data[value:value] = mark + struct.pack("<I", chance.choice((0, 8, 0xFFFFFFFF)))


def generated() -> list[bytes]:
    """Give sound objects of many kinds, small ones, made byte by byte."""
    from tests.dicom import hostile

    syntaxes = (hostile.IMPLICIT, hostile.EXPLICIT, hostile.BIG_ENDIAN, hostile.DEFLATED)
    return [
        *(hostile.ct_object(syntax) for syntax in syntaxes),
        hostile.encapsulated([b"ab", b"cdef", b"gh"], frames=3, basic_offset_table=[0, 10, 22]),
        hostile.encapsulated([b"ab", b"cd"], frames=2, extended_offset_table=[0, 10]),
        hostile.part10(hostile.nested(5) + hostile.data_set(hostile.header())),
        hostile.ct_object()[132:],
        hostile.ct_object(
            x00080005=("CS", b"\\ISO 2022 IR 87 "), x00100010=("PN", b"A^B=\x1b$B;3ED\x1b(B")
        ),
    ]  # fmt: skip


def peak_bytes() -> int:
    """Give the most memory that this process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of sound objects; - for generated ones")
    parser.add_argument("root")
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--taken-in", type=int, default=10)
    given = parser.parse_args()
    files = [] if given.folder == "-" else sorted(Path(given.folder).rglob("*"))
    sound = [path.read_bytes() for path in files if path.is_file()] or generated()
    seeds = [Seed(data) for data in sound if len(data) < 2 << 20]
    storage = open_storage(given.root)
    create_tables(storage)
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    intake, waiting = Intake(storage, "fuzz"), 0
    before = peak_bytes()

    def commit() -> None:
        report = commit_intake(storage, [intake.finish()], "fuzz")
        outcomes.update({f"intake: {name}": count for name, count in report.counts.items()})

    for number, data in enumerate(mutants(seeds, given.rounds, given.seed)):
        started = time.process_time()
        try:
            try:
                index_instance(data if number % 2 else BytesIO(data))
            except DicomDecodeError as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert len(str(error)) < 500  # noqa: PT017
                outcomes["refused"] += 1
            else:
                outcomes["indexed"] += 1
            if number % given.taken_in == 0:
                intake.add(f"mutant {number}", data)
                outcomes["taken in"] += 1
                waiting += 1
                if waiting == COMMIT_EVERY:
                    commit()
                    intake, waiting = Intake(storage, "fuzz"), 0
            seconds = time.process_time() - started
            assert seconds < CPU_SECONDS_EACH
            slowest_s = max(slowest_s, seconds)
        except BaseException:
            Path(given.root, f"mutant-{given.seed}-{number}.dcm").write_bytes(data)
            raise
    commit()
    print(json.dumps(outcomes | {"slowest_s": slowest_s, "grown": peak_bytes() - before}))


if __name__ == "__main__":
    main()
