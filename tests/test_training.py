"""`fit` and `evaluate`: they learn, repeat, stop, and refuse in words."""

import functools
import os
import signal
import subprocess
import sys
import threading
import types

import pytest
import resumes
import torch
from torch import nn
from torch.utils.data import TensorDataset

from segviz import checkpoint, losses, metrics, training
from segviz.data.transforms import Augment
from segviz.models import FCN8s, PSPNet
from segviz.training import batches, loop, processes, saving
from segviz.training.batches import shuffled
from segviz.training.signals import Signals

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def ctrl_c():
    """As in a terminal: of a suite that runs in the background, a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


def test_images_of_any_size_are_scored_whole():
    generator = torch.Generator().manual_seed(2)
    sizes = [(20, 24), (16, 24), (20, 24), (20, 24), (24, 16)]
    data = [(torch.rand(3, *s, generator=generator), torch.randint(0, 2, s, generator=generator)) for s in sizes]
    together, network = None, small_network()
    for item in data:
        alone = training.evaluate(network, [item])
        together = alone if together is None else together + alone
    scores = training.evaluate(network, data, batch_size=4)
    assert torch.equal(scores.counts, together.counts) and torch.equal(scores.boundary, together.boundary)


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


def test_the_newest_score_stands_in_the_live_words(monkeypatch):
    shown = []
    monkeypatch.setattr("segviz.live.in_notebook", lambda: True)
    monkeypatch.setattr("segviz.live.Live.due", lambda *_: True)
    monkeypatch.setattr("IPython.display.display", lambda *a, **b: shown.append(Shown(*a, **b)) or shown[0])
    history = training.fit(small_network(), halves(), halves(), steps=4, batch_size=4, val_every=2, title="halves")
    words = [f"mean IoU {scores.mean_iou:.3f}" for _, scores in history.val]
    starting, first, second, third, _fourth, end = shown[0].pages
    assert "step 1 of 4" in first and "s left" in first and "mean IoU" not in first + starting
    assert words[0] in second and words[0] in third and words[1] in end


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


def test_bad_items_are_numbered():
    for data, words in [([(x, torch.where(y > 0, 7, y)) for x, y in halves(2)], "labels hold 7"),
                        ([(x, y[: 30 + i]) for i, (x, y) in enumerate(halves(2))], "one size")]:  # fmt: skip
        with pytest.raises(ValueError, match=words) as found:
            training.fit(small_network(), data, steps=1, batch_size=2, show=False)
        assert sorted(found.value.__notes__[0][-6:]) == sorted("[0, 1]")


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.bool])
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


# -- what a step is


def normed_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 2, 1)
    return nn.Sequential(*layers)


def values(network: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_steps_are_torchs_optimizer_and_poly_schedule(name):
    data, steps = halves(void=True), 9
    ours, theirs = small_network(), small_network()
    weights = torch.tensor([1.0, 2.5])
    training.fit(ours, data, steps=steps, batch_size=4, lr=0.05, weight_decay=0.01, optimizer=name, momentum=0.8,
                 class_weights=weights, show=False)  # fmt: skip
    options = {"params": theirs.parameters(), "lr": 0.05, "weight_decay": 0.01}
    optimizer = torch.optim.AdamW(**options) if name == "adamw" else torch.optim.SGD(momentum=0.8, **options)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    for step in range(1, steps + 1):
        chosen = [index for _, index in shuffled(len(data), 4, 0, step)]
        images, labels = (part[chosen] for part in data.tensors)
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(images), labels, weights, ignore_index=255).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(values(ours), values(theirs), rtol=1e-4, atol=1e-6)


def beside_the_border(label: torch.Tensor) -> torch.Tensor:
    """3 where the neighbour to the right has another label, else 0."""
    return 3.0 * torch.cat([label[:, 1:] != label[:, :-1], torch.zeros_like(label[:, :1], dtype=torch.bool)], 1)


def test_pixels_count_by_the_label_that_augmentation_left():
    data, augment, steps = halves(void=True), Augment(crop=20, flip=0.5), 5
    ours, theirs = small_network(), small_network()
    training.fit(ours, data, steps=steps, batch_size=4, lr=0.05, weight_decay=0.0, optimizer="sgd", momentum=0.0,
                 class_weights=torch.tensor([1.0, 2.5]), augment=augment, pixel_weights=beside_the_border,
                 show=False)  # fmt: skip
    for step in range(1, steps + 1):
        items = []
        for epoch, index in shuffled(len(data), 4, 0, step):
            generator = torch.Generator().manual_seed(batches.mixed(0, epoch, index, 1))
            items.append(augment(*data[index], generator))
        images, labels = (torch.stack(part) for part in zip(*items, strict=True))
        each = torch.tensor([1.0, 2.5])[labels.clamp(max=1)] + torch.stack([beside_the_border(m) for m in labels])
        each = each * (labels != 255)
        loss = nn.functional.cross_entropy(theirs(images), labels, ignore_index=255, reduction="none")
        theirs.zero_grad()
        ((each * loss).sum() / each.sum()).backward()
        with torch.no_grad():
            for weight in theirs.parameters():
                weight -= 0.05 * (1 - (step - 1) / steps) ** 0.9 * weight.grad
    torch.testing.assert_close(values(ours), values(theirs), rtol=1e-4, atol=1e-6)


def test_scores_count_every_pixel_once_whatever_it_weighs_in_training():
    network, data = small_network(), halves(void=True)
    history = training.fit(network, data, data, steps=2, batch_size=4, pixel_weights=beside_the_border, show=False)
    assert torch.equal(history.val[0][1].counts, training.evaluate(network, data).counts)
    assert history.val[0][1].counts.sum() == (data.tensors[1] != 255).sum()


def test_pixel_weights_of_another_size_are_refused_in_words():
    with pytest.raises(ValueError, match=r"pixel_weights are one a label, \(4, 32, 32\), but got \(4, 32\)"):
        training.fit(small_network(), halves(), steps=1, batch_size=4, pixel_weights=lambda label: label[0].float(),
                     show=False)  # fmt: skip


def test_chance_is_the_seeds_and_the_callers_is_left_alone():
    class Noisy(TensorDataset):                             # a data set that draws for itself
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + 0.1 * torch.rand(()), label

    def run(chance, **options):
        network = normed_network()
        torch.manual_seed(chance)
        before = torch.get_rng_state()
        training.fit(network, Noisy(*halves().tensors), steps=6, batch_size=4, show=False, **options)
        assert torch.equal(torch.get_rng_state(), before)
        return values(network)

    assert torch.equal(run(1), run(2)) and not torch.equal(run(1), run(1, seed=1))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_change_nothing_but_who_loads():
    def run(workers):
        network = normed_network()
        history = training.fit(network, halves(), halves(7), steps=7, batch_size=4, augment=resumes.AUGMENT,
                               pixel_weights=beside_the_border, workers=workers, show=False)  # fmt: skip
        return values(network), history.val[0][1].counts

    alone, helped = run(0), run(2)
    assert torch.equal(alone[0], helped[0]) and torch.equal(alone[1], helped[1])


def test_workers_that_cannot_find_the_data_are_refused_in_words(monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.get_start_method", lambda: "spawn")
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))      # a notebook's has no file
    monkeypatch.setattr(Mixed, "__module__", "__main__")
    with pytest.raises(ValueError, match=r"Mixed is defined in the notebook.*workers=0"):
        training.fit(small_network(), Mixed(*halves().tensors), steps=2, batch_size=4, workers=1, show=False)


def test_compiled_it_trains_the_same_network(monkeypatch):
    compiling, plain, compiled = torch.compile, small_network(), small_network()
    monkeypatch.setattr(torch, "compile", lambda network: compiling(network, backend="eager"))  # no compiler needed
    for network, compile in ((plain, False), (compiled, True)):
        training.fit(network, halves(), steps=5, batch_size=4, compile=compile, show=False)
    assert list(compiled.state_dict()) == list(plain.state_dict())      # no prefix, no wrapper
    torch.testing.assert_close(values(plain), values(compiled), rtol=1e-4, atol=1e-5)


class TwoHeads(nn.Module):
    """What `fit` asks of a model with a second head, and no more."""

    auxiliary, auxiliary_weight = True, 0.4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, images, auxiliary=False):
        return (self.first(images), self.second(images)) if auxiliary else self.first(images)


@pytest.mark.parametrize("pixel_weights", [None, lambda label: label.float()])
def test_a_second_head_adds_its_share_to_the_loss(pixel_weights):
    data, network, weights = halves(void=True), TwoHeads(), torch.tensor([1.0, 3.0])
    images, labels = data.tensors
    each = None if pixel_weights is None else pixel_weights(labels)
    with torch.no_grad():
        first, second = (losses.cross_entropy(logits, labels, class_weights=weights, pixel_weights=each).item()
                         for logits in network(images, auxiliary=True))
    history = training.fit(network, data, steps=1, batch_size=12, class_weights=weights, pixel_weights=pixel_weights,
                           show=False)  # fmt: skip
    assert history.loss[0] == pytest.approx(first + 0.4 * second, rel=1e-5)


def test_both_heads_of_pspnet_learn():
    """Also the second, that nothing but training asks; what the network predicts is the first's."""
    torch.manual_seed(0)
    data, network = halves(), PSPNet(2, width=2, layers=(1, 1, 1, 1), auxiliary=True)
    history = training.fit(network, data, data, steps=40, batch_size=6, lr=0.01, show=False)
    with torch.no_grad():
        accuracies = [(logits.argmax(1) == data.tensors[1]).float().mean().item()
                      for logits in network(data.tensors[0], auxiliary=True)]
    assert min(accuracies) > 0.9 and history.val[0][1].pixel_accuracy == pytest.approx(accuracies[0])


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_second_head_trains_inside_the_wrappers(process_group, monkeypatch):
    """Through DistributedDataParallel and torch.compile, whose forward must be what is called: the first averages only
    then, and refuses to go on where a weight had no part in the loss."""
    compiling, plain, wrapped, seen = torch.compile, TwoHeads(), TwoHeads(), []
    training.fit(plain, halves(), steps=4, batch_size=4, show=False)

    def together(here, model):
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel.register_forward_hook(lambda *_: seen.append("parallel"))
        return parallel

    monkeypatch.setattr(processes.Place, "together", together)
    monkeypatch.setattr(torch, "compile", lambda network: compiling(network, backend="eager"))
    training.fit(wrapped, halves(), steps=4, batch_size=4, compile=True, show=False)
    assert seen == ["parallel"] * 4
    torch.testing.assert_close(values(plain), values(wrapped), rtol=1e-4, atol=1e-5)


