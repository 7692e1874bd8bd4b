"""With ``protocol: published`` every method computes what its public code computes; the default differs by choice."""

from functools import cache

import pytest

from tests.parity.__main__ import table
from tests.parity.comparison import FIRST_CORRECTIONS, PROCEDURES, compare

_compare = cache(compare)

AGREES = {
    "blo_sam": {"logits", "loss, batch 1", "gradient, batch 1"},
    "samed": {"logits", "loss, batch 1", "gradient, batch 1"},
    "sam_adapter": {"logits"},
    "med_sa": set(),  # the windows of the small SAM need padding
}
"""What the default protocol computes as the public code does, with equal weights."""


@pytest.mark.parametrize("method", PROCEDURES)
def test_the_published_protocol_is_the_public_procedure(method):
    found = dict(_compare(method, "published"))
    ten_steps = found.pop("way of the weights, ten steps")
    found.pop(FIRST_CORRECTIONS, None)
    assert max(found.values()) < 1e-13
    assert ten_steps < 1e-11


@pytest.mark.parametrize("method", PROCEDURES)
def test_the_default_differs_where_the_table_says_so_and_nowhere_else(method):
    found = _compare(method, "default")
    assert {quantity for quantity, value in found.items() if value < 1e-12} == AGREES[method]
    assert min(value for quantity, value in found.items() if quantity not in AGREES[method]) > 5e-4


def test_the_bias_corrections_of_the_public_code_are_not_rebuilt():
    assert _compare("blo_sam", "published")[FIRST_CORRECTIONS] > 1e-3


def test_the_table_has_a_row_for_every_quantity(monkeypatch):
    monkeypatch.setattr("tests.parity.__main__.compare", _compare)
    rows = [line for line in table().splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + sum(len(_compare(method, "published")) for method in PROCEDURES)
