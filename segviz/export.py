"""A network as a file for other programs: ONNX, or a program of torch.export. It is checked before it is there.

Torch follows the network once, with images of one size, and keeps batch, height and width as unknowns. `to_program`
saves the graph that comes of it; `to_onnx` has torch's exporter translate it.
"""

import copy
import importlib
import json
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segviz import __version__, checkpoint

TOLERANCE = 1e-4  # of a logit; of the largest one where that is above 1
SWITCHED = 0.5    # of the logits may differ by more where a network unpools by switches
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # needed for ONNX alone: no part of requirements.txt
SIZES, BATCH = {0: "batch", 2: "height", 3: "width"}, {0: "batch"}  # the axes that are left unknown, or only the first


@dataclass(frozen=True)
class Exported:
    """The file that was written, and how it was checked.

    free: which of batch, height and width may be any. fixed: why height and width may not, or "". sizes: (B, H, W) of
    the images that it was checked with. difference: the largest between its logits and PyTorch's, in units of the
    largest logit where that is above 1. apart: the share of logits that differ by more than `TOLERANCE`, at the size
    that has most of them; 0 but for networks that unpool by switches. opset: the version of ONNX's operators, or None.
    """

    path: Path
    bytes: int
    free: tuple[str, ...]
    fixed: str
    sizes: tuple[tuple[int, int, int], ...]
    difference: float
    apart: float
    opset: int | None

    def __str__(self) -> str:
        kind = f"ONNX, opset {self.opset}" if self.opset else "a program of torch.export"
        *names, last = self.free
        lines = [f"{self.path} ({kind}, {self.bytes / 1e6:.1f} MB), for images of any "
                 f"{' and '.join([', '.join(names), last] if names else [last])}"]
        if self.fixed:
            lines.append(f"of {self.sizes[0][1]}x{self.sizes[0][2]} pixels alone: {self.fixed}")
        lines.append(f"checked at {', '.join('x'.join(map(str, size)) for size in self.sizes)}: its logits differ from "
                     f"PyTorch's by {self.difference:.1g} at most")
        if self.apart:
            lines.append(f"{self.apart:.2%} of them by more than {TOLERANCE:g}: switches that rounding decides")
        return "\n".join(lines)


def to_onnx(network: nn.Module, path: str | os.PathLike, size: int | tuple[int, int] = 96,
            classes: Sequence[str] | None = None, dynamic: bool = True) -> Exported:
    """Writes a network as one file `.onnx`, from input "images" to output "logits".

    network: images (B, in_channels, H, W) in [0, 1] -> logits (B, num_classes, h, w); without `in_channels` it gets 3.
    The file has it in eval mode, in float32; it stays as it is. size: height and width of the images that torch follows
    it with. classes: their names, for the file's metadata, which also tell the model and its arguments.
    dynamic: images of any height and width, where torch can keep them unknown; if not, or with False, of `size` alone,
    and `Exported.fixed` says why. Any batch, either way.

    The file is run in onnxruntime at several sizes (of those that the network takes), and is put at `path` only if all
    logits are PyTorch's to `TOLERANCE`. Of a network that unpools by switches (DeconvNet) half must be: where the two
    largest values of a window are equal but for rounding, another one may win, and all that is made of it moves.
    Raises ValueError in words where they are not, or the network cannot be exported; OSError where the file cannot be
    written; ImportError where one of `PACKAGES` is missing. What was at `path` before then stays.
    """
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"ONNX needs {', '.join(PACKAGES)}, and {name} is missing: pip install "
                              f"{' '.join(PACKAGES)}. A program of torch.export (.pt2) needs none of them") from error
    return _exported(network, Path(path), size, classes, dynamic, ".onnx", _save_onnx, _load_onnx)


def to_program(network: nn.Module, path: str | os.PathLike, size: int | tuple[int, int] = 96,
               classes: Sequence[str] | None = None, dynamic: bool = True) -> Exported:
    """Writes a network as one file `.pt2`: `torch.export.load(path).module()` makes a module of it, without segviz.

    Arguments, check and errors as for `to_onnx`; torch runs the file, loaded back. The metadata are a JSON text:
    `extra = {"segviz.json": ""}; torch.export.load(path, extra_files=extra)`. Other versions of torch may not read the
    file. Reading uses pickle: take such files only from those you trust. Torch 2.11 writes down how the sizes divide at
    a pooling, so that FCN, Hypercolumn and DeepLabV3 with corners not aligned are for one size there, as
    `Exported.fixed` says.
    """
    return _exported(network, Path(path), size, classes, dynamic, ".pt2", _save_program, _load_program)


