"""`fit` and `evaluate`: they learn, repeat, stop, and refuse in words."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from segviz import metrics, training
from segviz.models import FCN8s
from segviz.training import loop
from segviz.training.batches import shuffled


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def halves(count: int = 12, void: bool = False) -> TensorDataset:
    """Images whose bright half is class 1."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 32, 32, generator=generator) * 0.3
    labels = torch.zeros(count, 32, 32, dtype=torch.long)
    for i in range(count):
        side = slice(0, 16) if i % 2 else slice(16, 32)
        images[i, :, :, side] += 0.6
        labels[i, :, side] = 1
    if void:
        labels[:, :4] = 255
    return TensorDataset(images, labels)


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))


def test_it_learns_and_scores():
    data, network = halves(void=True), small_network()
    history = training.fit(network, data, data, steps=60, batch_size=4, lr=0.02, show=False)
    assert len(history.loss) == 60 and history.loss[-1] < 0.3 * history.loss[0]
    step, scores = history.val[0]
    assert step == 60 and scores.mean_iou > 0.95 and scores.counts.sum() == 12 * 32 * 28
    assert not network.training and "mean IoU" in repr(history)


def test_the_same_seed_gives_the_same_run_and_another_another():
    def run(seed):
        network = small_network()
        training.fit(network, halves(), steps=7, batch_size=5, seed=seed, show=False)
        return torch.cat([p.flatten() for p in network.parameters()])
    torch.testing.assert_close(run(3), run(3), rtol=0, atol=0)
    assert not torch.equal(run(3), run(4))


def test_an_epoch_sees_each_image_once_in_a_new_order():
    steps = [shuffled(10, 5, seed=0, step=step) for step in range(1, 5)]
    assert [epoch for batch in steps for epoch, _ in batch] == [0] * 10 + [1] * 10
    first, second = ([index for batch in steps[k : k + 2] for _, index in batch] for k in (0, 2))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert len({index for step in (1, 2, 3) for _, index in shuffled(11, 3, 0, step)}) == 9     # the rest is left out


def test_fewer_images_than_a_batch_still_train():
    history = training.fit(small_network(), halves(3), steps=2, batch_size=16, show=False)
    assert len(history.loss) == 2


def test_a_classifier_trains_by_the_same_loop():
    data = TensorDataset(torch.cat([torch.zeros(8, 4), torch.ones(8, 4)]), torch.tensor([0] * 8 + [1] * 8))
    torch.manual_seed(0)
    history = training.fit(nn.Linear(4, 2), data, data, steps=80, batch_size=8, lr=0.1, show=False)
    assert history.val[0][1].pixel_accuracy == 1 and history.val[0][1].boundary is None


def test_evaluate_adds_counts_over_batches_and_leaves_the_mode():
    data, network = halves(7), small_network().train()
    scores = training.evaluate(network, data, batch_size=3)
    with torch.no_grad():
        labels = network(data.tensors[0]).argmax(1)
    assert torch.equal(scores.counts, metrics.confusion_matrix(labels, data.tensors[1], 2))
    assert torch.equal(scores.boundary, metrics.boundary_counts(labels, data.tensors[1], 2))
    assert network.training and "boundary" in repr(scores)


def test_predict_is_the_argmax_of_one_image():
    network, image = FCN8s(4, width=2, padding=1), torch.rand(3, 40, 36)
    label_map = training.predict(network, image)
    assert label_map.shape == (40, 36) and label_map.dtype == torch.int64 and network.training


class Interrupts(TensorDataset):
    """A data set in which the learner presses the stop button at the thirtieth image."""

    seen = 0

    def __getitem__(self, index):
        Interrupts.seen += 1
        if Interrupts.seen == 30:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_stop_keeps_what_was_learned():
    network, before = small_network(), small_network()
    history = training.fit(network, Interrupts(*halves().tensors), halves(), steps=50, batch_size=4, show=False)
    assert history.interrupted and len(history.loss) == 7 and history.val == []
    assert "interrupted" in repr(history) and not torch.equal(network[0].weight, before[0].weight)


def test_stop_while_scoring_keeps_the_history(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "evaluate", interrupted)
    network = small_network()
    history = training.fit(network, halves(), halves(), steps=3, batch_size=4, show=False)
    assert history.interrupted and len(history.loss) == 3 and history.val == [] and not network.training


class Fails(nn.Conv2d):
    """A network that runs out of something at its third batch."""

    seen = 0

    def forward(self, images):
        self.seen += 1
        if self.seen == 3:
            raise RuntimeError("out of something")
        return super().forward(images)


