"""Messages that quote what a file holds."""

import pytest

from lib.data import beir


@pytest.mark.parametrize("value", ["short", "x" * 500, "two\nlines", 12.5, ["a"] * 100])
def test_shortened_values_fit_on_a_line(value):
    text = beir.shorten(value)
    assert len(text) <= 60 and "\n" not in text and str(value)[:3] in text
