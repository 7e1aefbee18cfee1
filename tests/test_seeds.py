"""`benchmarks/seeds.py`: the cells that it takes out of the lessons are there, its results of all that it compares."""

import importlib.util
import json
from pathlib import Path

import jupytext
import pytest

spec = importlib.util.spec_from_file_location("seeds", Path(__file__).parents[1] / "benchmarks" / "seeds.py")
seeds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seeds)
FOUND = json.loads(seeds.RESULTS.read_text())["lessons"]


@pytest.mark.parametrize("number", seeds.LESSONS)
def test_each_mark_is_in_one_cell_of_its_lesson(number):
    _, marks, _ = seeds.LESSONS[number]
    lesson, = (seeds.ROOT / "lessons").glob(f"{number[:2]}_*.py")
    sources = [cell.source for cell in jupytext.read(lesson).cells if cell.cell_type == "code"]
    assert {mark: sum(mark in source for source in sources) for mark in marks} == dict.fromkeys(marks, 1)


@pytest.mark.parametrize("number", seeds.LESSONS)
def test_results_are_of_three_seeds_and_of_all_that_are_compared(number):
    _, _, contestants = seeds.LESSONS[number]
    assert {"0", "1", "2"} <= set(FOUND[number])
    for scores in FOUND[number].values():
        assert set(scores) == set(contestants) and len({tuple(each) for each in scores.values()}) == 1
