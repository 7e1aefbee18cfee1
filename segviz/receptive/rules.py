"""What the output of each operator of PyTorch reads of its input.

A rule takes the trace, the operator's arguments by name, and its output; it reports what a list of layers should show,
and returns the output's place. Names are those of the operators below torch's functions (aten). An operator that has no
rule, and does not go number by number, is refused by its name.
"""

from dataclasses import replace

from torch import Tensor

from .lines import Taps, adaptive, resized, transposed, window
from .maps import Place, axes_of, joined

ELEMENTWISE = {"_prelu_kernel", "hardswish", "native_dropout", "_to_copy", "native_batch_norm",
               "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
               "miopen_batch_norm", "native_group_norm", "native_layer_norm"}  # fmt: skip
FORGETFUL = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
             "new_empty", "new_full"}  # fmt: skip


def _each(value, dims: int = 2) -> list[int]:
    """One number per dimension, where one for all may stand."""
    value = [value] if isinstance(value, int) else list(value)
    return value * dims if len(value) == 1 else value


def _read(trace, kind: str, place: Place, taps: list[Taps], out: Tensor) -> Place:
    """An operator that reads the last dimensions, one of `taps` each, and may change the number of channels."""
    dims, channels = range(out.ndim - len(taps), out.ndim), out.ndim - len(taps) - 1
    if channels >= 0 and axes_of(place.layout[channels]):
        raise ValueError("it finds rows or columns of the map where its channels should be")
    place = place.through({dim: (tap, out.shape[dim]) for dim, tap in zip(dims, taps, strict=True)})
    if channels >= 0:
        place = place.replaced(channels, ((None, out.shape[channels]),))
    trace.report(kind, place)
    return place


# --- windows that slide


def _convolution(trace, given, out):
    place, kernel = trace.place(given["input"]), given["weight"].shape[2:]
    if trace.place(given["weight"]) or place is None:
        raise ValueError("its weights are computed from the input")
    numbers = [_each(given[key], len(kernel)) for key in ("stride", "padding", "dilation")]
    make = transposed if given["transposed"] else window
    kind = f"conv{'_transpose' * given['transposed']}{len(kernel)}d"
    return _read(trace, kind, place, [make(*each) for each in zip(kernel, *numbers, strict=True)], out)


def _pool(kind):
    def rule(trace, given, out):
        kernel = _each(given["kernel_size"])
        numbers = [_each(given["stride"] or kernel), _each(given["padding"]), _each(given.get("dilation", 1))]
        windows = list(zip(kernel, *numbers, strict=True))
        if isinstance(out, tuple):
            trace.windows[id(out[1])] = windows
            out = out[0]
        return _read(trace, kind, trace.place(given["self"]), [window(*each) for each in windows], out)

    return rule


def _unpool(trace, given, out):
    windows = trace.windows.get(id(given["indices"]))
    if windows is None:
        raise ValueError("its indices are not those that a max pooling returned")
    place = joined([trace.place(given["self"]), trace.place(given["indices"])], given["self"].shape)
    return _read(trace, "max_unpool2d", place, [transposed(*each) for each in windows], out)


def _adaptive_pool(trace, given, out):
    taps = [adaptive(given["self"].shape[dim], out.shape[dim]) for dim in (-2, -1)]
    return _read(trace, "adaptive_avg_pool2d", trace.place(given["self"]), taps, out)


def _interpolate(mode):
    def rule(trace, given, out):
        before, scales = given["self"].shape, (given["scales_h"], given["scales_w"])
        corners = bool(given.get("align_corners", False))
        taps = [resized(mode, before[d], out.shape[d], corners, s) for d, s in zip((-2, -1), scales, strict=True)]
        return _read(trace, "interpolate", trace.place(given["self"]), taps, out)

    return rule


def _pixel_shuffle(trace, given, out):
    taps = [Taps(((0,),) * given["upscale_factor"], 1)] * 2
    return _read(trace, "pixel_shuffle", trace.place(given["self"]), taps, out)


# --- units that move: padded, cropped


def _pad(border):
    def rule(trace, given, out):
        pads = given["pad"] if border == "nothing" else given["padding"]
        reading = {}
        for number, start in enumerate(pads[::2], 1):
            dim = out.ndim - number
            reading[dim] = Taps(((-start,),), 1, border), out.shape[dim]
        return _moved(trace, "pad", trace.place(given["self"]), reading)

    return rule


