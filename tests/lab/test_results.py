"""The table, the JSON and the picture of a comparison."""

import dataclasses
import json
import math

import numpy as np
import pytest

from gradflow.lab import Comparison, Entry
from gradflow.lab._plots._style import style
from gradflow.lab._results._result import plain

AT = [0, 10, 20, 30]


def entry(name, losses, rates=(0.1, 1.0), target=0.5):
    losses = np.asarray(losses, float)
    return Entry.of_losses(
        losses, AT, target, name=name, learning_rates=list(rates), score=losses[..., -1].tolist(),
        state_bytes_per_parameter=4.0, seconds=1.0, compile_seconds=2.0,
        describe=lambda rate: f"{name}({rate})",
    )  # fmt: skip


def comparison(*entries, target=0.5):
    return Comparison("toy", target, 30, AT, [0, 1, 2], "test accuracy", list(entries))


FAST = entry(
    "fast", [[[2, 1, 0.5, 0.1], [2, 0.4, 0.3, 0.2], [2, 1, 1, 0.4]], [[2, 9, math.nan, math.nan]] * 3]
)
SLOW = entry("slow", [[[2, 1.9, 1.8, 1.7]] * 3, [[2, 1.8, 1.7, 1.6]] * 3])
HALF = entry("half", [[[2, 1, 1, 0.4], [2, 1, 1, 1], [2, 5, math.inf, math.inf]]], [0.1])
LOST = entry("lost", [[[2, 5, 9, 20]] * 3] * 2)


def cells(result, name):
    line = next(line for line in result.table().splitlines() if f" {name} " in line)
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_steps_to_the_target_are_the_first_evaluation_at_or_below_it():
    assert FAST.steps_to_target == [[20, 10, 30], [None, None, None]]
    assert FAST.diverged == [[False] * 3, [True] * 3]
    assert FAST.best_rate == 0.1
    assert FAST.expression == "fast(0.1)"
    assert FAST.rank_key == (20, 0.2, 0)


def test_without_anyone_there_the_best_rate_has_the_least_loss():
    assert SLOW.best_rate == 1.0
    assert SLOW.rank_key == (math.inf, 1.6, 0)


def test_a_diverged_seed_counts_as_never():
    assert HALF.steps_to_target == [[30, None, None]]
    assert HALF.rank_key == (math.inf, 1.0, 1)


def test_where_most_seeds_diverge_at_every_rate_the_best_has_the_fewest():
    gone, stays = [2, 3, 4, 5], [2, 1, 1, 1]
    assert entry("shaky", [[gone] * 3, [gone, gone, stays]]).best_rate == 1.0


def test_a_run_that_met_the_target_and_then_diverged_did_not_reach_it():
    spike = entry("spike", [[[2, 0.1, 3, math.nan]] * 3], [0.1])
    assert spike.steps_to_target == [[None] * 3]


def test_table():
    result = comparison(FAST, HALF, SLOW, LOST)
    assert cells(result, "fast")[:6] == ["1", "fast", "20 (10 to 30)", "0.2", "0.1*", "0.2"]
    assert cells(result, "fast")[6:] == ["3 of 6", "4.0", "1.0 + 2.0"]
    assert cells(result, "half")[2] == "reached by 1 of 3; 1 of 3 diverged"
    assert cells(result, "slow")[2] == "not reached"
    assert cells(result, "lost")[2] == "diverged"
    assert str(result) == result.table()
    assert "*" not in comparison(HALF).table()


def test_a_table_fits_its_width_and_loses_no_word():
    result = comparison(FAST, HALF, SLOW, LOST)
    whole, narrow = result.table(), result.table(width=80)
    assert max(map(len, whole.splitlines())) > 80
    assert max(map(len, narrow.splitlines())) <= 80
    words = "seconds", "compiling", "reached", "diverged", "fast", "(10", "bootstrap"
    assert all(narrow.count(word) == whole.count(word) for word in words)
    assert result.table(width=500) == whole
    assert max(map(len, result.table(width=1).splitlines())) < 120, "words are never cut"


def test_a_page_has_a_table_with_a_row_for_each_entry():
    page = comparison(FAST, entry("<b>", [[[2, 1, 0.5, 0.1]] * 3], [0.1]))._repr_html_()
    assert page.count("<tr>") == 3
    assert page.count("<table>") == page.count("<img ") == 1
    assert "&lt;b&gt;" in page
    assert "<pre" not in page
    assert "color" not in page.split("<img")[0]
    assert "no optimizer was finished" in comparison()._repr_html_()