def test_an_error_closes_the_bar_and_leaves_the_mode(capsys):
    with pytest.raises(RuntimeError, match="out of something"):
        training.fit(Fails(3, 2, 1), halves(), steps=5, batch_size=4, show=True)
    assert "2/5" in capsys.readouterr().err
    network = Fails(3, 2, 1).train()
    with pytest.raises(RuntimeError, match="out of something"):
        training.evaluate(network, halves(), batch_size=1, show=False)
    assert network.training


def test_the_bar_in_a_terminal(capsys):
    training.fit(small_network(), halves(), steps=3, batch_size=4, title="halves")
    shown = capsys.readouterr().err
    assert "halves: 100%" in shown and "3/3" in shown and "loss=" in shown


class Shown:
    """Stands in for a notebook's display: keeps all that was shown in it."""

    def __init__(self, first, display_id):
        self.pages = [first.data]

    def update(self, page):
        self.pages.append(page.data)


@pytest.mark.parametrize(("data", "last"), [(halves(), "2 steps in"), (Interrupts(*halves().tensors), "interrupted")])
def test_the_live_picture_in_a_notebook(data, last, monkeypatch):
    shown = []
    monkeypatch.setattr("segviz.live.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *a, **b: shown.append(Shown(*a, **b)) or shown[0])
    Interrupts.seen = 29
    training.fit(small_network(), data, steps=2, batch_size=4, watch=data.tensors[0][0], title="<halves>")
    pages = shown[0].pages
    assert len(shown) == 1 and "starting" in pages[0] and last in pages[-1]
    assert ("data:image/png" in pages[-1]) == (last == "2 steps in")     # no step, no curve
    assert all("&lt;halves&gt;" in page and "<halves>" not in page for page in pages)


def test_watched_pictures_sharpen():
    data = halves()
    history = training.fit(small_network(), data, steps=40, batch_size=4, lr=0.02, watch=data[0][0], show=False)
    steps = [step for step, _ in history.pictures]
    assert steps[:5] == [1, 2, 4, 8, 16] and steps[-1] == 40
    right = [(label_map == data[0][1]).float().mean() for _, label_map in history.pictures]
    assert right[-1] > 0.95 > right[0]


def test_a_loss_that_is_not_finite_names_the_step():
    data = halves()
    data.tensors[0][3] = float("nan")
    network = small_network()
    with pytest.raises(FloatingPointError, match="at step"):
        training.fit(network, data, steps=9, batch_size=4, show=False)
    assert all(p.isfinite().all() for p in network.parameters())         # stopped before it took harm


def test_a_batch_that_is_all_void_is_named():
    data = halves()
    data.tensors[1].fill_(255)
    with pytest.raises(FloatingPointError, match="void everywhere"):
        training.fit(small_network(), data, steps=9, batch_size=4, show=False)


class Mixed(TensorDataset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return (image, label) if index else (image[:, :30], label[:30])


@pytest.mark.parametrize(("arguments", "words"), [
    ({"train": []}, "empty"), ({"steps": 0}, "at least 1"), ({"batch_size": 0}, "at least 1"),
    ({"train": Mixed(*halves().tensors), "batch_size": 12}, "one size"),
    ({"train": [((x * 255).byte(), y) for x, y in halves()]}, "image.float"),
    ({"train": [(x, y.float()) for x, y in halves()]}, "whole numbers"),
    ({"train": [(x, y[None]) for x, y in halves()]}, r"but got \(1, 32, 32\)"),
    ({"train": [(x, y[: 30 + i % 2]) for i, (x, y) in enumerate(halves())]}, "labels of one batch"),
])
def test_bad_input_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        training.fit(small_network(), **{"train": halves(), "steps": 2, "show": False} | arguments)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_of_any_whole_number_train(kind):
    data = [(image, label.to(kind)) for image, label in halves()]
    assert len(training.fit(small_network(), data, data, steps=2, batch_size=4, show=False).val) == 1


def test_an_empty_data_set_has_no_score():
    with pytest.raises(ValueError, match="nothing to score"):
        training.evaluate(small_network(), [])
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        training.evaluate(small_network(), halves(), batch_size=0)


def test_names_are_one_a_class():
    assert "right half" in repr(training.evaluate(small_network(), halves(), classes=("rest", "right half")))
    with pytest.raises(ValueError, match="2 classes, but classes names 1"):
        training.evaluate(small_network(), halves(), classes=("rest",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_in_words():
    with pytest.raises(ValueError, match="segviz doctor"):
        training.choose_device("cuda")


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning(own, expected):
    """Set before torch is loaded, or it would not be heard; a setting of the learner's own stays."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    run = "import sys, os, segviz; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    shown = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True).stdout
    assert shown.split() == ["False", expected]
