"""Rows of usage: added up and grouped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.usage import BY, COUNTS, Used, grouped

NAMES = st.sampled_from(["", "a", "b"])
COUNT = st.integers(0, 2**40)
ROWS = st.lists(
    st.builds(
        Used,
        **dict.fromkeys(BY, NAMES),
        **dict.fromkeys(COUNTS[:-1], COUNT),
        saved_s=st.integers(0, 1000).map(float),
    ),
    max_size=20,
)


def test_what_is_not_grouped_by_is_added_up() -> None:
    rows = [
        Used(tenant="a", key="k1", document="lease", day="2026-11-01", questions=1, prompt_tokens=10, saved_s=0.5),
        Used(tenant="a", key="k2", document="lease", day="2026-11-02", questions=2, refused=1, cached_tokens=7, saved_s=0.25),
        Used(tenant="b", key="k3", document="plan", day="2026-11-01", parts=1, completion_tokens=3),
    ]
    assert grouped(rows, ["tenant"]) == [
        Used(tenant="a", questions=3, refused=1, prompt_tokens=10, cached_tokens=7, saved_s=0.75),
        Used(tenant="b", parts=1, completion_tokens=3),
    ]
    assert [row.day for row in grouped(rows, ["day", "tenant"])] == ["2026-11-01", "2026-11-01", "2026-11-02"]
    assert grouped(rows, BY) == rows


@given(ROWS, st.lists(st.sampled_from(BY), unique=True))
def test_nothing_is_lost_or_counted_twice(rows: list[Used], by: list[str]) -> None:
    found = grouped(rows, by)
    for name in COUNTS:
        assert sum(getattr(row, name) for row in found) == sum(getattr(row, name) for row in rows)
    places = [tuple(getattr(row, name) for name in by) for row in found]
    assert places == sorted(set(places))
    assert all(getattr(row, name) == "" for row in found for name in BY if name not in by)
