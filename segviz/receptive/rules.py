"""What the output of each operator of PyTorch reads of its input.

A rule takes the trace, the operator's arguments by name, and its output; it reports what a list of layers should show,
and returns the output's place. Names are those of the operators below torch's functions (aten).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from .lines import Taps, adaptive, resized, transposed, window
from .maps import MIXED, Place, axes_of, joined

ELEMENTWISE = {"_prelu_kernel", "hardswish", "native_dropout", "_to_copy", "native_batch_norm",
               "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
               "miopen_batch_norm", "native_group_norm", "native_layer_norm", "_fused_rms_norm", "channel_shuffle",
               "native_channel_shuffle", "lift_fresh", "view_as_real", "rrelu_with_noise", "nan_to_num"}  # fmt: skip
FORGETFUL = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
             "new_empty", "new_full", "new_empty_strided", "sym_size", "is_same_size"}  # fmt: skip


def _each(value, dims: int) -> list[int]:
    """One number per dimension, where one for all may stand."""
    value = [value] if isinstance(value, int) else list(value)
    return value * dims if len(value) == 1 else value


def _along_last(place: Place, taps: list[Taps], out: Tensor) -> Place:
    """An operator that reads the last dimensions, one of `taps` each."""
    dims = range(len(place.layout) - len(taps), len(place.layout))
    place = place.through({dim: (tap, out.shape[dim]) for dim, tap in zip(dims, taps, strict=True)})
    before = len(place.layout) - len(taps) - 1
    if before >= 0 and math.prod(n for _, n in place.layout[before]) != out.shape[before]:
        if axes_of(place.layout[before]):
            raise ValueError("it mixes rows or columns as though they were channels")
        layout = list(place.layout)
        layout[before] = ((None, out.shape[before]),)
        place = replace(place, layout=tuple(layout))
    return place


def _read(trace, kind: str, tensor: Tensor, taps: list[Taps], out: Tensor) -> Place:
    place = _along_last(trace.place(tensor), taps, out)
    trace.report(kind, place)
    return place


def _convolution(trace, given, out):
    place, kernel = trace.place(given["input"]), given["weight"].shape[2:]
    if trace.place(given["weight"]) or place is None:
        raise ValueError("its weights are computed from the input")
    if place.layout and axes_of(place.layout[-len(kernel) - 1]):
        raise ValueError("it mixes rows or columns as though they were channels")
    numbers = [_each(given[key], len(kernel)) for key in ("stride", "padding", "dilation")]
    make = transposed if given["transposed"] else window
    kind = f"conv{'_transpose' * given['transposed']}{len(kernel)}d"
    return _read(trace, kind, given["input"], [make(*each) for each in zip(kernel, *numbers, strict=True)], out)


def _pool(kind):
    def rule(trace, given, out):
        dims = int(kind[-2])
        first = out[0] if isinstance(out, tuple) else out
        kernel = _each(given["kernel_size"], dims)
        stride = _each(given["stride"] or kernel, dims)
        padding, dilation = _each(given["padding"], dims), _each(given.get("dilation", 1), dims)
        windows = list(zip(kernel, stride, padding, dilation, strict=True))
        if isinstance(out, tuple):
            trace.windows[id(out[1])] = windows
        return _read(trace, kind, given["self"], [window(*each) for each in windows], first)

    return rule


def _unpool(trace, given, out):
    windows = trace.windows.get(id(given["indices"]))
    if windows is None:
        raise ValueError("its indices are not those that a max pooling returned")
    place = joined([trace.place(given["self"]), trace.place(given["indices"])], given["self"].shape)
    place = _along_last(place, [transposed(*each) for each in windows], out)
    trace.report("max_unpool2d", place)
    return place


def _adaptive_pool(kind):
    def rule(trace, given, out):
        first, before = out[0] if isinstance(out, tuple) else out, given["self"].shape
        taps = [adaptive(before[dim], first.shape[dim]) for dim in (-2, -1)]
        return _read(trace, kind, given["self"], taps, first)

    return rule


def _interpolate(mode):
    def rule(trace, given, out):
        before, scales = given["self"].shape, (given["scales_h"], given["scales_w"])
        corners = bool(given.get("align_corners", False))
        taps = [resized(mode, before[d], out.shape[d], corners, s) for d, s in zip((-2, -1), scales, strict=True)]
        return _read(trace, "interpolate", given["self"], taps, out)

    return rule


def _shuffle(trace, given, out):
    factor = given["upscale_factor"]
    return _read(trace, "pixel_shuffle", given["self"], [Taps(((0,),) * factor, 1)] * 2, out)


def _unshuffle(trace, given, out):
    factor = given["downscale_factor"]
    return _read(trace, "pixel_unshuffle", given["self"], [window(factor, factor)] * 2, out)


def _unfold(trace, given, out):
    numbers = [_each(given[key], 2) for key in ("kernel_size", "stride", "padding", "dilation")]
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(given["self"].shape[-2:], *numbers, strict=True)
    ]
    like = torch.empty((*out.shape[:-1], *sizes), device="meta")
    taps = [window(*each) for each in zip(*numbers, strict=True)]
    return _read(trace, "unfold", given["self"], taps, like).viewed(out.shape)


def _pad(border):
    def rule(trace, given, out):
        place, pads = trace.place(given["self"]), given.get("pad", given.get("padding"))
        reading = {}
        for number, start in enumerate(pads[::2], 1):
            dim = len(place.layout) - number
            reading[dim] = Taps(((-start,),), 1, border), out.shape[dim]
        return _moved(trace, "pad", place, reading)

    return rule


def _moved(trace, kind, place, reading):
    """Units that move: cropped, padded. Other dimensions than rows and columns are padded with what is no unit's."""
    result = place.through({dim: each for dim, each in reading.items() if axes_of(place.settled(dim).layout[dim])})
    layout = list(result.layout)
    for dim, (_, size) in reading.items():
        before = math.prod(n for _, n in layout[dim])
        if before != size:
            layout[dim] = ((MIXED if size > before else None, size),)
    result = replace(result, layout=tuple(layout))
    if result.map.sizes != place.map.sizes or result.map.lines != place.map.lines:
        trace.report(kind, result)
    return result


