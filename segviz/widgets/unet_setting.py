"""All sizes of one setting of the explorer of a U-Net's shapes (lesson 08)."""

from dataclasses import dataclass

from segviz.models.unet import PADDINGS, Level, fitting, levels

SAME, VALID = PADDINGS
NOTHING, PAD, CROP, STRETCH = REMEDIES = ("nothing", "pad the input", "crop the skip", "stretch the map")


@dataclass(frozen=True)
class Setting:
    """The sizes of a U-Net's maps along one axis, for an input of `size` pixels.

    padding: "same" or "valid". remedy: what is done, with "same", about a map that pooling gets odd, one of `REMEDIES`;
    with the first there may be no output. levels: fine to coarse, the bottom last.
    """

    size: int
    padding: str
    remedy: str
    levels: list[Level]

    @property
    def depth(self) -> int:
        return len(self.levels) - 1

    @property
    def added(self) -> int:
        """Rows put below the input, and columns at its right."""
        return self.levels[0].down[0] - self.size

    @property
    def odd(self) -> list[int]:
        """The levels at which pooling leaves a row and a column out."""
        return [at for at, level in enumerate(self.levels) if level.odd]

    def cropped(self, at: int) -> bool:
        """Whether the skip of that level is larger than the map, and cut; not so where the map is stretched."""
        level = self.levels[at]
        return level.up[1] <= level.up[0] < level.down[2]

    @property
    def broken(self) -> int | None:
        """The level at which skip and map cannot be joined; None where they can at all."""
        return max(self.odd) if self.odd and self.padding == SAME and self.remedy == NOTHING else None

    @property
    def reached(self) -> range:
        """The levels, without the bottom, that the way up comes to."""
        return range(0 if self.broken is None else self.broken + 1, self.depth)

    @property
    def output(self) -> int | None:
        """The logits' size; None where there are none."""
        return None if self.broken is not None else self.levels[0].up[-1] - self.added


def setting(size: int, depth: int = 4, padding: str = SAME, odd: str = NOTHING) -> Setting:
    """The setting of these controls; what `models.unet.levels` says, but for `odd`. ValueError where nothing is left of
    a map, and for an unknown padding or remedy."""
    if odd not in REMEDIES:
        raise ValueError(f"odd is one of {REMEDIES}, but got {odd!r}")
    found = levels(fitting(size, depth)[1] if (padding, odd) == (SAME, PAD) else size, depth, padding)
    if (padding, odd) == (SAME, CROP):
        ups = [found[-1].down[-1] * 2 ** (depth - at) for at in range(depth)]
        found = [*(Level(level.down, (up,) * 3) for level, up in zip(found, ups, strict=False)), found[-1]]
    return Setting(size, padding, odd, found)
