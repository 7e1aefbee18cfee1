"""How a network is trained where nothing is said: by the machine and the data, and written down with the run."""

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from segviz import losses, models
from segviz.data.survey import Survey
from segviz.runs.pretrained import BEGINNINGS
from segviz.runs.sets import loaders
from segviz.training import processes

MODELS = {name.lower(): name for name in models.__all__}  # as the command line calls them
FROM_SCRATCH = {  # what helps a network that begins without ImageNet's weights, and on images smaller than the papers'
    "FCN32s": {"padding": 1}, "FCN16s": {"padding": 1}, "FCN8s": {"padding": 1},
    "UNet": {"norm": True},
    "PSPNet": {"auxiliary": True},
    "DeepLabV3": {"output_stride": 16, "dilate_first": True, "align_corners": True, "auxiliary": True},
}  # fmt: skip
LEAST, LARGEST = 64, {"cuda": 512, "cpu": 256}  # height and width of what is trained on
SHARE = 0.8  # of the GPU's free memory
LARGEST_BATCH = 32
AUGMENT = {"scale": [0.75, 1.33], "flip": 0.5, "brightness": 0.1, "contrast": 0.1}  # besides the crop
WILD = ("FCN32s", "FCN16s", "FCN8s", "Hypercolumn", "DeepLabV1")  # no batch norm: 1e-3 throws them off at width 32
WEIGHTS = ("auto", "none", "balanced", "root")  # of the classes


@dataclass(frozen=True)
class Recipe:
    """All that decides how a run goes. What is not given is chosen by `recipe`."""

    model: str  # of segviz.models
    arguments: dict  # of the model, besides classes and channels
    pretrained: bool  # whether it begins with ImageNet's weights
    data: dict  # which: what `sets.data_set` takes besides the split
    classes: list[str]
    steps: int
    batch_size: int  # of all processes together
    lr: float
    size: int  # of the crops
    class_weights: list[float] | None
    rare: list[int]  # labels that half of the crops are laid around
    workers: int
    seed: int
    augment: dict = field(default_factory=AUGMENT.copy)  # what `Augment` takes besides crop and rare

    as_dict = asdict


