"""What the command line prints."""

import json
import math

import pytest

from pacspark.printing import show_json


def test_json__has_no_number_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"rows": [{"a": math.nan, "b": (math.inf, 1.5)}], "c": -math.inf})
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {
        "rows": [{"a": None, "b": [None, 1.5]}],
        "c": None,
    }