def test_val_is_scored_on_the_way_and_plotted(capsys):
    history = training.fit(small_network(), halves(), halves(), steps=7, batch_size=4, lr=0.02, val_every=3)
    assert [step for step, _ in history.val] == [3, 6, 7] and history.best() == max(s.mean_iou for _, s in history.val)
    assert "mIoU=" in capsys.readouterr().err
    figure = history.plot()
    assert len(figure.axes) == 2 and figure.axes[1].lines[0].get_xdata().tolist() == [3, 6, 7]
    assert len(training.History(loss=[1.0, 0.5]).plot().axes) == 1
    again = training.History.from_json(history.as_json())
    assert again.loss == history.loss and torch.equal(again.val[2][1].counts, history.val[2][1].counts)
    assert torch.equal(again.val[0][1].boundary, history.val[0][1].boundary)


def test_a_failed_step_leaves_everything_as_it_was(tmp_path):
    data, kept = halves(), {}
    data.tensors[0][5] = float("inf")
    network = normed_network()
    at = next(step for step in range(1, 9) if 5 in [index for _, index in shuffled(12, 2, 0, step)])
    network.register_forward_pre_hook(lambda *_: kept.update(values=values(network)))
    with pytest.raises(FloatingPointError, match=rf"at step {at}, of the items \[.*\b5\b.*\]"):
        training.fit(network, data, steps=9, batch_size=2, folder=tmp_path, save_every=1, show=False)
    assert torch.equal(values(network), kept["values"])                     # running statistics too
    if at > 1:
        assert checkpoint.read(tmp_path / saving.LAST).config["step"] == at - 1