def _exported(network: nn.Module, path: Path, size, classes, dynamic: bool, suffix: str, save, load) -> Exported:
    if path.suffix != suffix or not path.parent.is_dir():
        raise ValueError(f"expected a file {suffix} in a folder that is there, got {path}")
    notes = _notes(network, classes)
    network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.rand(2, getattr(network, "in_channels", 3), height, width)
    same_size = _shape(network, images, classes)[2:] == images.shape[2:]
    fixed = "" if dynamic else "as was asked"
    for free in (SIZES, BATCH) if dynamic else (BATCH,):
        names = {axis: name if same_size or not axis else f"logits_{name}" for axis, name in free.items()}
        try:
            with _whole(path) as temporary, _quiet():
                program = _followed(network, images, free)
                allowed = SWITCHED if any(node.target is UNPOOL for node in program.graph.nodes) else 0.0
                opset = save(program, temporary, notes, free, names)
                run = _loaded(load, temporary)
                found = _compared(network, run, _sizes(height, width, free), images.shape[1], allowed)
            return Exported(path, path.stat().st_size, tuple(free.values()), fixed, *found, opset)
        except ValueError as error:
            fixed, cause = str(error), error
    raise ValueError(f"{path} was not written: {fixed}") from cause


def _notes(network: nn.Module, classes: Sequence[str] | None) -> dict[str, str]:
    """The metadata: texts by name, which is what ONNX can hold."""
    described, channels = checkpoint.describe(network), getattr(network, "in_channels", 3)
    return {
        "model": described["model"] or type(network).__name__,
        "arguments": json.dumps(described.get("arguments", {})),
        "classes": json.dumps(None if classes is None else list(classes)),
        "input": f"images: float32 (batch, {channels}, height, width), values in [0, 1]",
        "output": "logits: float32 (batch, classes, height, width), raw: the class of a pixel is that of the largest, "
                  "and softmax over axis 1 makes probabilities of them",
        "segviz": __version__,
        "torch": torch.__version__,
    }


def _shape(network: nn.Module, images: Tensor, classes: Sequence[str] | None) -> torch.Size:
    """Of the logits. ValueError in words where they are none, or do not fit the classes."""
    try:
        logits = network(images)
    except Exception as error:
        raise ValueError(f"the network takes no images {tuple(images.shape)}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 4 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"expected a network that makes logits (B, num_classes, h, w) of images (B, C, H, W), but of "
                         f"{tuple(images.shape)} it makes {found}")
    if classes is not None and len(classes) != logits.shape[1]:
        raise ValueError(f"the network has {logits.shape[1]} classes, but {len(classes)} names came: {list(classes)}")
    return logits.shape


