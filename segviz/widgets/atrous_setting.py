"""One stack of 3x3 convolutions of several rates, along one axis, for the explorer of atrous convolution (lesson 10)."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import gcd, prod

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
    def ways(self) -> list[Tensor]:
        """For each layer bool (its units, units of the map that it reads): which reads which."""
        found = []
        for (old, new), (stride, rate) in zip(pairwise(self.sizes), self.layers, strict=True):
            taps = stride * torch.arange(new)[:, None] + rate * torch.arange(-1, 2)
            found.append((taps[:, :, None] == torch.arange(old)).any(1))
        return found

    @cached_property
    def _counts(self) -> list[Tensor]:
        """Along how many paths each unit of the last map reaches each of every map, the input first."""
        found = [torch.eye(self.sizes[-1], dtype=torch.float64)]
        for way in reversed(self.ways):
            found.append(found[-1] @ way.double())
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

    @cached_property
    def weights_on_the_map(self) -> list[Tensor]:
        """For each layer, the last first: which share of its paths, of those that came so far, meets no padding."""
        sums = [counts.sum(1) for counts in reversed(self._counts)]
        return [after / before / 3 for before, after in pairwise(sums)]

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
    field, holes = 2 * len(s.far) - 1, (s.far == 0).nonzero().flatten().tolist()
    rates = ", ".join(str(rate) for _, rate in s.layers)
    start = f"Rate{'s' * (len(s.layers) > 1)} {rates}"
    if prod(stride for stride, _ in s.layers) > 1:
        start += ", strides " + ", ".join(str(stride) for stride, _ in s.layers)
    return f"{start}: the field is {field} pixels wide. {_holes(s, holes, field)}{_border(s)}"


def _holes(s: Setting, holes: list[int], field: int) -> str:
    apart, most, fewest = gcd(*s.spans), int(s.far.max()), int(s.far[s.far > 0].min())
    if not holes:
        ways = "one path" if most == 1 else f"{fewest} to {most} paths"
        return f"Every pixel of it is read, each along {ways} in a row."
    read = f"Of a row, {field - 2 * len(holes)} pixels are read"
    if apart > 1:
        more = "" if len(holes) == len(s.far) - 1 - sum(s.spans) // apart else ", and not even all of those"
        return (f"{read}, only every {ORDINALS[apart]}{more}: neighbouring units share no pixel, and the map falls "
                f"apart into {apart} × {apart} that know nothing of each other.")
    named = ", ".join(map(str, holes[:NAMED])) + (f" and {len(holes) - NAMED} more" if len(holes) > NAMED else "")
    return f"{read}; left out are those {named} from its middle, on either side."


def _border(s: Setting) -> str:
    alone = [number for number, ((_, rate), size) in enumerate(zip(s.layers, s.sizes, strict=False), 1) if rate >= size]
    if not alone:
        return ""
    which = ", ".join(map(str, alone))
    return (f" Layer{'s' * (len(alone) > 1)} {which}: the rate is no smaller than the map, so that all weights but the "
            "middle one meet padding everywhere: a 1×1 convolution.")
