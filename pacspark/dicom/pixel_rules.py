"""Rules that say which rectangles of which objects are blanked: text burned into pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from pacspark.dicom.wildcards import text_matches


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A part of every frame, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PixelRule:
    """Rectangles to blank where all of some attributes match.

    Attributes
    ----------
    match
        DICOM keyword -> texts of which one has to match, with ``*`` and ``?``, whatever their case
    blank
        none: somebody looked, and nothing is burned in
    """

    match: Mapping[str, Sequence[str]]
    blank: tuple[Rectangle, ...]

    def matches(self, dataset: Dataset) -> bool:
        """Tell whether the rule speaks of an object.

        Examples
        --------
        >>> image = Dataset()
        >>> image.Modality, image.Rows = "US", 480
        >>> PixelRule({"Modality": ["us"], "Rows": ["480"]}, ()).matches(image)
        True
        """
        return all(
            any(
                text_matches(found, tuple(wanted), ignore_case=True, person_name=False)
                for found in _texts(dataset, keyword)
            )
            for keyword, wanted in self.match.items()
        )


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    value: Any = dataset.get(keyword)
    if value is None:
        return [""]
    values = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
    joined = "\\".join(str(one) for one in values)
    return [joined.strip(), *(str(one).strip() for one in values)]


def rectangles_for(rules: Sequence[PixelRule], dataset: Dataset) -> tuple[Rectangle, ...] | None:
    """Give what all rules that speak of an object blank in it; None where none does."""
    matching = [rule for rule in rules if rule.matches(dataset)]
    if not matching:
        return None
    return tuple(dict.fromkeys(rectangle for rule in matching for rectangle in rule.blank))