def _slice(trace, given, out):
    place = trace.place(given["self"])
    dim = given["dim"] % len(place.layout)
    start = slice(given["start"], given["end"]).indices(given["self"].shape[dim])[0]
    return _moved(trace, "crop", place, {dim: (Taps(((start,),), given["step"]), out.shape[dim])})


def _select(trace, given, out):
    place = trace.place(given["self"])
    dim, size = given["dim"] % len(place.layout), given["self"].shape[given["dim"]]
    taps = Taps(((given["index"] % size,),), 0)
    return _moved(trace, "crop", place, {dim: (taps, 1)}).without([dim])


def _split(trace, given, out):
    dim, start = given["dim"] % given["self"].ndim, 0
    for piece in out:
        cut = {"self": given["self"], "dim": dim, "start": start, "end": None, "step": 1}
        trace.places[id(piece)] = piece, _slice(trace, cut, piece)
        start += piece.shape[dim]


def _unbind(trace, given, out):
    for index, piece in enumerate(out):
        trace.places[id(piece)] = piece, _select(trace, {**given, "index": index}, piece)


def _flip(trace, given, out):
    place, shape = trace.place(given["self"]), given["self"].shape
    dims = [dim % len(shape) for dim in given["dims"]]
    return _moved(trace, "flip", place, {dim: (Taps(((shape[dim] - 1,),), -1), shape[dim]) for dim in dims})


def _view(trace, given, out):
    return trace.place(given["self"]).viewed(out.shape)


def _strided(trace, given, out):
    place = trace.place(given["self"])
    if place.map.sizes != (1, 1) or given["self"].numel() != out.numel():
        raise ValueError("it lays a map out anew in memory")
    return place.viewed(out.shape)  # a single unit: there is nothing to mix


def _permute(trace, given, out):
    place = trace.place(given["self"])
    return replace(place, layout=tuple(place.layout[dim] for dim in given["dims"]))


def _transpose(trace, given, out):
    layout = list(trace.place(given["self"]).layout)
    if len(layout) > 1:
        one, other = given.get("dim0", 0), given.get("dim1", 1)
        layout[one], layout[other] = layout[other], layout[one]
    return replace(trace.place(given["self"]), layout=tuple(layout))


def _unsqueeze(trace, given, out):
    layout = list(trace.place(given["self"]).layout)
    layout.insert(given["dim"] % out.ndim, ())
    return replace(trace.place(given["self"]), layout=tuple(layout))


def _squeeze(trace, given, out):
    shape, dims = given["self"].shape, given.get("dim")
    dims = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    return trace.place(given["self"]).without([dim % len(shape) for dim in dims if shape[dim] == 1])


def _expand(trace, given, out):
    return trace.elementwise("expand", [trace.place(given["self"])], out)


def _cat(trace, given, out):
    tensors = given["tensors"]
    places = [place for tensor in tensors if (place := trace.place(tensor))]
    dim = given["dim"] % out.ndim
    if out.ndim > tensors[0].ndim:  # stack
        places = [replace(each, layout=(*each.layout[:dim], (), *each.layout[dim:])) for each in places]
    if any(axes_of(place.layout[dim]) for place in places):
        raise ValueError("it puts maps one after another along their rows or columns")
    same = len({place.map for place in places}) == 1 and len(places) == len(tensors)
    factors = ((None if same else MIXED, out.shape[dim]),)
    return trace.elementwise(
        "cat", [replace(each, layout=(*each.layout[:dim], factors, *each.layout[dim + 1 :])) for each in places], out
    )


