"""The training loop: `fit` is the frame, `_step` is what happens to one batch."""

import itertools
import math
import time
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segviz import losses
from segviz.live import Live
from segviz.training import processes, saving
from segviz.training.batches import Batch, mixed, named, training_batches
from segviz.training.history import History
from segviz.training.scoring import evaluate, predict
from segviz.training.signals import SIGNALS, Signals


def fit(
    model: nn.Module,
    train,
    val=None,
    *,
    steps: int = 300,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    optimizer: str = "adamw",
    momentum: float = 0.9,
    class_weights: Tensor | None = None,
    pixel_weights=None,
    augment=None,
    ignore_index: int = 255,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: bool = False,
    workers: int = 0,
    val_every: int | None = None,
    watch: Tensor | None = None,
    show: bool | None = None,
    title: str = "training",
    folder=None,
    save_every: int | None = None,
    resume: bool = False,
    notes: dict | None = None,
    log=None,
) -> History:
    """Trains `model` in place by a poly schedule (power 0.9), showing how it goes; returns its history.

    train, val: datasets of (image (C, H, W) float, label), all images of `train` of one size, as `augment` leaves them;
    label: whole numbers (H, W), or () for a classifier, `ignore_index` where it is void.
    steps: batches to train on; the data are shuffled anew each epoch. A last, short batch is left out unless it is the
    only one. optimizer: "adamw", or "sgd" with `momentum`. weight_decay: of all parameters but the weights of depthwise
    convolutions, of which there are few (as in the code of Chen et al. 2018, DeepLab v3+).
    class_weights: (C,), see `losses.class_weights`.
    augment: `augment(image, label, generator) -> (image, label)`, see `data.transforms.Augment`.
    pixel_weights: `pixel_weights(label) -> float (H, W)`, what each pixel counts for besides its class, taken after
    augmentation; `losses.border_weights`, say.
    seed: of all chance in it. A step's is drawn from (seed, step), an item's from (seed, epoch, index); torch's
    generators are afterwards as they were (but that of MPS).
    device: default CUDA, then MPS, then CPU. On CUDA: bfloat16 autocast, channels_last.
    compile: run the network through torch.compile. workers: processes that load the data.
    val_every: steps between two scores of `val`; default: it is scored at the end alone.
    watch: an image (C, H, W) whose predicted label map is shown, and kept in `history.pictures`, as it sharpens.
    show: progress bar and live picture; default: yes.

    folder: where the run is kept (`saving`): every `save_every` steps (default: a tenth of all), at the end, and when
    it is stopped. notes: what else the files are to say, as JSON can. resume: take up the run in `folder`, with the
    same settings, exactly where it was (on CUDA, but for kernels that add in any order); begin one if there is none.
    A model whose attribute `auxiliary` is True has a second head: in training it is called `model(images,
    auxiliary=True)` and gives the logits of both, and the loss is that of the first plus `model.auxiliary_weight` times
    that of the second (`models.PSPNet`).
    log: `log(history)`, called about once a second and at the last step, in the first process alone: for what shows the
    run elsewhere.
    Ctrl-C (the stop button) ends training or scoring early, after a whole step: the model keeps what it learned and
    the history says so. A second one does not wait, and is raised. SIGTERM ends the program with status 143.
    Under `torchrun` each process takes its part of each batch (`batch_size` is that of all together), and the result is
    that of one process, but for dropout and, on the CPU, batch norm; on CUDA batch norms become SyncBatchNorm. The
    first process alone reads and writes `folder`. Where one process ends, the others stop too, raising
    `processes.Gone`, and the run is kept as after the last whole step.

    Raises ValueError for data that cannot be trained on, for settings that do not fit the run in `folder`, and where
    another run is at work there; FloatingPointError at a loss that is not finite, naming the step and the items: model
    and optimizer are then as they were before that step; and where weights that are not finite would be saved.
    """
    _check(len(train), workers, steps=steps, batch_size=batch_size, val_every=val_every, save_every=save_every)
    if resume and folder is None:
        raise ValueError("resume=True takes up the run in a folder: give fit(..., folder=...) too")
    settings = saving.told(
        steps=steps, batch_size=batch_size, lr=lr, weight_decay=weight_decay, optimizer=optimizer, momentum=momentum,
        class_weights=class_weights, pixel_weights=pixel_weights, augment=augment, ignore_index=ignore_index, seed=seed,
        items=len(train),
    )  # fmt: skip
    here = processes.place(device)
    first, cuda = here.rank == 0, here.device.type == "cuda"
    part, save_every = here.part(min(batch_size, len(train))), save_every or max(1, steps // 10)
    if class_weights is not None:
        class_weights = torch.as_tensor(class_weights, dtype=torch.float32, device=here.device)
    generators = torch.random.fork_rng([here.device] if cuda else [])  # afterwards they are as they were
    network = f"{type(model).__name__} of {sum(weight.numel() for weight in model.parameters())} weights"
    scored = {"items to score": 0 if val is None else len(val), "val_every": val_every}
    _check_alike(here, settings | scored | {"network": network})
    with Signals(patient=here.world > 1) as signals, saving.claimed(folder, writes=first), generators:
        model.to(here.device, memory_format=torch.channels_last if cuda else torch.preserve_format).train()
        rule = _optimizer(model, optimizer, lr, weight_decay, momentum, here.device)
        run = saving.Run(folder, model, rule, settings, notes, here)
        history = run.begin(resume)
        done, network = len(history.loss), here.together(model)
        network = torch.compile(network) if compile else network
        auxiliary = model.auxiliary_weight if getattr(model, "auxiliary", False) is True else None
        weighing = {"ignore_index": ignore_index, "class_weights": class_weights, "auxiliary": auxiliary}
        loading = {"ignore_index": ignore_index, "workers": workers}
        todo = range(done + 1, steps + 1)
        batches = training_batches(
            train, batch_size, seed, todo, augment=augment, pixel_weights=pixel_weights, part=part, pin=cuda, **loading
        )
        live = Live(steps, title, watch, show if first else False, done)

        def score(step: int) -> bool:
            """Whether `val` was scored: at the end, every so many steps, and not twice."""
            due = step == steps or (val_every is not None and step > 0 and step % val_every == 0)
            if val is None or not due or step in dict(history.val):
                return False
            here.share_buffers(model)
            stop = (lambda: signals.waiting) if here.world > 1 else None  # one alone is stopped at once
            how = {"batch_size": batch_size, "device": here.device, "show": show, "stop": stop} | loading
            try:
                scores = evaluate(model, val, **how)
            except KeyboardInterrupt:
                if not signals.hurried:
                    signals.obey(max(here.gathered(signals.waiting or 0)))
                raise
            with signals.held():
                best = scores.mean_iou > history.best()
                history.val.append((step, scores))
                if best:
                    run.save_best(history)
            return True

        try:
            if score(done):  # the run was stopped while it was being scored
                run.save(history)
            for step in todo:
                start = time.perf_counter()
                batch = next(batches)
                items = named(train, batch.indices)
                with signals.held(), _unharmed(model, rule, batch_size, items), here.asking():
                    _seed(mixed(seed, step, here.rank), here.device)
                    rate = learning_rate(lr, step, steps)
                    loss, stop = _step(network, rule, rate, batch, step, items, here, signals, **weighing)
                    history.loss.append(loss)
                    history.seconds += time.perf_counter() - start
                if stop is not None:  # said by one process, heard by all
                    signals.obey(stop)
                if score(step) or step % save_every == 0 or step == steps:
                    with signals.held():
                        run.save(history)
                if live.due(step) or step == steps:
                    live.update(history, predict(model, watch) if watch is not None else None)
                    if log is not None and first:
                        log(history)
            here.share_buffers(model)
        except (KeyboardInterrupt, SystemExit) as stop:
            if signals.hurried:
                raise
            history.interrupted = True
            with signals.held():
                run.save(history)
            if isinstance(stop, SystemExit):
                raise
        except processes.Gone as gone:
            raise processes.Gone(f"{gone}. {run.left(history, gone.ranks)}", gone.ranks) from None
        finally:
            model.eval()
            live.close(history)
    return history


def learning_rate(lr: float, step: int, steps: int) -> float:
    """Of step 1, 2 ... `steps`: from `lr` down to nearly 0, the poly schedule (Chen et al. 2016, DeepLab v2)."""
    return lr * (1 - (step - 1) / steps) ** 0.9


def _check(items: int, workers: int, **counts: int | None) -> None:
    if items == 0:
        raise ValueError("the training set is empty: there is nothing to learn from")
    if min(count for count in counts.values() if count is not None) < 1 or workers < 0:
        given = ", ".join(f"{name}={value}" for name, value in [*counts.items(), ("workers", workers)])
        raise ValueError(f"{', '.join(counts)} are at least 1, workers at least 0, but got {given}")


def _check_alike(here, settings: dict) -> None:
    """ValueError where processes that are to train one network were given other settings, or see other data."""
    first, *others = here.gathered(settings)
    for rank, own in enumerate(others, 1):
        differ = [f"{name}: {first[name]} there, {value} here" for name, value in own.items() if value != first[name]]
        if differ:
            raise ValueError(
                f"rank {rank} trains with other settings than rank 0 ({'; '.join(differ)}): start all with the same "
                "command, and give all the same data"
            )


def _step(
    network, optimizer, rate, batch: Batch, step: int, items: str, here, signals, *, ignore_index: int, class_weights,
    auxiliary,
):  # fmt: skip
    """Forward, loss, backward, update: one batch. auxiliary: the weight of a second head; None: there is none. Returns
    the loss of the whole batch, over all processes, and the signal that asks all of them to stop after it (None: go
    on)."""
    cuda = here.device.type == "cuda"
    images = batch.images.to(here.device, non_blocking=cuda)
    labels = batch.labels.to(here.device, non_blocking=cuda)
    if cuda and images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)

    with processes.autocast(here.device):
        logits, *second = (network(images),) if auxiliary is None else network(images, auxiliary=True)
    weights = None if batch.weights is None else batch.weights.to(here.device, non_blocking=cuda)
    total, weight = losses.cross_entropy_parts(logits, labels, ignore_index, class_weights, batch.extent, weights)
    for other in second:
        theirs, _ = losses.cross_entropy_parts(other, labels, ignore_index, class_weights, None, weights)
        total = total + auxiliary * theirs

    asked = [total.new_full((), float(signals.waiting == number)) for number in SIGNALS]
    sums = here.summed(torch.stack([total.detach(), weight, *asked]))
    seen = sums.to("cpu", non_blocking=cuda)
    there = torch.cuda.current_stream(here.device).record_event() if cuda else None

    optimizer.zero_grad()
    (total * (here.world / sums[1])).backward()  # what is averaged over all processes: times their number, the sum
    here.averaged(network)

    if there is not None:
        there.synchronize()  # waits for the loss alone: the backward pass is still under way
    total, weight, *asked = seen.tolist()
    loss = total / weight if weight else math.nan
    if not math.isfinite(loss):
        void = "the batch is void everywhere, or all its classes weigh 0: look at its labels, and at ignore_index"
        wild = f"lower lr (now {rate:.3g}), and look for images with NaN among them"
        raise FloatingPointError(
            f"the loss is {loss} at step {step}, of the items {items}: {wild if weight else void}"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return loss, max((number for number, sum_ in zip(SIGNALS, asked, strict=True) if sum_), default=None)


@contextmanager
def _unharmed(model: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int, items: str):
    """A step that fails leaves the network as it was: the forward pass has moved running statistics by then."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    except BaseException as error:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        optimizer.zero_grad()
        if isinstance(error, torch.OutOfMemoryError):
            less = f"batch_size={batch_size // 2} may fit, or" if batch_size > 1 else "try"
            raise torch.OutOfMemoryError(
                f"the GPU's memory is too small for batch_size={batch_size}: {less} smaller images "
                f"({str(error).splitlines()[0]})"
            ) from error
        if isinstance(error, ValueError):
            error.add_note(f"in the batch of the items {items}")
        raise


def _seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _optimizer(model: nn.Module, name: str, lr: float, weight_decay: float, momentum: float, device: torch.device):
    fused = device.type in ("cpu", "cuda")  # on one core 5 ms instead of 42 for AdamW and 8.5 million weights
    options = {"lr": lr, "weight_decay": weight_decay, "fused": fused or None}
    if name == "adamw":
        return torch.optim.AdamW(_groups(model), **options)
    if name == "sgd":
        return torch.optim.SGD(_groups(model), momentum=momentum, **options)
    raise ValueError(f"optimizer is 'adamw' or 'sgd', but got {name!r}")


def _groups(model: nn.Module) -> list[dict]:
    """The parameters in the model's order, by which `saving` knows them, in groups that decay and others that do not:
    the weights of convolutions that read each channel by itself."""
    convs = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    depthwise = {layer.weight for layer in convs if layer.groups == layer.in_channels > 1}
    groups = itertools.groupby(model.parameters(), depthwise.__contains__)
    return [{"params": list(some)} | ({"weight_decay": 0.0} if spared else {}) for spared, some in groups]
