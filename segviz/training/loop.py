"""The training loop."""

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.live import Live
from segviz.training.batches import shuffled_batches
from segviz.training.scoring import History, autocast, choose_device, evaluate, predict


def fit(
    model: nn.Module,
    train,
    val=None,
    *,
    steps: int = 300,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    ignore_index: int = 255,
    seed: int = 0,
    device: str | torch.device | None = None,
    watch: Tensor | None = None,
    show: bool | None = None,
    title: str = "training",
) -> History:
    """Trains `model` in place with AdamW and a poly schedule (power 0.9), showing how it goes; returns its history.

    train, val: datasets of (image (C, H, W) float, label), all images of one size; label: whole numbers (H, W), or ()
    for a classifier, `ignore_index` where it is void. `val` is scored at the end.
    steps: batches to train on; the data are shuffled anew each epoch, by `seed` and the epoch alone. A last, short
    batch is left out unless it is the only one.
    device: default CUDA, then MPS, then CPU. On CUDA: bfloat16 autocast.
    watch: an image (C, H, W) whose predicted label map is shown, and kept in `history.pictures`, as it sharpens.
    show: progress bar and live picture; default: yes.
    Ctrl-C (the stop button) ends training or scoring early: the model keeps what it learned and the history says so.
    Raises ValueError for data that cannot be trained on, and FloatingPointError at a loss that is not finite, naming
    the step; the model is then as it was before that step.
    """
    if len(train) == 0:
        raise ValueError("the training set is empty: there is nothing to learn from")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size are at least 1, but got steps={steps}, batch_size={batch_size}")
    device = choose_device(device)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    history, start = History(), time.perf_counter()
    live = Live(steps, title, watch, show)
    batches = shuffled_batches(train, batch_size, seed)
    try:
        for step in range(1, steps + 1):
            images, labels = (x.to(device, non_blocking=True) for x in next(batches))
            with autocast(device):
                loss = F.cross_entropy(model(images).float(), labels, ignore_index=ignore_index)
            history.loss.append(loss.item())
            if not math.isfinite(history.loss[-1]):
                raise FloatingPointError(
                    f"the loss is {history.loss[-1]} at step {step}: lower lr (now {lr}), and look for images with "
                    "NaN or batches that are void everywhere"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if live.due(step) or step == steps:
                live.update(history, predict(model, watch) if watch is not None else None)
        history.seconds = time.perf_counter() - start
        if val is not None:
            scoring = {"batch_size": batch_size, "ignore_index": ignore_index, "device": device, "show": show}
            history.val.append((steps, evaluate(model, val, **scoring)))
    except KeyboardInterrupt:
        history.interrupted = True
        history.seconds = history.seconds or time.perf_counter() - start
    finally:
        model.eval()
        live.close(history)
    return history