def _reduce(kind):
    def rule(trace, given, out):
        place, before = trace.place(given["self"]), given["self"].ndim
        dims = given.get("dim")
        dims = range(before) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        dims = [dim % before for dim in dims]
        result = place.mixed(dims, lambda n: 1)
        if result.map is not place.map:
            trace.report(kind, result)
        first = out[0] if isinstance(out, tuple) else out
        return result if first.ndim == before else result.without(dims)

    return rule


def _softmax(trace, given, out):
    place = trace.place(given["self"])
    result = place.mixed([given["dim"] % len(place.layout)], lambda n: n)
    if result.map is not place.map:
        trace.report("softmax", result)
    return result


def _matmul(left, right):
    def rule(trace, given, out):
        one, other = trace.place(given[left]), trace.place(given[right])
        rows, columns = out.shape[-2:]
        places = []
        if one:  # (..., rows, summed) -> (..., rows, columns)
            one = one.mixed([len(one.layout) - 1], lambda n: 1).without([len(one.layout) - 1])
            places.append(replace(one, layout=(*one.layout, ((None, columns),))))
        if other:  # (..., summed, columns) -> (..., rows, columns)
            dim = len(other.layout) - 2
            other = other.mixed([dim], lambda n: 1).without([dim])
            places.append(replace(other, layout=(*other.layout[:-1], ((None, rows),), other.layout[-1])))
        if one and other and all(any(map(axes_of, place.layout)) for place in (one, other)):
            places = [_whole(place, out) for place in places]  # each unit of one meets each unit of the other
        if (bias := trace.place(given["self"]) if left != "self" else None) is not None:
            places.append(bias)
        place = joined(places, out.shape)
        changed = all(place.map.lines != trace.place(given[key]).map.lines for key in (left, right)
                      if trace.place(given[key]))  # fmt: skip
        if changed or trace.in_layer():
            trace.report("matmul", place)
        return place

    return rule


def _whole(place: Place, out: Tensor) -> Place:
    """Where each number of `out` reads the whole map."""
    place = place.mixed(range(len(place.layout)), lambda n: 1)
    return replace(place, layout=tuple(((None, n),) for n in out.shape))


def _attention(trace, given, out):
    tensors = [tensor for tensor in given.values() if trace.place(tensor)]
    first = out[0] if isinstance(out, tuple) else out
    place = joined([_whole(trace.place(tensor), first) for tensor in tensors], first.shape)
    trace.report("attention", place)
    return place


def _copy(trace, given, out):
    source = trace.place(given["src"])
    return joined([source], out.shape) if source else trace.place(given["self"])


def _glu(trace, given, out):
    place, dim = trace.place(given["self"]), given["dim"] % out.ndim
    if axes_of(place.layout[dim]):
        raise ValueError("it gates one half of the rows or columns with the other")
    return replace(place, layout=(*place.layout[:dim], ((None, out.shape[dim]),), *place.layout[dim + 1 :]))


RULES = {
    "convolution": _convolution,
    **{f"max_pool{n}d_with_indices": _pool(f"max_pool{n}d") for n in (2, 3)},
    **{f"avg_pool{n}d": _pool(f"avg_pool{n}d") for n in (2, 3)},
    "max_unpool2d": _unpool,
    "_adaptive_avg_pool2d": _adaptive_pool("adaptive_avg_pool2d"),
    "adaptive_max_pool2d": _adaptive_pool("adaptive_max_pool2d"),
    "upsample_nearest2d": _interpolate("nearest"),
    "_upsample_nearest_exact2d": _interpolate("nearest-exact"),
    "upsample_bilinear2d": _interpolate("bilinear"),
    "upsample_bicubic2d": _interpolate("bicubic"),
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _unshuffle,
    "im2col": _unfold,
    "constant_pad_nd": _pad("nothing"),
    "replication_pad2d": _pad("edge"),
    "reflection_pad2d": _pad("mirror"),
    "slice": _slice,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "flip": _flip,
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape"), _view),
    "as_strided": _strided,
    "permute": _permute,
    **dict.fromkeys(("transpose", "t"), _transpose),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("expand", "alias", "detach", "clone"), _expand),
    **dict.fromkeys(("cat", "stack"), _cat),
    **{name: _reduce(name) for name in ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "logsumexp",
                                        "any", "all", "argmax", "argmin", "norm")},
    "linalg_vector_norm": _reduce("norm"),
    "var_mean": _reduce("var_mean"),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
    "mm": _matmul("self", "mat2"),
    "bmm": _matmul("self", "mat2"),
    "addmm": _matmul("mat1", "mat2"),
    "baddbmm": _matmul("batch1", "batch2"),
    **dict.fromkeys(("_native_multi_head_attention", "_scaled_dot_product_flash_attention_for_cpu",
                     "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
                     "_scaled_dot_product_cudnn_attention"), _attention),
    "copy": _copy,
    "glu": _glu,
}  # fmt: skip
