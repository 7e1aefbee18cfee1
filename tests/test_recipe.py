"""What `segviz train` is asked and what it chooses: said in words before anything is read or written."""

import json

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


def test_the_network_takes_as_many_channels_as_the_images_have(tmp_path):
    history = training.train(tmp_path / "run", **QUICK)
    assert len(history.loss) == 1
    assert json.loads((tmp_path / "run" / "options.json").read_text())["recipe"]["data"]["channels"] == 1
    with pytest.raises(ValueError, match="the images of cells have 1 channel, but got channels=3, which is for a folder"):
        training.train(tmp_path / "new", channels=3, **QUICK)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("asked", "says"), [
    ({"lr": 0}, "lr is a number above 0, but got 0"), ({"lr": float("nan")}, "lr is a number above 0, but got nan"),
    ({"epochs": 0, "steps": None}, "epochs is a number above 0, but got 0"), ({"steps": 0}, "steps is at least 1"),
    ({"width": 0}, "width is at least 1"), ({"model": "alexnet"}, "a model is one of"),
    ({"weights": "heavy"}, "weights are auto, none, balanced or root, but got 'heavy'"),
    ({"epochs": 2}, "give one of them"), ({"pretrained": True}, "not unet"),
])
def test_what_is_asked_is_checked_before_the_data_are_read(tmp_path, monkeypatch, asked, says):
    monkeypatch.setattr(training, "_sets", lambda *_: pytest.fail("the data were opened"))
    with pytest.raises(ValueError, match=says):
        training.train(tmp_path / "run", **QUICK | asked)
    assert not (tmp_path / "run").exists()
