from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from bhpeft.data.spans import Commit, Span, apart, cut, span_of, unsettled

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def commits(*rows: int, rewrites: int = -1) -> list[Commit]:
    return [Commit(v, n, NOW, "UPDATE" if v == rewrites else "") for v, n in enumerate(rows)]


def ids(found: list[tuple[Span, int]]) -> list[str]:
    return [span.batch_id for span, _ in found]


def batches(table: list[Commit], settled: list[str], most: int = 10) -> list[str]:
    done = [span for name in settled if (span := span_of(name))]
    return ids(cut(unsettled(table, done), most, {}))


def test_whole_commits_are_put_together_up_to_the_most_rows() -> None:
    assert batches(commits(4, 4, 4, 1), []) == ["v0-v1", "v2-v3"]


def test_a_commit_larger_than_a_batch_is_cut_into_windows_of_its_rows() -> None:
    assert batches(commits(3, 25, 3), []) == [
        "v0-v0", "v1-rows0-9", "v1-rows10-19", "v1-rows20-24", "v2-v2",
    ]  # fmt: skip


def test_no_batch_reaches_across_what_is_settled() -> None:
    """After a rollback the good batch in the middle stays refused while its neighbours wait."""
    assert batches(commits(2, 2, 2), ["v1-v1"]) == ["v0-v0", "v2-v2"]


def test_versions_that_add_nothing_are_passed_over() -> None:
    """Compaction, deletion and the making of the table itself."""
    assert batches(commits(0, 2, 0, 2), []) == ["v1-v3"]
    assert batches(commits(0, 2, 0, 2), ["v1-v3"]) == []


def test_a_version_that_rewrites_rows_is_a_batch_of_its_own() -> None:
    assert batches(commits(2, 2, 2, rewrites=1), []) == ["v0-v0", "v1-v1", "v2-v2"]


def test_windows_learned_under_another_limit_leave_exactly_the_rest() -> None:
    assert batches(commits(25), ["v0-rows4-7"]) == [
        "v0-rows0-3", "v0-rows8-17", "v0-rows18-24",
    ]  # fmt: skip


def test_a_batch_that_waits_does_not_grow_with_its_table() -> None:
    """A second attempt of its round is then the same batch, with the same digest."""
    first = cut(unsettled(commits(2, 2), []), 10, {})
    ends = {span.first: span.last for span, _ in first}
    assert ids(cut(unsettled(commits(2, 2, 2, 2), []), 10, ends)) == ["v0-v1", "v2-v3"]


def test_a_name_of_no_span_is_none() -> None:
    assert [span_of(name) for name in ("2026-01-05", "v1", "v1-v2-v3", "")] == [None] * 4


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8),
    st.integers(1, 9),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_every_row_is_in_exactly_one_batch_whatever_is_learned_when(
    rows: list[int], most: int, choices: list[int]
) -> None:
    """Learn batches in any order, with the table and the limit changing meanwhile."""
    settled: list[Span] = []
    learned: list[tuple[int, int]] = []
    for step, choice in enumerate([*choices, *[0] * 200]):
        known = commits(*rows[: min(len(rows), 1 + step)])
        left = cut(unsettled(known, settled), 1 + (most + step) % 9, {})
        if not left and len(known) == len(rows):
            break
        if left:
            span, count = left[choice % len(left)]
            named = span_of(span.batch_id)
            assert named == span
            mine = rows_of(span, rows)
            assert len(mine) == count
            learned += mine
            settled.append(span)
    assert sorted(learned) == [(v, r) for v, n in enumerate(rows) for r in range(n)]


def rows_of(span: Span, rows: list[int]) -> list[tuple[int, int]]:
    if span.high is not None:
        return [(span.first, r) for r in range(span.low, span.high)]
    return [(v, r) for v in range(span.first, span.last + 1) for r in range(rows[v])]


def again(
    table: list[Commit], learned: list[str], settled: Sequence[str] = (), most: int = 10
) -> list[str]:
    done, before = (
        [span for name in names if (span := span_of(name))] for names in (settled, learned)
    )
    return ids(cut(unsettled(table, done), most, {}, apart(before)))


def test_what_was_learned_before_is_cut_as_it_was_then() -> None:
    """On a machine that has never seen it, and under another limit."""
    table = commits(4, 4, 4, 25, 2)
    before = ["v1-v1", "v2-v2", "v3-rows0-6", "v3-rows7-13", "v3-rows14-24"]
    assert batches(table, []) != ["v0-v0", *before, "v4-v4"]
    for most in (3, 10, 100):
        found = again(table, before, ["v0-v0"], most)
        assert found == [*before, "v4-v4"], most


def test_commits_learned_together_stay_together_and_others_are_cut_anew() -> None:
    table = commits(6, 6, 0, 6, 1, 1)
    assert again(table, ["v0-v3"], most=5) == ["v0-v3", "v4-v5"]
    assert again(table, ["v0-v3"], ["v1-v1"], most=10) == ["v0-v0", "v3-v5"]


def test_windows_keep_what_lies_between_them_within_the_limit() -> None:
    assert again(commits(25), ["v0-rows10-12"], most=6) == [
        "v0-rows0-5", "v0-rows6-9", "v0-rows10-12", "v0-rows13-18", "v0-rows19-24",
    ]  # fmt: skip


def test_of_two_batches_with_rows_in_common_the_first_is_made_again() -> None:
    """A rollback's comes before what any other version was made of."""
    assert again(commits(2, 2, 2), ["v1-v2", "v0-v1"]) == ["v0-v0", "v1-v2"]
    assert again(commits(2, 2, 2), ["v0-v1", "v1-v2"]) == ["v0-v1", "v2-v2"]
    assert again(commits(8), ["v0-rows0-3", "v0-v0"]) == ["v0-rows0-3", "v0-rows4-7"]


@given(
    rows=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    mosts=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    data=st.data(),
)
def test_any_part_of_a_past_is_made_again_and_no_row_is_lost_or_counted_twice(
    rows: list[int], mosts: tuple[int, int], data: st.DataObject
) -> None:
    table, then, now = commits(*rows), mosts[0], mosts[1]
    past = [span for span, _ in cut(table, then, {})]
    learned = [span for span in past if data.draw(st.booleans())]
    found = [span for span, _ in cut(table, now, {}, learned)]
    assert [span for span in found if span in learned] == learned
    held = [
        (version, row)
        for span in found
        for version in range(span.first, span.last + 1)
        for row in (range(rows[version]) if span.high is None else range(span.low, span.high))
    ]
    assert sorted(held) == held == [(v, row) for v, n in enumerate(rows) for row in range(n)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3), st.booleans())))
def test_spans_are_apart_where_no_row_is_in_two_of_them(drawn) -> None:
    rows = [4] * 10
    spans = [
        Span(first, first, low, low + 1 + more % 2) if window else Span(first, first + more)
        for first, low, more, window in drawn
    ]
    seen: set[tuple[int, int]] = set()
    expected = []
    for span in spans:
        mine = set(rows_of(span, rows))
        if not mine & seen:
            expected.append(span)
            seen |= mine
    assert apart(spans) == expected