def recipe(
    model: str,
    data: dict,
    found: Survey,
    device: torch.device,
    *,
    width: int | None = None,
    pretrained: bool = False,
    size: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weights: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    flip: bool = True,
    world: int = 1,
) -> Recipe:
    """model: one of `MODELS`. data, found: what it is trained on. world: how many processes share each batch. The rest:
    given, or None, and then chosen:

    width: the paper's 64 on a GPU and for ImageNet's weights, 16 elsewhere. size: of the crops, that of most images, at
    most 512 pixels on a GPU, 256 elsewhere, a multiple of 32. epochs: how often each image is seen; steps: batches; one
    of them, or 20,000 steps on a GPU, 2,000 elsewhere. batch_size: 8; on GPUs what their memory holds, at most 32;
    rounded so that the processes share it evenly. lr: 1e-3; 2e-3 for a width below 32, 1e-4 where ImageNet's weights
    are the beginning, and from width 32 up for networks without batch norm. flip: mirror half of the crops. weights:
    "none"; "balanced", `losses.class_weights`; "root", the square roots of these, which are milder; "auto", "root"
    where a class has less than a hundredth of the pixels. But for "none", such classes are sought too: half of the
    crops show one (`Augment.rare`). Raises ValueError in words.
    """
    check(model, channels=data.get("channels", 3), width=width, pretrained=pretrained, size=size, steps=steps,
          epochs=epochs, batch_size=batch_size, lr=lr, weights=weights)  # fmt: skip
    name, gpu, channels = MODELS[model.lower()], device.type == "cuda", data.get("channels", 3)
    if width is None:
        width = 64 if gpu or pretrained else 16
    if size is None:
        size = _size(found, LARGEST["cuda" if gpu else "cpu"])
    arguments = FROM_SCRATCH.get(name, {}) | {"width": width} | ({"size": size} if name == "DeconvNet" else {})
    if pretrained:
        arguments |= BEGINNINGS[name]
    if batch_size is None:
        network = getattr(models, name)(len(found.classes), channels, **arguments)
        most = world * fitting(network, (channels, size, size), device) if gpu else 8
        batch_size = max(1, min(LARGEST_BATCH if gpu else most, most, found.images) // world) * world
    batch_size = min(batch_size, found.images)
    if steps is None:
        steps = 20_000 if gpu else 2_000
        if epochs is not None:
            steps = max(1, round(epochs * (found.images // batch_size)))
    if lr is None:
        lr = 2e-3 if width < 32 else 1e-4 if pretrained or name in WILD else 1e-3
    return Recipe(
        name, arguments, pretrained, data, list(found.classes), steps, batch_size, lr, size, _weights(found, weights),
        [] if weights == "none" else [found.classes.index(rare) for rare in found.rare],
        loaders(data["name"], gpu) if workers is None else workers, seed, AUGMENT | ({} if flip else {"flip": 0.0}),
    )  # fmt: skip


def check(
    model: str, *, channels: int = 3, width: int | None = None, pretrained: bool = False, size: int | None = None,
    steps: int | None = None, epochs: float | None = None, batch_size: int | None = None, lr: float | None = None,
    weights: str = "auto", workers: int | None = None, seed: int = 0, flip: bool = True,
) -> None:  # fmt: skip
    """Raises ValueError in words where `recipe` could make nothing of what is asked, whatever the data are."""
    if model.lower() not in MODELS:
        raise ValueError(f"a model is one of {', '.join(MODELS)}, but got {model!r}")
    if steps is not None and epochs is not None:
        raise ValueError("steps and epochs both say how long to train: give one of them")
    if weights not in WEIGHTS:
        raise ValueError(f"weights are {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}, but got {weights!r}")
    for what, value in (("epochs", epochs), ("lr", lr)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{what} is a number above 0, but got {value:g}: leave it out to have it chosen")
    for what, value in (("width", width), ("size", size), ("steps", steps), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{what} is at least 1, but got {value}: leave it out to have it chosen")
    name = MODELS[model.lower()]
    if pretrained and name not in BEGINNINGS:
        raise ValueError(f"ImageNet's weights fit {', '.join(BEGINNINGS).lower()}, but not {name.lower()}: leave "
                         "--pretrained out, or take one of these")
    if pretrained and (channels != 3 or width not in (None, 64)):
        raise ValueError("ImageNet's weights are for three channels and width 64: leave --channels and "
                         "--width out, or --pretrained")


def _size(found: Survey, largest: int) -> int:
    """The shorter side of most images, as a multiple of 32."""
    (height, width), _ = found.sizes.most_common(1)[0]
    return max(LEAST, min(largest, min(height, width)) // 32 * 32)


def _weights(found: Survey, wanted: str) -> list[float] | None:
    if wanted == "none" or (wanted == "auto" and not found.rare):
        return None
    balanced = losses.class_weights(torch.tensor(found.pixels))
    return [round(weight, 4) for weight in (balanced if wanted == "balanced" else balanced.sqrt()).tolist()]


def fitting(network: nn.Module, shape: tuple[int, int, int], device: torch.device, most: int = LARGEST_BATCH) -> int:
    """The largest power of two up to `most` of images (C, H, W) that training holds in the GPU's memory: measured on a
    batch of 2, then of 4, the rest counted in proportion. `network` is left on the CPU. Raises ValueError where two
    images are too many."""
    free, _ = torch.cuda.mem_get_info(device)
    two = _needed(network, 2, shape, device)
    if two is None or two > SHARE * free:
        raise ValueError(f"the GPU's free memory, {free >> 20} MiB, is too small for two images of {shape[1:]}: choose "
                         "a smaller size or width")
    four = _needed(network, 4, shape, device)
    if four is None:
        return 2
    count = (SHARE * free - two) / max(1, (four - two) / 2) + 2
    return min(most, 2 ** int(math.log2(count)))


def _needed(network: nn.Module, count: int, shape: tuple[int, int, int], device: torch.device) -> int | None:
    """Bytes at most that a training step with so many images takes: weights, their gradients and AdamW's two moments
    with them. None: more than there are."""
    torch.cuda.reset_peak_memory_stats(device)
    try:
        network.to(device, memory_format=torch.channels_last).train()
        _tried(network, count, shape, device)
        moments = 2 * sum(weight.numel() * weight.element_size() for weight in network.parameters())
        return torch.cuda.max_memory_allocated(device) + moments
    except torch.OutOfMemoryError:
        return None
    finally:
        network.zero_grad()
        network.to("cpu")
        torch.cuda.empty_cache()


def _tried(network: nn.Module, count: int, shape: tuple[int, int, int], device: torch.device) -> None:
    """Forward, loss and backward as `training.fit` has them: bfloat16, and a loss in float32, of a second head too."""
    images = torch.rand(count, *shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(count, *shape[1:], dtype=torch.int64, device=device)
    second = getattr(network, "auxiliary", False) is True
    with processes.autocast(device):
        heads = network(images, auxiliary=True) if second else (network(images),)
    sum(losses.cross_entropy(logits, labels) for logits in heads).backward()