def test_table_without_target_score_or_entries():
    bare = entry("bare", [[[2, 1, 1, 1]]], [None], target=None)
    assert cells(comparison(bare, target=None), "bare")[2:4] == ["1", "-"]
    assert "steps to target" not in comparison(bare, target=None).table()
    assert "no optimizer was finished" in comparison().table()


def test_json_has_everything_and_is_strict():
    result = comparison(FAST, LOST)

    def refuse(constant):
        raise AssertionError(constant)

    data = json.loads(result.to_json(), parse_constant=refuse)
    assert set(data) == {"task", "target", "steps", "evaluated_at", "seeds", "score_name", "entries", "noise"}
    first = data["entries"][0]
    assert set(first) == {
        "rank", "name", "expression", "learning_rates", "best", "best_rate", "losses", "steps_to_target",
        "median_steps_to_target", "final_loss", "median_final_loss", "diverged", "score",
        "state_bytes_per_parameter", "seconds", "compile_seconds", "interval",
    }  # fmt: skip
    assert first["losses"][1][0] == [2, 9, None, None]
    assert (first["rank"], first["best_rate"], first["median_steps_to_target"]) == (1, 0.1, 20)
    assert data["entries"][1]["median_steps_to_target"] is None
    assert first["interval"] == [10, 30]
    assert data["noise"] == []


def test_an_entry_is_read_as_it_was_written():
    written = json.dumps(plain(dataclasses.asdict(FAST)), allow_nan=False)
    assert repr(Entry.of_dict(json.loads(written))) == repr(FAST), "repr, since nan is not nan"


def test_neighbours_whose_order_may_be_chance_are_named():
    near = entry("near", [[[2, 1, 0.5, 0.1], [2, 1, 0.5, 0.2], [2, 0.4, 1, 0.4]]], [0.1])
    result = comparison(FAST, near, LOST)
    assert result.noise() == [("fast", "near")]
    assert result.slower_than_best() == ["lost"]
    conclusion = result.table().splitlines()[-1]
    assert conclusion.startswith("May be as good as fast, so choose by other columns: near. Behind it by")
    assert conclusion.endswith(": lost. More seeds and rates (--seeds, --learning-rates) may tell more.")
    assert "Any of these may be as good as fast" in comparison(FAST, near).table()
    assert "fast is ahead of all others" in comparison(FAST, LOST, LOST).table()
    assert result.intervals() == {"fast": (10, 30), "near": (10, 20), "lost": (math.inf, math.inf)}
    assert result.intervals("loss")["fast"] == (0.1, 0.4)
    assert "settle the order of all" in comparison(FAST, LOST).table()
    with pytest.raises(ValueError, match="'steps' or 'loss'"):
        result.intervals("luck")


NEGATIVE = entry("negative", [[[-2, -3, -4, -5]] * 3] * 2)
ZERO = entry("zero", [[[2, 1, 0, 0]] * 3] * 2)
FLAT = entry("flat", [[[0, 0, 0, 0]] * 3] * 2)
NOTHING = entry("nothing", [[[math.nan] * 4] * 3] * 2)
HUGE = entry("huge", [[[2, 1e30, math.inf, math.nan]] * 3] * 2)
FIXED = entry("fixed", [[[2, 1, 0.7, 0.4]] * 3], [None])


@pytest.mark.parametrize(
    "entries",
    [(FAST, HALF, SLOW, LOST), (NEGATIVE,), (ZERO,), (FLAT,), (NOTHING,), (HUGE, FAST), (FIXED,), ()],
)
def test_picture_of_any_result(entries, tmp_path):
    path = tmp_path / "comparison.png"
    figure = comparison(*entries).plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [axis.get_xlabel() for axis in figure.axes] == ["step", "learning rate"]
    assert all("loss" in axis.get_ylabel() for axis in figure.axes)


def test_lines_differ_without_color():
    looks = {(str(style["linestyle"]), style["marker"]) for style in map(style, range(36))}
    assert len(looks) == 36


def test_save_makes_the_directory(tmp_path):
    written = comparison(FAST).save(tmp_path / "a" / "b")
    assert [path.name for path in written] == ["comparison.json", "comparison.png"]
    assert all(path.stat().st_size for path in written)


def test_an_unknown_entry_is_a_key_error():
    with pytest.raises(KeyError, match="missing"):
        comparison(FAST)["missing"]
