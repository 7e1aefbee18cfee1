"""One axis of a map: which units of another map an operator reads, and which pixels of the input units read."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

Span = tuple[int, int]  # pixels [first, last + 1)


@dataclass(frozen=True)
class Taps:
    """Which units of a map an operator reads, along one axis: unit `i + len(reads)` of its output reads what unit i
    reads, `step` units further on. border: what stands beyond the map: "nothing" (zeros), its "edge", or its "mirror"
    image."""

    reads: tuple[tuple[int, ...], ...]
    step: int
    border: str = "nothing"

    def of(self, unit: int) -> list[int]:
        turn, phase = divmod(unit, len(self.reads))
        return [source + turn * self.step for source in self.reads[phase]]


KEEP = Taps(((0,),), 1)  # unit i reads unit i
FIRST = Taps(((0,),), 0)  # every unit reads unit 0


def everything(size: int) -> Taps:
    return Taps((tuple(range(size)),), 0)


def window(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Taps:
    return Taps((tuple(k * dilation - padding for k in range(kernel)),), stride)


def transposed(kernel: int, stride: int, padding: int, dilation: int = 1) -> Taps:
    """Input i is written to the outputs i * stride - padding + k * dilation; here the other way round."""
    starts = [[phase + padding - k * dilation for k in range(kernel)] for phase in range(stride)]
    return Taps(tuple(tuple(sorted(s // stride for s in row if s % stride == 0)) for row in starts), 1)


def resized(mode: str, size: int, new: int, align_corners: bool, scale: float | None) -> Taps:
    """Interpolation of `size` units to `new`. Output i lies at `i * ratio + shift` in units of the input."""
    ratio, shift = Fraction(size, new), Fraction(0)
    if scale:
        ratio = 1 / Fraction(scale).limit_denominator(4096)
    if align_corners:
        ratio = Fraction(size - 1, new - 1) if new > 1 else Fraction(0)
    elif mode == "bilinear":
        shift = (ratio - 1) / 2
    places = [i * ratio + shift for i in range(ratio.denominator)]
    lows = [math.floor(place) for place in places]
    if mode == "bilinear":
        reads = ((low,) if low == place else (low, low + 1) for low, place in zip(lows, places, strict=True))
    else:
        reads = ((low,) for low in lows)
    return Taps(tuple(reads), ratio.numerator, "edge")


def adaptive(size: int, new: int) -> Taps:
    """PyTorch's adaptive pooling: output i reads from floor(i * size / new) to ceil((i + 1) * size / new)."""
    if new == 1:
        return everything(size)
    ratio = Fraction(size, new)
    bins = [range(math.floor(i * ratio), math.ceil((i + 1) * ratio)) for i in range(ratio.denominator)]
    return Taps(tuple(map(tuple, bins)), ratio.numerator)


@lru_cache(maxsize=64)
def matrix(taps: Taps, new: int, old: int) -> Tensor:
    """(new, old): 1 where unit `row` of the new map reads unit `column` of the old one, borders included."""
    result = torch.zeros(new, old)
    for unit in range(new):
        for source in taps.of(unit):
            if taps.border == "edge":
                source = min(max(source, 0), old - 1)
            elif taps.border == "mirror":
                source = abs(source) if source < old else 2 * (old - 1) - source
            if 0 <= source < old:
                result[unit, source] = 1
    return result


@dataclass(frozen=True)
class Part:
    """Spans that repeat: unit `i + len(spans)` reads what unit i reads, `pixels` further on. None: reads nothing."""

    spans: tuple[Span | None, ...]
    pixels: int

    def of(self, unit: int) -> Span | None:
        turn, phase = divmod(unit, len(self.spans))
        span = self.spans[phase]
        return span and (span[0] + turn * self.pixels, span[1] + turn * self.pixels)

    def shortest(self) -> "Part":
        """The same spans with the shortest period."""
        period = len(self.spans)
        for length in range(1, period):
            pixels, rest = divmod(self.pixels * length, period)
            if period % length == 0 and not rest:
                short = Part(self.spans[:length], pixels)
                if all(short.of(i) == span for i, span in enumerate(self.spans)):
                    return short
        return self

    @property
    def jump(self) -> Fraction:
        return Fraction(self.pixels, len(self.spans))


def hull(spans: Iterable[Span | None]) -> Span | None:
    found = [span for span in spans if span]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


@dataclass(frozen=True)
class Line:
    """What the units of a map read along one axis, also those that would lie beyond the map's ends: for each unit the
    hull of its parts. Several parts: branches that do not advance at the same pace, as a map and its global mean."""

    parts: tuple[Part, ...]

    def of(self, unit: int) -> Span | None:
        return hull(part.of(unit) for part in self.parts)

    def through(self, taps: Taps) -> "Line":
        """What the units of an operator read that reads a map with this line."""
        if taps == KEEP:
            return self
        result = []
        for part in self.parts:
            times = len(part.spans) // math.gcd(len(part.spans), taps.step)
            units = range(len(taps.reads) * times)
            spans = tuple(hull(part.of(source) for source in taps.of(unit)) for unit in units)
            result.append(Part(spans, part.pixels * taps.step * times // len(part.spans)).shortest())
        return Line(()).joined(Line(tuple(result)))

    def joined(self, other: "Line") -> "Line":
        """The hull of both. Parts of one pace become one."""
        parts = {part.jump: part for part in self.parts}
        for new in other.parts:
            old = parts.get(new.jump, new)
            period = math.lcm(len(old.spans), len(new.spans))
            spans = tuple(hull((old.of(unit), new.of(unit))) for unit in range(period))
            parts[new.jump] = Part(spans, int(new.jump * period)).shortest()
        return Line(tuple(parts[jump] for jump in sorted(parts)))


PIXELS = Line((Part(((0, 1),), 1),))