class OutOfMemory(nn.Conv2d):
    def forward(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")


@pytest.mark.parametrize(("network", "options", "error", "words"), [
    (small_network(), {"class_weights": torch.ones(3)}, ValueError, "class_weights are one a class"),
    (small_network(), {"optimizer": "adam"}, ValueError, "'adamw' or 'sgd', but got 'adam'"),
    (small_network(), {"val_every": 0}, ValueError, "at least 1"),
    (small_network(), {"workers": -1}, ValueError, "workers at least 0"),
    (small_network(), {"resume": True}, ValueError, "folder="),
    (nn.Conv2d(3, 1, 1), {}, ValueError, r"logits \(4, 1, 32, 32\) are of one class.*num_classes=2"),
    (nn.Conv2d(3, 2, 3), {}, ValueError, "labels .* of the same size"),
    (OutOfMemory(3, 2, 1), {"batch_size": 10}, torch.OutOfMemoryError, r"batch_size=5 may fit.*Tried to allocate 2"),
])
def test_what_cannot_be_trained_is_said_in_words(network, options, error, words):
    with pytest.raises(error, match=words):
        training.fit(network, halves(), **{"steps": 2, "batch_size": 4, "show": False} | options)


def test_void_everywhere_names_the_items():
    data = halves()
    data.tensors[1][:] = 255
    with pytest.raises(FloatingPointError, match=r"at step 1, of the items \[.*void everywhere"):
        training.fit(small_network(), data, steps=2, batch_size=12, show=False)


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_whole_step(number, tmp_path):
    network, before = normed_network(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    calls = iter(range(1, 10))

    def press(*_):
        if next(calls) == 3:
            signal.raise_signal(number)

    def fit():
        return training.fit(network, halves(), halves(), steps=9, batch_size=4, folder=tmp_path, show=False)

    network.register_forward_pre_hook(press)
    if number == signal.SIGTERM:
        with pytest.raises(SystemExit) as stop:
            fit()
        assert stop.value.code == 143
    else:
        history = fit()
        assert history.interrupted and len(history.loss) == 3 and history.val == []
    found = checkpoint.read(tmp_path / saving.LAST)
    assert found.config["step"] == 3 and torch.equal(found.tensors["model.1.running_mean"], network[1].running_mean)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before and not network.training


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    network = small_network()

    def press_twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one waited")

    network.register_forward_pre_hook(press_twice)
    with pytest.raises(KeyboardInterrupt):
        training.fit(network, halves(), steps=9, batch_size=4, folder=tmp_path, show=False)
    assert not (tmp_path / saving.LAST).exists()            # nothing half done is kept


def test_what_was_left_half_done_stays_so():
    with pytest.raises(SystemExit), Signals() as signals, signals.held():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        assert signals.hurried
        signal.raise_signal(signal.SIGTERM)


def test_stop_is_heard_while_scoring():
    class Pressed(TensorDataset):
        def __getitem__(self, index):
            signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    history = training.fit(small_network(), halves(), Pressed(*halves().tensors), steps=2, batch_size=4, show=False)
    assert history.interrupted and len(history.loss) == 2 and history.val == []


def test_in_a_thread_nobody_listens():
    found = []
    handler = signal.getsignal(signal.SIGINT)
    options = {"steps": 2, "batch_size": 4, "show": False}
    thread = threading.Thread(target=lambda: found.append(training.fit(small_network(), halves(), **options)))
    thread.start()
    thread.join()
    assert len(found[0].loss) == 2 and signal.getsignal(signal.SIGINT) is handler


def test_signals_in_blocks_that_lie_in_each_other():
    done = []
    with pytest.raises(SystemExit), Signals() as signals:
        with signals.held():
            with signals.held():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)         # the stronger one counts
                done.append("inner")
            done.append("outer")
        done.append("beyond")
    assert done == ["inner", "outer"]
    with pytest.raises(KeyboardInterrupt), Signals(patient=True) as signals:
        signal.raise_signal(signal.SIGINT)
        done.append("patient")                              # until the end, where it is obeyed
    assert done[-1] == "patient"


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# -- runs that are kept


def kept_run(folder, steps=6, network=None, **options):
    settings = {"batch_size": 4, "lr": 0.02, "show": False, "folder": folder} | options
    return training.fit(normed_network() if network is None else network, halves(), steps=steps, **settings)


def test_a_run_is_kept_with_what_it_needs(tmp_path):
    network = FCN8s(2, width=2, padding=1)
    history = kept_run(tmp_path / "run", network=network, val=halves(), val_every=2, notes={"data": "halves"})
    last, best = (checkpoint.read(tmp_path / "run" / name) for name in (saving.LAST, saving.BEST))
    assert last.config["model"] == "FCN8s" and last.config["step"] == 6 and last.config["notes"] == {"data": "halves"}
    assert last.config["history"]["loss"] == history.loss and "optimizer.score.weight.exp_avg" in last.tensors
    assert best.config["score"] == history.best() and not best.part("optimizer")
    assert torch.equal(checkpoint.load(tmp_path / "run" / saving.LAST).score.weight, network.score.weight)
    at = best.config["step"]
    assert at == next(step for step, scores in history.val if scores.mean_iou == history.best())


def test_a_run_is_not_overwritten_nor_taken_up_by_another(tmp_path):
    kept_run(tmp_path, class_weights=torch.tensor([1.0, 2.0]), augment=resumes.AUGMENT)
    before = (tmp_path / saving.LAST).read_bytes()
    same = {"class_weights": torch.tensor([1.0, 2.0]), "augment": resumes.AUGMENT}
    for options, words in [
        (same, "already holds a run"), (same | {"resume": True, "steps": 9}, "steps: 6 there, 9 here"),
        (same | {"resume": True, "augment": None}, "augment: Augment.* there, None here"),
        (same | {"resume": True, "class_weights": torch.ones(2)}, r"class_weights: \[1.0, 2.0\] there"),
        (same | {"resume": True, "network": small_network()}, "cannot be taken up"),
        (same | {"resume": True, "pixel_weights": beside_the_border}, "pixel_weights: None there, beside_the_border"),
        (same | {"resume": True, "pixel_weights": functools.partial(losses.border_weights, sigma=3)},
         r"pixel_weights: None there, border_weights\(sigma=3\) here"),
    ]:
        with pytest.raises(ValueError, match=words):
            kept_run(tmp_path, **options)
    assert (tmp_path / saving.LAST).read_bytes() == before
    again = normed_network(5)
    history = kept_run(tmp_path, network=again, resume=True, **same)        # it was done: nothing is trained
    assert len(history.loss) == 6 and torch.equal(again[1].running_mean, checkpoint.read(tmp_path / saving.LAST)
                                                  .tensors["model.1.running_mean"])  # fmt: skip


def test_notes_that_cannot_be_kept_are_refused_before_the_first_step(tmp_path):
    network = small_network()
    network.register_forward_hook(lambda *_: pytest.fail("it was trained"))
    with pytest.raises(ValueError, match="kept as JSON"):
        kept_run(tmp_path, network=network, notes={"weights": torch.ones(2)})


def test_best_alone_is_no_run(tmp_path):
    kept_run(tmp_path, val=halves())
    (tmp_path / saving.BEST).replace(tmp_path / saving.LAST)
    with pytest.raises(ValueError, match="network without its training"):
        kept_run(tmp_path, resume=True)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with checkpoint.claim(tmp_path), pytest.raises(ValueError, match="another run"):
        kept_run(tmp_path)


def test_a_run_stopped_while_scored_is_scored_when_taken_up(tmp_path, monkeypatch):
    whole = kept_run(tmp_path / "whole", val=halves(), val_every=2)
    real, calls = loop.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    assert kept_run(tmp_path / "run", val=halves(), val_every=2).interrupted
    history = kept_run(tmp_path / "run", val=halves(), val_every=2, resume=True, network=normed_network(9))
    assert [step for step, _ in history.val] == [2, 4, 6] and history.loss == whole.loss
    assert all(torch.equal(a.counts, b.counts) for (_, a), (_, b) in zip(history.val, whole.val, strict=True))
    assert resumes.digest(tmp_path / "run") == resumes.digest(tmp_path / "whole")


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"workers": 1}])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_resume_is_exact(tmp_path, options):
    """All 39 stops of a run of 40: `python benchmarks/reliability.py`."""
    assert resumes.resume_at_every_step(tmp_path, steps=12, every=4, **options) == {"stops": 2, "exact": 2}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resume_is_exact_where_weights_are_channels_last(tmp_path, optimizer):
    """As on CUDA: fused optimizers take no heed of strides, so that state and weights must have the same."""
    def run(folder, network):
        return kept_run(folder, network=network.to(memory_format=torch.channels_last), optimizer=optimizer, resume=True)

    run(tmp_path / "whole", normed_network())
    network, calls = normed_network(), iter(range(1, 7))
    network.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT) if next(calls) == 3 else None)
    assert len(run(tmp_path / "run", network).loss) == 3
    run(tmp_path / "run", normed_network(9))
    assert resumes.digest(tmp_path / "run") == resumes.digest(tmp_path / "whole")


