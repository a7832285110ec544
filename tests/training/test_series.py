"""One list says which numbers a run reports, and one function reads them from its reports."""

from __future__ import annotations

from pack.training.series import SERIES, points_of

LINES = [
    {"step": 1, "losses": [0.5], "norms": {"adapters": 2.0}},
    {"step": 4, "losses": [0.4, None, 0.2], "norms": {"adapters": None, "embeddings": 3}},
    {"step": 4, "trouble": "The disk is full.", "losses": None},
    {"step": 4, "movement": {"tok": {"clip_l": 0.1, "clip_g": 0.3}, "dog": {}}},
]
POINTS = {
    "losses": {"": [(1, 0.5), (2, 0.4), (4, 0.2)]},
    "norms": {"adapters": [(1, 2.0)], "embeddings": [(4, 3)]},
    "movement": {"tok": [(4, 0.1)]},
    "validation": {},
}


def test_a_list_has_a_value_for_each_step_and_an_object_one_for_each_name():
    assert {key: points_of(LINES, key) for key in POINTS} == POINTS


def test_no_two_series_share_a_key_or_a_title():
    assert len({series.key for series in SERIES}) == len(SERIES)
    assert len({series.title for series in SERIES}) == len(SERIES)