def _slice(trace, given, out):
    dim, before = given["dim"] % out.ndim, given["self"].shape
    start = slice(given["start"], given["end"]).indices(before[dim])[0]
    return _moved(trace, "crop", trace.place(given["self"]), {dim: (Taps(((start,),), given["step"]), out.shape[dim])})


def _split(trace, given, out):
    dim, start = given["dim"] % given["self"].ndim, 0
    for piece in out:
        cut = {"self": given["self"], "dim": dim, "start": start, "end": None, "step": 1}
        trace.places[id(piece)] = piece, _slice(trace, cut, piece)
        start += piece.shape[dim]


def _moved(trace, kind, place, reading):
    """Along rows and columns units move; channels only change their number."""
    result = place.through({dim: each for dim, each in reading.items() if axes_of(place.settled(dim).layout[dim])})
    for dim, (_, size) in reading.items():
        if not axes_of(result.layout[dim]):
            result = result.replaced(dim, ((None, size),))
    if result.map.sizes != place.map.sizes or result.map.lines != place.map.lines:
        trace.report(kind, result)
    return result


# --- the same numbers, laid out in another way


def _view(trace, given, out):
    return trace.place(given["self"]).viewed(out.shape)


def _view_of_one_unit(trace, given, out):
    """What global pooling of a map in channels-last order ends with."""
    if trace.place(given["self"]).map.sizes != (1, 1) or given["self"].numel() != out.numel():
        raise ValueError("it lays a map out anew in memory")
    return _view(trace, given, out)


def _permute(trace, given, out):
    place = trace.place(given["self"])
    return replace(place, layout=tuple(place.layout[dim] for dim in given["dims"]))


def _transpose(trace, given, out):
    dims = list(range(out.ndim))
    one, other = given["dim0"], given["dim1"]
    dims[one], dims[other] = dims[other], dims[one]
    return _permute(trace, {"self": given["self"], "dims": dims}, out)


def _expand(trace, given, out):
    return trace.elementwise("expand", [trace.place(given["self"])], out)


# --- what joins


def _cat(trace, given, out):
    places, dim = [place for tensor in given["tensors"] if (place := trace.place(tensor))], given["dim"] % out.ndim
    if any(axes_of(place.layout[dim]) for place in places):
        raise ValueError("it puts maps one after another along their rows or columns")
    return trace.elementwise("cat", [place.replaced(dim, ((None, out.shape[dim]),)) for place in places], out)


def _reduce(kind):
    def rule(trace, given, out):
        place, dims, before = trace.place(given["self"]), given.get("dim"), given["self"].ndim
        dims = {dim % before for dim in dims or range(before)}
        result = place.mixed(dims)
        if result.map is not place.map:
            trace.report(kind, result)
        if out.ndim == before:
            return result
        return replace(result, layout=tuple(each for dim, each in enumerate(result.layout) if dim not in dims))

    return rule


def _linear(key):
    """(rows, summed) times weights (summed, columns): what a fully connected layer comes down to."""

    def rule(trace, given, out):
        place = trace.place(given[key])
        if place is None or any(trace.place(tensor) for name, tensor in given.items() if name != key):
            raise ValueError("its weights are computed from the input")
        result = place.mixed([1]).replaced(1, ((None, out.shape[1]),))
        if result.map.lines != place.map.lines or trace.in_layer():
            trace.report("matmul", result)
        return result

    return rule


RULES = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool("max_pool2d"),
    "avg_pool2d": _pool("avg_pool2d"),
    "max_unpool2d": _unpool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "upsample_nearest2d": _interpolate("nearest"),
    "upsample_bilinear2d": _interpolate("bilinear"),
    "pixel_shuffle": _pixel_shuffle,
    "constant_pad_nd": _pad("nothing"),
    "replication_pad2d": _pad("edge"),
    "reflection_pad2d": _pad("mirror"),
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("view", "_unsafe_view", "unsqueeze", "squeeze"), _view),
    "as_strided": _view_of_one_unit,
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(("expand", "alias", "detach", "clone"), _expand),
    "cat": _cat,
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "mm": _linear("self"),
    "addmm": _linear("mat1"),
}