def test_weights_that_went_wild_do_not_replace_what_was_saved(tmp_path):
    class Root(nn.Module):
        """Its gradient is not finite where its input is 0, though its value is."""

        def forward(self, x):
            return x.sqrt()

    data, (third,) = TensorDataset(torch.rand(9, 4) + 0.1, torch.arange(9) % 2), shuffled(9, 1, seed=0, step=3)
    data.tensors[0][third[1]] = 0
    network = nn.Sequential(nn.Linear(4, 4, bias=False), Root(), nn.Linear(4, 2))
    nn.init.constant_(network[0].weight, 0.5)
    with pytest.raises(FloatingPointError, match=r"0\.weight holds NaN or Inf after step 3.*Lower lr"):
        training.fit(network, data, steps=9, batch_size=1, folder=tmp_path, save_every=1, show=False)
    kept = checkpoint.read(tmp_path / saving.LAST)
    assert kept.config["step"] == 2 and all(tensor.isfinite().all() for tensor in kept.tensors.values())


def test_a_resume_that_forgets_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: None)
    assert resumes.resume_at_every_step(tmp_path, steps=8, every=3) == {"stops": 2, "exact": 0}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_real_signals_end_a_run_that_can_be_taken_up(tmp_path):
    """In a process of its own: one that has no threads may fork."""
    command = [sys.executable, resumes.__file__, "signals", str(tmp_path), "--count", "4"]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert seen.stdout == '{"signals": 4, "status": 4, "exact": 4}\n', seen.stderr


# -- several processes


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    found = resumes.two_processes_against_one(tmp_path)
    assert found["loss"] < 1e-5 and found["weights"] < 1e-5 and found["counts"]


@pytest.mark.slow
def test_two_processes_stop_at_one_step(tmp_path):
    found = resumes.two_processes_stopped(tmp_path)
    assert 0 < found["step"] < 100 and found["exact"]


def test_each_process_has_its_part():
    places = [processes.Place(rank, 3, torch.device("cpu")) for rank in range(3)]
    for size in (12, 10, 3):
        parts = [range(size)[place.part(size)] for place in places]
        assert [i for part in parts for i in part] == list(range(size))
        assert {*map(len, parts)} <= {size // 3, size // 3 + 1}
    with pytest.raises(ValueError, match="a batch of 2 cannot be shared by 3"):
        places[0].part(2)


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning(own, expected):
    """Set before torch is loaded, or it would not be heard; a setting of the learner's own stays."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    run = "import sys, os, segviz; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    shown = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True).stdout
    assert shown.split() == ["False", expected]
