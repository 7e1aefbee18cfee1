"""A stack of 3x3 convolutions of several rates, along one axis: for the explorer of atrous convolution (lesson 10)."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import gcd

import torch
from torch import Tensor

MOST_RATE = 9
STRIDES = (2, 2, 2, 1)                   # of the network whose strides are traded for rates
OUTPUT_STRIDES = (8, 4, 2, 1)
ORDINALS = ("", "", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
NAMED = 5                                # holes that are named one by one


def converted(output_stride: int) -> list[tuple[int, int]]:
    """(stride, rate) of each layer of `STRIDES`, with no more stride than that. A layer that would exceed it does not
    stride, and the rates of all behind it are doubled (DeepLab v3, section 3.1)."""
    layers, jump, rate = [], 1, 1
    for stride in STRIDES:
        kept = stride if jump * stride <= output_stride else 1
        layers.append((kept, rate))
        jump, rate = jump * kept, rate * stride // kept
    return layers


@dataclass(frozen=True)
class Setting:
    """The layers, 3x3 convolutions padded by their rates, on `size` pixels a side. layers: (stride, rate) of each."""

    size: int
    layers: list[tuple[int, int]]

    @cached_property
    def jumps(self) -> list[int]:
        """Pixels from one unit to the next, of the input and of each layer's map."""
        return list(accumulate((stride for stride, _ in self.layers), int.__mul__, initial=1))

    @cached_property
    def sizes(self) -> list[int]:
        return [(self.size - 1) // jump + 1 for jump in self.jumps]

    @cached_property
    def spans(self) -> list[int]:
        """Pixels between two weights of each layer: its rate, times the jump of the map that it reads."""
        return [jump * rate for jump, (_, rate) in zip(self.jumps, self.layers, strict=False)]

    @property
    def names(self) -> list[str]:
        return [f"3×3{f', stride {stride}' if stride > 1 else ''}, rate {rate}" for stride, rate in self.layers]

    @cached_property
    def reads(self) -> list[list[list[int]]]:
        """For each layer and each of its units, the units of the map before that it reads."""
        return [[[at for at in range(unit * stride - rate, unit * stride + rate + 1, rate) if 0 <= at < old]
                 for unit in range(new)]
                for (old, new), (stride, rate) in zip(pairwise(self.sizes), self.layers, strict=True)]

    @cached_property
    def _counts(self) -> list[Tensor]:
        """Along how many paths each unit of the last map reaches each of every map, the input first."""
        found = [torch.eye(self.sizes[-1], dtype=torch.float64)]
        for reads, size in zip(reversed(self.reads), self.sizes[-2::-1], strict=True):
            way = torch.zeros(len(reads), size, dtype=torch.float64)
            way[[unit for unit, each in enumerate(reads) for _ in each], [at for each in reads for at in each]] = 1
            found.append(found[-1] @ way)
        return found[::-1]

    @property
    def paths(self) -> Tensor:
        """Along how many paths each unit of the last map reaches each pixel, float64 (units, size)."""
        return self._counts[0]

    @cached_property
    def lit(self) -> list[Tensor]:
        """Of every map, the input first, which units each unit of the last reads: bool (units, its size)."""
        return [counts > 0 for counts in self._counts]

    @property
    def fields(self) -> list[tuple[int, int]]:
        """(low, high) of each unit of the last map, in pixels, half open, not clipped."""
        reach = sum(self.spans)
        return [(unit * self.jumps[-1] - reach, unit * self.jumps[-1] + reach + 1) for unit in range(self.sizes[-1])]

    @cached_property
    def hull(self) -> Tensor:
        """Which pixels lie in each unit's field, bool (units, size)."""
        low, high = torch.tensor(self.fields).T[:, :, None]
        pixels = torch.arange(self.size)
        return (pixels >= low) & (pixels < high)

    @cached_property
    def read(self) -> Tensor:
        """Share of the field's pixels on the map that each unit reads, (units,)."""
        return self.lit[0].sum(1) / self.hull.sum(1)

    @cached_property
    def on_the_map(self) -> Tensor:
        """Share of each unit's paths that meet no padding, (units,)."""
        return self.paths.sum(1) / 3 ** len(self.layers)

    @property
    def weights_used(self) -> list[float]:
        """For each layer, which share of the 9 weights at each of its units reads its map, not padding."""
        return [(sum(map(len, reads)) / len(reads) / 3) ** 2 for reads in self.reads]

    @property
    def is_converted(self) -> bool:
        """Whether these are the layers of `converted`."""
        return self.layers in [converted(stride) for stride in OUTPUT_STRIDES]

    @cached_property
    def far(self) -> Tensor:
        """Along how many paths a unit far from the border reaches the pixel in its middle, and those to one side of it,
        as far as its field goes."""
        reach = sum(self.spans)
        counts = torch.zeros(2 * reach + 1, dtype=torch.long)
        counts[reach] = 1
        for span in self.spans:
            counts = counts + counts.roll(span) + counts.roll(-span)
        return counts[reach:]


def said(s: Setting) -> str:
    """What a unit far from the border reads and leaves out, in words."""
    rates, strides = ([str(layer[part]) for layer in s.layers] for part in (1, 0))
    who = f"Rate{'s' * (len(rates) > 1)} {', '.join(rates)}"
    if s.is_converted:
        who = f"Output stride {s.jumps[-1]}: strides {', '.join(strides)} and rates {', '.join(rates)}"
    return f"{who} read{'s' * (len(rates) == 1)} {_read(s)}{_always(s)}{_alone(s)}"


def _read(s: Setting) -> str:
    field, most, holes = 2 * len(s.far) - 1, int(s.far.max()), (s.far == 0).nonzero().flatten().tolist()
    apart, read = gcd(*s.spans), field - 2 * len(holes)
    if not holes:
        ways = "one path" if most == 1 else f"1 to {most} paths"
        return f"every pixel of the field, {field} in a row, along {ways} each."
    if apart == 1:
        named = " and ".join(filter(None, [", ".join(map(str, holes[:NAMED])), _more(len(holes) - NAMED)]))
        return f"{read} of the field's {field} pixels in a row. Holes, counted from its middle to either side: {named}."
    how = "" if read == field // apart + 1 else ", and not all of those"
    return (f"only every {ORDINALS[apart]} pixel of a row{how}: {read} of the field's {field}. Neighbouring units "
            f"share no pixel: the map falls apart into {apart} × {apart} maps that know nothing of each other.")


def _more(count: int) -> str:
    return f"{count} more" if count > 0 else ""


def _always(s: Setting) -> str:
    """What does not change with the output stride."""
    lies = f"{s.jumps[-1]} pixels apart" if s.jumps[-1] > 1 else "on every pixel"
    return f" So it is at every output stride; at this one the units lie {lies}." if s.is_converted else ""


def _alone(s: Setting) -> str:
    """The layers that are no more than a 1x1 convolution."""
    maps = zip(s.layers, s.sizes, strict=False)
    layers = [str(number) for number, ((_, rate), size) in enumerate(maps, 1) if rate >= size]
    if not layers:
        return ""
    return (f" Layer{'s' * (len(layers) > 1)} {', '.join(layers)}: the rate is no smaller than the map, so that all "
            "weights but the middle one meet padding, everywhere: a 1 × 1 convolution is left.")