def _followed(network: nn.Module, images: Tensor, free: dict[int, str]) -> ExportedProgram:
    """The network's graph. ValueError in words where torch cannot follow it, or not with those axes unknown."""
    try:
        with _any_size():
            program = torch.export.export(network, (images,), dynamic_shapes=(dict.fromkeys(free, Dim.DYNAMIC),))
    except Exception as error:  # whatever somebody's network does to torch
        raise ValueError(f"torch.export cannot follow it with any {' and '.join(free.values())}: {_first(error)}"
                         ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _any_size():
    """Torch then asks of the example's sizes only what it must. Else the graph would be for sizes that are like them:
    that need no filling up, say. Torch's own exporter to ONNX does the same."""
    return torch.fx.experimental._config.patch(backed_size_oblivious=True)


def _save_program(program: ExportedProgram, path: Path, notes: dict, free: dict, names: dict) -> None:
    torch.export.save(program, path, extra_files={"segviz.json": json.dumps(notes)})


def _loaded(load: Callable, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        return load(path)
    except Exception as error:
        raise ValueError(f"the file cannot be read back: {_first(error)}") from error


def _load_program(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _save_onnx(program: ExportedProgram, path: Path, notes: dict, free: dict, names: dict) -> int:
    import onnx

    try:
        with _any_size():
            program = program.run_decompositions(OTHERWISE)
        made = torch.onnx.export(program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False)
    except Exception as error:
        raise ValueError(f"torch.onnx cannot translate it: {_first(error)}") from error
    model = made.model_proto
    for value, axes in ((model.graph.input[0], free), (model.graph.output[0], names)):
        for axis, name in axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for node in model.graph.node:
        del node.metadata_props[:]  # paths of this machine
    del model.graph.value_info[:]   # sizes of the maps between, in names that nobody knows
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, path)
    return next(entry.version for entry in model.opset_import if not entry.domain)


def _load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised: it need not print them too
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _averages(maps: Tensor, output_size: list[int]) -> Tensor:
    """`F.adaptive_avg_pool2d`, as two products with matrices."""
    rows, columns = (_regions(maps.shape[axis], count, maps) for axis, count in zip((-2, -1), output_size, strict=True))
    return rows @ maps @ columns.T


def _regions(size: int, count: int, maps: Tensor) -> Tensor:
    """(count, size): row i averages region i, from floor(i size / count) to ceil((i + 1) size / count)."""
    places, i = torch.arange(size, device=maps.device), torch.arange(count, device=maps.device)[:, None]
    inside = (places >= i * size // count) & (places < ((i + 1) * size + count - 1) // count)
    weights = inside.to(maps.dtype)
    return weights / weights.sum(dim=1, keepdim=True)


def _unpooled(maps: Tensor, switches: Tensor, output_size: list[int]) -> Tensor:
    """`F.max_unpool2d`, as a scatter into each flattened map."""
    height, width = output_size
    flat = maps.new_zeros(*maps.shape[:2], height * width)
    return flat.scatter(2, switches.flatten(2), maps.flatten(2)).unflatten(2, (height, width))


UNPOOL = torch.ops.aten.max_unpool2d.default
OTHERWISE = {  # what torch's exporter to ONNX does not know (UNPOOL), or writes down for one size of map
    torch.ops.aten.adaptive_avg_pool2d.default: _averages,
    UNPOOL: _unpooled,
}


def _sizes(height: int, width: int, free: dict[int, str]) -> list[tuple[int, int, int]]:
    """(B, H, W): the example's, and, where they are free, others: larger ones that strides divide, odd ones, small."""
    sizes = [(2, height, width), (1, height, width), (3, height, width)]
    if free is SIZES:
        sizes += [(1, height + 64, width + 32), (1, height + 1, width + 38), (1, height // 2 + 1, width // 2 + 3)]
    return sizes


def _compared(network: nn.Module, run: Callable, sizes: list, channels: int, allowed: float) -> tuple:
    """The sizes that the network takes; `difference` and `apart` of `Exported`. ValueError in words where more than the
    share `allowed` is apart, and where the file does not run."""
    generator, tried, differences, shares = torch.Generator().manual_seed(0), [], [], []
    for batch, height, width in sizes:
        images = torch.rand(batch, channels, height, width, generator=generator)
        try:
            logits = network(images)
        except (ValueError, RuntimeError):
            continue  # no size for this network
        try:
            found = run(images)
        except Exception as error:
            raise ValueError(f"the file does not take images {tuple(images.shape)}: {_first(error)}") from error
        if found.shape != logits.shape:
            raise ValueError(f"of images {tuple(images.shape)} the file makes logits {tuple(found.shape)}, the network "
                             f"{tuple(logits.shape)}")
        distance = (found - logits).abs() / logits.abs().max().clamp(min=1)
        share = float((~(distance <= TOLERANCE)).float().mean())  # NaN counts
        if share > allowed:
            raise ValueError(f"the file does not compute what the network computes: of images {tuple(images.shape)} "
                             f"{share:.1%} of the logits differ by more than {TOLERANCE:g}, the largest difference is "
                             f"{float(distance.max()):.2g}")
        tried.append((batch, height, width))
        differences.append(float(distance.max()))
        shares.append(share)
    if len(sizes) > 3 and len(tried) == 3:
        raise ValueError("the network takes none of the other sizes that were tried")
    return tuple(tried), max(differences), max(shares)


def _first(error: Exception) -> str:
    """The first line of what torch says in many."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path`, which takes its place if all goes well, and is removed if not."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        temporary.touch()  # at once, for what follows takes a while
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without two warnings of torch 2.11 about its own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        yield
