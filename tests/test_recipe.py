"""What `segviz train` is asked and what it chooses: said in words before anything is read or written."""

import pytest

from segviz.runs import training

QUICK = {"data": "cells", "length": 6, "steps": 1, "width": 1, "image_size": 64, "batch_size": 2, "device": "cpu",
         "say": lambda line: None}  # fmt: skip


def test_a_run_that_is_not_there_is_not_taken_up(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("typo", "empty"):
        with pytest.raises(ValueError, match=f"there is no run in .*{name}: leave --resume out to begin one"):
            training.train(tmp_path / name, resume=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
