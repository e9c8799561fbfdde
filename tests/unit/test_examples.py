"""The example data is found by name, and a wrong name says what there is."""

import csv
import json

import pytest

from timbr_wamp import examples
from timbr_wamp.errors import InvalidArgument


@pytest.mark.parametrize("name", examples.NAMES)
def test_every_file_that_is_named_is_there(name):
    assert examples.path(name).is_file()


def test_the_rows_are_those_that_the_docs_count():
    assert len(json.loads(examples.path("earthquakes.json").read_bytes())["features"]) == 1707
    with examples.path("seattle-weather.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1461


@pytest.mark.parametrize("name", ["earthquake.json", "../README.md", "", None])
def test_another_name_is_refused_with_those_that_there_are(name):
    with pytest.raises(InvalidArgument, match=r"earthquakes\.json, seattle-weather\.csv"):
        examples.path(name)
