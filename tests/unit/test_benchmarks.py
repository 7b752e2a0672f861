from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import markdown, svg
from benchmarks.model import OURS, Case, Goal, Group, columns
from benchmarks.stats import ratio, spread
from benchmarks.upkeep import pages_per_ttl

NUMBERS = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=50)


def test_half_of_the_samples_lie_within_the_spread() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert spread([3.0]) == (3.0, 3.0)


def test_a_ratio_is_of_the_rounds_so_that_noise_which_hits_both_does_not_count() -> None:
    quiet_then_noisy = [1.0, 1.0, 100.0]
    assert ratio([2 * sample for sample in quiet_then_noisy], quiet_then_noisy) == 2.0
    assert ratio([2.0, 4.0, 6.0], [2.0]) == 2.0  # of the medians, where one has other rounds


@given(NUMBERS)
def test_a_competitor_is_its_own_equal(samples: list[float]) -> None:
    assert ratio(samples, samples) == 1.0


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("time", 1.25, 1.25), True),
        (Goal("time", 1.26, 1.25), False),
        (Goal("gain", 5.0, 5.0, at_least=True), True),
        (Goal("gain", 4.9, 5.0, at_least=True), False),
    ],
)
def test_a_goal_is_met_at_its_limit_and_missed_behind_it(goal: Goal, met: bool) -> None:
    assert goal.met is met


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123, "0.012"),
        (0.125, "0.12"),
        (1.255, "1.25"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (1e6, "1,000,000"),
    ],
)
def test_a_number_has_three_digits_that_matter(value: float, text: str) -> None:
    assert markdown.number(value) == text


def _case() -> Case:
    case = Case("open | read", "µs")
    for sample in (10.0, 11.0, 12.0):
        case.add("tmpfs", sample / 10)
        case.add(OURS, sample)
    case.say(OURS, "requests", 0)
    return case


def test_a_case_becomes_a_table_with_every_competitor_and_what_stands_beside() -> None:
    text = markdown.case(_case())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| who | median | quartiles | of keyvaultfs | rounds | requests |"
    assert lines[2] == "| tmpfs | 1.10 µs | 1.05 .. 1.15 | 0.10 x | 3 |  |"
    assert lines[3] == "| **keyvaultfs** | 11.0 µs | 10.5 .. 11.5 | 1.00 x | 3 | 0 |"


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    text = markdown.table(["a", "b|c"], [["1", "2|3"]])
    assert text.splitlines() == ["| a | b\\|c |", "| :-- | --: |", "| 1 | 2\\|3 |"]


def test_columns_come_in_the_order_of_the_competitors_and_once_each() -> None:
    assert columns({"b": {"z": "1", "y": "2"}, "a": {"y": "3", "x": "4"}}, ["a", "b"]) == ["y", "x", "z"]


def _page(quick: bool = False, missing: tuple[str, ...] = ()) -> str:
    group = Group("warm", "Warm file", "About it.", cases=[_case(), Case("nobody came")])
    group.at_most("this much", 2.0, 1.0, why="a reason")
    group.at_least("that much", 2.0, 1.0, why="another reason")
    return markdown.page([group], {"kernel": "6.1"}, missing, quick)


def test_the_page_says_what_was_missed_and_why_and_leaves_empty_cases_out() -> None:
    text = _page()
    assert "| this much | at most 1.00 x | 2.00 x | **missed** | Warm file |" in text
    assert "| that much | at least 1.00 x | 2.00 x | met | Warm file |" in text
    assert "- *this much*: a reason" in text
    assert "another reason" not in text
    assert "nobody came" not in text
    assert "![Warm file](warm.svg)" in text
    assert "| kernel | 6.1 |" in text


def test_the_page_names_missing_peers_and_a_quick_run() -> None:
    assert "Missing, so not measured: bindfs, rclone." in _page(missing=("bindfs", "rclone"))
    assert "Missing" not in _page()
    assert "QUICK=1" in _page(quick=True)
    assert "QUICK=1" not in _page()


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1), st.floats(0, 1e9), max_size=9
    )
)
def test_bars_are_well_formed_whatever_the_names_and_numbers(values: dict[str, float]) -> None:
    root = ET.fromstring(svg.bars("<Title> & more", [("panel", "µs", values)]))
    shown = [value for value in values.values() if value > 0]
    bars = [node for node in root.iter("{http://www.w3.org/2000/svg}rect") if node.get("height") == "18"]
    assert len(bars) == len(shown)
    assert all(float(node.get("width", "-1")) > 0 for node in bars)


@given(
    st.dictionaries(
        st.sampled_from("abcdefghijkl"), st.lists(st.tuples(st.floats(0.01, 1e6), st.floats(0.01, 1e6)))
    )
)
def test_lines_are_well_formed_and_stay_on_the_page(series: dict[str, list[tuple[float, float]]]) -> None:
    root = ET.fromstring(svg.lines("Title", "across", "up", series))
    height = float(root.get("height", "0"))
    for node in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(node.get("cx", "-1")) <= 860
        assert 0 <= float(node.get("cy", "-1")) <= height


def test_a_plot_without_points_says_so() -> None:
    assert "nothing was measured" in svg.lines("Title", "across", "up", {})


def test_pages_are_counted_by_whole_listings() -> None:
    pages = [(1.0, True), (10.0, False), (10.1, True), (38.0, False), (38.1, True), (66.0, False)]
    assert pages_per_ttl(pages, 28.0) == 2.0
