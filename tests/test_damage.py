import pytest

from tests.damage import KINDS, damage


@pytest.mark.long
def test_no_fault_becomes_a_wrong_number(tmp_path):
    outcomes = damage(tmp_path, 120, seed=1)
    assert {what for _, what in outcomes} == {"noticed", "harmless"}
    assert all(outcomes[kind, "noticed"] >= 5 for kind in KINDS)
