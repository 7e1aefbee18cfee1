# %% [markdown]
# # 8 · U-Net
#
# *55 minutes. You will hand a decoder the features themselves, build the network that does it from
# few lines, and cut its skips one by one. Then you will serve images of any size, and tell touching
# cells apart. Builds on lessons 3, 6 and 7.*

# %%
from segviz import course
course.banner("08")

# %% [markdown]
# This is where lesson 7 left us, as its cells were run for the course:

# %%
import json

kept = json.loads((course.ROOT / "data" / "results" / "lessons.json").read_text())
before = kept["lessons"]["07_deconvolution_networks"]["scoreboard"]
print(*before, sep="\n")

# %% [markdown]
# DeconvNet's decoder gets *addresses*: for each window of 2 × 2 two bits, which of the four was the
# largest. What stood there, and the three others, it never sees. FCN-8s adds *scores*, ten numbers
# at each place, and none finer than stride 8. Yet the features are there: in lesson 7 one
# convolution on DeconvNet's own maps of 32 × 32 was no worse than its whole decoder.
#
# So hand them over. All of them, at every level.
#
# ## The U
#
# **U-Net** (Ronneberger, Fischer, Brox 2015) goes down as all our networks do, its **contracting
# path**: two 3 × 3 convolutions, a pooling; the map halves, the channels double. Then it goes up
# the same way, the **expanding path**: a 2 × 2 transposed convolution with stride 2 (so the
# published network; the paper says **up-convolution**) doubles the map and halves the channels, and
# two convolutions follow. But before these the channels of the map from the way down are put in
# front of those that came up: **concatenation**. The channels, level by level:
#
# ```text 64 ------------------ skip -----------------> 64 + 64 -> 64 -> scores 128 --------------
# skip -----------> 128 + 128 -> 128
#        256 ---------- skip -----> 256 + 256 -> 256
#            512 ------ skip -> 512 + 512 -> 512
#                1024, the bottom
# ```

# %%
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another

def two(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())

# %%
class ByHand(nn.Module):
    def __init__(self, classes, channels, width):
        super().__init__()
        down = [width * 2**level for level in range(5)]               # 64, 128, ..., 1024
        up = down[-2::-1]                                             # 512, ..., 64
        self.down = nn.ModuleList(map(two, [channels, *down[:-1]], down))
        self.larger = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in up)
        self.up = nn.ModuleList(two(2 * c, c) for c in up)
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        skips = []
        for pair in self.down:
            x = pair(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for skip, larger, pair in zip(skips[-2::-1], self.larger, self.up, strict=True):
            x = pair(torch.cat([skip, larger(x)], 1))
        return self.score(x)

# %% [markdown]
# Is it the paper's network? From one channel (its microscope pictures have no colours) to two
# classes it should have 31,030,658 weights, and segviz's `UNet`, given the same numbers, the same
# answers. (By default that pads as ours does. The paper does not; that comes later.)

# %%
from segviz.models import UNet

def size_of(module):
    return sum(p.numel() for p in module.parameters())

# %%
with torch.device("meta"):                                        # shapes without numbers
    by_hand, full = ByHand(2, 1, width=64), UNet(2, in_channels=1).eval()
assert size_of(by_hand) == size_of(full) == 31_030_658

# %%
torch.manual_seed(0)
small, same = ByHand(2, 1, width=4), UNet(2, in_channels=1, width=4).eval()
for mine, theirs in zip(small.parameters(), same.parameters(), strict=True):
    mine.data = theirs.data
image = torch.rand(1, 1, 64, 96)
with torch.no_grad():
    assert torch.allclose(small(image), same(image), atol=1e-5)
    print(*(tuple(m.shape[1:]) for m in same.encode(image)))

# %% [markdown]
# Level by level: each map has half the height and width of the one before, and twice the channels.
# **Predict:** at which level are most of the weights? And where is most of the work, counted in
# multiplications?

# %%
from torch.utils.flop_counter import FlopCounterMode

def multiply_adds(network, *shape):
    """{module: how many}; torch counts a multiplication and an addition as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device=next(network.parameters()).device))
    return {name: sum(ops.values()) / 2 for name, ops in counter.get_flop_counts().items()}

work = multiply_adds(full, 1, 1, 512, 512)
names_of = [[f"down.{n}", *([f"upsamplings.{3 - n}", f"up.{3 - n}"] if n < 4 else [])]
            for n in range(5)]
weights = [sum(size_of(full.get_submodule(name)) for name in level) for level in names_of]
steps = [sum(work[f"UNet.{name}"] for name in level) for level in names_of]
for n in range(5):
    print(f"{512 >> n:>3} × {512 >> n:<3}  {64 << n:>4} channels   {weights[n] / 1e6:5.2f} "
          f"M weights   {steps[n] / 1e9:5.1f} G multiply-adds")

# %%
assert weights[4] > 0.4 * sum(weights) and sum(weights[3:]) > 0.8 * sum(weights)
assert weights[0] < 0.01 * sum(weights) and max(steps[:4]) < 1.2 * min(steps[:4])
assert 0.3 < steps[4] / steps[3] < 0.35 and 190e9 < sum(steps) < 195e9

# %% [markdown]
# Twice the channels on both sides of a kernel is four times the weights, on a quarter of the
# places: so the four levels cost about the same work (the bottom, which has no way up, a third of
# it), and the weights sit far down. The finest level, where the outlines are, has less than a
# hundredth of them, and nearly as much work as any other.
#
# (The published network, as others have read its file, is not quite that of the paper's figure: its
# last up-convolution keeps 128 channels, and a ReLU follows each, 31,100,354 weights in all.)

# %% [markdown]
# ## Concatenate, or add?
#
# FCN added. Is concatenation another thing at all? The next layer is a convolution. Split its
# weights, in those that read the skip and those that read what came up:

# %%
torch.manual_seed(0)
skip, up = torch.randn(2, 1, 8, 16, 16)
reader = nn.Conv2d(16, 8, 3, padding=1, bias=False)
left, right = reader.weight.split(8, dim=1)
apart = F.conv2d(skip, left, padding=1) + F.conv2d(up, right, padding=1)
assert torch.allclose(reader(torch.cat([skip, up], 1)), apart, atol=1e-5)

# %% [markdown]
# A convolution over a concatenation is a **sum** of two convolutions. So this is an addition too,
# only that each map has weights of its own first. **Predict:** what is it, if `left` and `right`
# happen to be the same?

# %%
shared = nn.Conv2d(16, 8, 3, padding=1, bias=False)
shared.weight.data = torch.cat([left, left], 1)
with torch.no_grad():
    assert torch.allclose(shared(torch.cat([skip, up], 1)),
                          F.conv2d(skip + up, left, padding=1), atol=1e-5)

# %% [markdown]
# Then it is FCN's addition. **Adding is concatenating, with one set of weights for both.** It can
# say less, and costs less. (But training can work around it: the layers *before* may learn to write
# into different channels.) So for a fair fight give addition 9 channels in place of 8:

# %%
rivals = {"concatenate, width 8": ("concatenate", 8), "add, width 8": ("add", 8),
          "add, width 9": ("add", 9)}
cost = {}
for name, (merge, width) in rivals.items():
    with torch.device("meta"):
        rival = UNet(10, width=width, merge=merge)
    cost[name] = size_of(rival), multiply_adds(rival, 1, 3, 64, 64)["Global"]
    print(f"{name:<22}{cost[name][0]:>8,} weights   "
          f"{cost[name][1] / 1e6:5.1f} M multiply-adds")

# %%
(weights_c, work_c), _, (weights_a, work_a) = cost.values()
assert 0.97 < work_a / work_c < 1.03 and 1.1 < weights_a / weights_c < 1.2

# %% [markdown]
# That is the same work, and even a seventh more weights: both cannot be made equal at once.
#
# Now train both as lesson 7 trained its networks: the same scenes, steps, batches, learning rate
# and class weights. With batch normalisation, which DeconvNet has too (the paper has none), and
# without the dropout that the paper has near the bottom.

# %%
from segviz import draw, losses, metrics
from segviz.data import Toytown, toytown
from segviz.training import evaluate, fit, predict

train, val = Toytown("train", size=64, length=600), Toytown("val", size=64, length=80)
images, masks = val.tensors()
names = toytown.CLASSES
counts = torch.stack([torch.bincount(m[m < 10], minlength=10) for m in train.tensors()[1]])

# %%
settings = {"steps": 400, "batch_size": 6, "lr": 2e-3,
            "class_weights": losses.class_weights(counts).sqrt()}

def network(merge, width, norm=True, seed=0):
    torch.manual_seed(seed)
    return UNet(10, width=width, merge=merge, norm=norm, dropout=0.0)

# %% [markdown]
# **Predict** while they train: how far will U-Net get, beside DeconvNet's 0.33 and FCN-8s's 0.43?
# And the two ways to merge: how far apart?

# %%
nets = {"concatenate": network("concatenate", 8), "add": network("add", 9)}
seconds = {merge: fit(net, train, **settings, title=merge).seconds
           for merge, net in nets.items()}

# %%
few = [names.index(name) for name in ("pole", "marking", "car", "boat")]

def row(name, scores):
    return (f"{name:<18} mean IoU {scores.mean_iou:.3f}"
            f"    boundary IoU {scores.boundary_iou:.3f}"
            f"    thin and small {scores.class_iou[few].mean():.3f}")

results = {merge: evaluate(net, val, classes=names) for merge, net in nets.items()}
for merge, scores in results.items():
    print(row(merge, scores))

# %%
figure, axes = draw.panels(4, rows=2, size=2.3, titles=("scene", *nets, "truth"))
for k, scene in enumerate((4, 6)):
    draw.image(axes[4 * k], images[scene])
    for ax, net in zip(axes[4 * k + 1:], nets.values(), strict=False):
        draw.labels(ax, predict(net, images[scene]))
    draw.labels(axes[4 * k + 3], masks[scene])

# %%
deconvnet, *_, fcn = (float(line.split("mean IoU")[1].split()[0]) for line in before[1:])
assert min(r.mean_iou for r in results.values()) > max(deconvnet + 0.05, 0.95 * fcn)
f"DeconvNet {deconvnet}, FCN-8s {fcn}, U-Net {results['concatenate'].mean_iou:.3f}"

# %% [markdown]
# Beyond both, at the same 400 steps. But how far, and which way to merge, one run cannot say. In
# three (`network(..., seed=)` and `fit(..., seed=)`, 0 to 2; `benchmarks/seeds.py`) concatenation
# had a mean IoU of 0.45 to 0.54, and addition with 9 channels of 0.47 to 0.52: the one won once,
# the other twice, in thin and small things too. Addition with 8 channels, for a fifth less work,
# had 0.41 to 0.45, and lost to both each time.
#
# > **Myth or measured?** *"Concatenation is better than addition."* At equal channels, yes, here.
# > At equal work we see no difference. The paper does not compare the two.
#
# And how much of U-Net's lead is batch normalisation? Much. Without it, as in the paper, the same
# three runs ended at 0.24 to 0.34: beside DeconvNet, which has it, and below FCN-8s, which has
# none. The paper, which does not speak of it, calls the start "extremely important" (a Gaussian
# whose variance is 2 over the numbers that one output reads; ours is the same), and it trained for
# ten hours.

# %% [markdown]
# ## Cut the skips
#
# One often reads that the skips carry the outlines, and the bottom of the U the meaning. Ask the
# network. A skip that is replaced by zeros is cut; so is the bottom. **Predict:** which cut costs
# the most? Which hurts the outlines, which the classes?

# %%
net = nets["concatenate"].eval()
with torch.no_grad():
    maps = net.encode(images)

def cut(*levels):
    """Scores on all scenes with zeros for the maps of these levels; 4 is the bottom."""
    kept = [m * 0 if level in levels else m for level, m in enumerate(maps)]
    with torch.no_grad():
        found = net.decode(kept).argmax(1)
    edges = metrics.boundary_score(metrics.boundary_counts(found, masks, 10)).nanmean()
    return metrics.mean_iou(metrics.confusion_matrix(found, masks, 10)), edges.item(), found

# %%
cuts = {"nothing": (), "skip 64 × 64": (0,), "skip 32 × 32": (1,), "skip 16 × 16": (2,),
        "skip 8 × 8": (3,), "bottom, 4 × 4": (4,), "all skips": (0, 1, 2, 3)}
tried = {name: cut(*levels) for name, levels in cuts.items()}
for name, (mean, edges, _) in tried.items():
    print(f"{name:<18} cut: mean IoU {mean:.3f}    boundary IoU {edges:.3f}")

# %%
shown = list(tried)[:6]
figure, axes = draw.panels(7, size=1.8, titles=("scene", *(f"{name} cut" for name in shown)))
draw.image(axes[0], images[4])
for ax, name in zip(axes[1:], shown, strict=True):
    draw.labels(ax, tried[name][2][4])

# %%
every = [mean for mean, _, _ in tried.values()]
sharp = [edges for _, edges, _ in tried.values()]
assert min(every[1:6]) == every[1] and min(sharp[1:6]) == sharp[1]
assert every[5] > 0.8 * every[0] and every[6] < 0.6 * every[0]

# %% [markdown]
# The finest skip costs the most, by both scores, and not at the outlines alone: whole trees change
# their class. (And without 16 × 16 a piece of sky is grass.) The bottom, with nearly half of this
# network's weights, costs little.
#
# Below each skip can be kept, cut, or taken from another scene; no weight changes. **Predict**,
# then try:
#
# 1. Cut the finest skip alone, 64 × 64. Which classes go, which stay?
# 2. Keep that one only, and cut the three others. And the other way round?
# 3. Take the finest skip from another scene. Whose road is in the mask now? And whose sky, if all
#    the others are the other scene's?

# %%
from segviz.widgets import UNetSkipsExplorer

explorer = UNetSkipsExplorer(net, images[:12], masks[:12], scene=4)
explorer

# %% [markdown]
# What you should have seen, as numbers over all scenes: with maps of another scene (the one
# before), how many pixels keep the label that they had, how many have the other scene's; and how
# near the outlines lie to either.

# %%
own = tried["nothing"][2]

def alike(one, two):
    edges = metrics.boundary_score(metrics.boundary_counts(one, two, 10)).nanmean().item()
    return (one == two).float().mean().item(), edges

def exchanged(*levels):
    """Masks with the maps of these levels from another scene: like their own, like its."""
    mixed = [m.roll(1, 0) if level in levels else m for level, m in enumerate(maps)]
    with torch.no_grad():
        found = net.decode(mixed).argmax(1)
    return [alike(found, each) for each in (own, own.roll(1, 0))]

# %%
swaps = {"finest skip": exchanged(0), "other skips": exchanged(1, 2, 3),
         "the bottom": exchanged(4), "everything": exchanged(0, 1, 2, 3, 4)}
for name, ((labels, edges), (others_labels, others_edges)) in swaps.items():
    print(f"{name:<12} labels: own {labels:.0%}, the other's {others_labels:.0%}"
          f"    boundary IoU: own {edges:.2f}, the other's {others_edges:.2f}")
print(f"the finest skip alone: mean IoU {cut(1, 2, 3)[0]:.3f}, all but it {cut(0)[0]:.3f}")

# %%
(mine, its), (mine_deep, its_deep), (mine_bottom, _), _ = swaps.values()
assert mine[0] > its[0] and mine[1] > its[1]
assert its_deep[0] > mine_deep[0] and mine_bottom[0] > 0.85

# %% [markdown]
# > **Myth or measured?** *"The skips carry the outlines, the bottom the meaning."* Not in this
# > network. With another scene's bottom nine labels of ten stay (two scenes share half by chance).
# > Cut, the finest skip costs the most of both, outlines and classes; exchanged, it moves neither
# > to the other scene's side, but the three others together move the classes. Yet the finest alone
# > is better than all others without it. What and where are spread over all skips. (In larger
# > pictures a bottom may have more to say.)
#
# A cut says what a trained network relies on, not what it could have learned without. So three were
# trained without any skip (`UNet(merge="nothing")`, 9 channels; `benchmarks/seeds.py`): mean IoU
# 0.33 to 0.34, DeconvNet's 0.33 and no more, where the skips made it 0.45 to 0.54.

# %% [markdown]
# ## Without padding: 572 to 388
#
# The paper's convolutions have no padding: **valid** ones. Each 3 × 3 takes a row on every side, so
# a pair takes 4. **Exercise 1.** Follow it, by hand first: 572, then?

# %%
from segviz.exercises import lesson_08 as exercises

# %%
def valid_size(size, depth):
    """size: of one side of the image; depth: how often the network pools -> that side of
    its output, without padding; 0 where a pooling meets an odd map, or nothing is left."""
    ...

# %%
exercises.valid_size.check(valid_size)

# %%
with torch.device("meta"):
    valid = UNet(2, in_channels=1, padding="valid").eval()
    maps_down = valid.encode(torch.empty(1, 1, 572, 572))
    output = valid(torch.empty(1, 1, 572, 572))
assert output.shape[2] == exercises.valid_size.reference(572, depth=4) == 388
fits = [n for n in range(180, 300) if exercises.valid_size.reference(n, depth=4)]
[m.shape[2] for m in maps_down], fits

# %% [markdown]
# 184 rows less, whatever the size: 92 on each side. And only every sixteenth size fits, that of
# which each pooling finds an even map.
#
# On the way up the skips are now too large: 64 rows meet 56. So they are **cropped**, to the
# middle, for rows were lost on all sides.
#
# **Exercise 2.** Crop and concatenate.

# %%
def crop_and_concatenate(skip, up):
    """skip (B, C, H, W), up (B, D, h, w), no larger; H - h and W - w even -> (B, C + D, h,
    w): the middle of the skip, and behind its channels those of `up`."""
    ...

# %%
exercises.crop_and_concatenate.check(crop_and_concatenate)

# %%
from segviz.models.unet import levels

crops = [(level.down[2], level.up[0], level.surplus // 2)
         for level in levels(572, padding="valid")[:4]]
assert [crop for *_, crop in crops] == [88, 40, 16, 4]
for n, (skip_size, up_size, crop) in enumerate(crops):
    print(f"level {n}: skip {skip_size}, came up {up_size}: {crop} cut on each side")

# %% [markdown]
# Why all this? Because padding *invents* pixels: zeros, which are black, next to the image. Show
# both networks a picture that is the same grey everywhere. **Predict** what comes out.

# %%
torch.manual_seed(0)
padded = UNet(2, 1, width=4, depth=2).eval()
unpadded = UNet(2, 1, width=4, depth=2, padding="valid").eval()
unpadded.load_state_dict(padded.state_dict())                      # the same weights
with torch.no_grad():
    grey = torch.full((1, 1, 92, 92), 0.5)
    with_zeros, without = padded(grey)[0, 0], unpadded(grey)[0, 0]

# %%
def off_pattern(scores):
    """How far each place is from what the middle of the map says, 4 × 4 for 4 × 4."""
    middle = len(scores) // 8 * 4
    block = scores[middle:middle + 4, middle:middle + 4]
    return (scores - block.repeat(len(scores) // 4, len(scores) // 4)).abs()

frame, none = off_pattern(with_zeros), off_pattern(without)
figure, axes = draw.panels(2, size=2.6, titles=("padded, 92 × 92", "valid, 52 × 52"))
for ax, values in zip(axes, (frame, none), strict=True):
    draw.heat(ax, values, vmax=frame.max() / 3)
reached = [n for n in range(46) if frame[n, 46] > 1e-4]
assert none.max() < 1e-5 and 19 < max(reached) < 24

# %% [markdown]
# Without padding every place says the same (but for a pattern of 4 × 4, for an up-convolution has
# another kernel for each place of its window: lesson 5). With padding the zeros make a frame, 20
# pixels wide and more, as far as this network looks. No invented pixels, that is the point of
# *valid*: each answer is one that the network would give in the middle of an image. The price is a
# border without answers; to answer 388 × 388 pixels one reads 572 × 572, more than twice as much.
#
# > **Myth or measured?** *"U-Net's output has the size of its input."* Not the paper's. Many
# > rebuilt ones pad, and so does ours by default. A frame of zeros can be learned, and the training
# > scenes have it too. It matters most where an image is cut into pieces: further down.

# %% [markdown]
# ## Odd sizes
#
# The padded U-Net has another trouble. **Predict** what this does, with a picture of 64 × 70:

# %%
try:
    small(torch.rand(1, 1, 64, 70))
except RuntimeError as error:
    print(error)

# %%
for n, level in enumerate(levels(70)[:4]):
    print(f"level {n}: {level.down[2]:>2} down, {level.up[0]:>2} back", "  odd" * level.odd)

# %% [markdown]
# From 70 the first pooling makes 35, and that is odd: the next one leaves the last column out and
# makes 17, and the next makes 8. On the way back an up-convolution makes 16 of them. The skip has
# 17, and one column has no partner: **off by one**, there torch stops. (`levels` counts on as if a
# column had been added.) Whichever size 16 does not divide has it somewhere. There are four ways to
# mend it:
#
# - **Pad the image**, to the next multiple of 16, and cut the answer. segviz's `UNet` does it, with
#   copies of the last row and column. All poolings get even maps.
# - **Pad the map** that came up by one row and column of zeros; much copied code does that.
# - **Crop the skip** by one. Then the answer is smaller than the image.
# - **Stretch** the map that came up to the size of the skip. Every pixel moves a little.
#
# Try it: sizes, depths, valid or padded, and what is done about it. **Predict** first:
#
# 1. Padded, depth 4, nothing done: does 104 fit? Where does it break? And 176?
# 2. 95: on how many levels is a map odd?
# 3. Valid: 572 works. Does the next size of the slider, 581? What would?

# %%
from segviz.widgets import UNetShapesExplorer

shapes = UNetShapesExplorer()
shapes

# %%
from segviz.models.unet import fitting

fine = [n for n in range(64, 129) if not any(level.odd for level in levels(n))]
assert fine == [64, 80, 96, 112, 128]
assert [[level.odd for level in levels(n)].index(True) for n in (104, 70, 95)] == [3, 1, 0]
assert [level.odd for level in levels(95)[:4]] == [True] * 4
assert fitting(581, padding="valid") == (572, 588)              # the nearest sizes that work
with torch.no_grad():
    odd = [tuple(net(torch.rand(1, 3, *size)).shape[2:]) for size in ((33, 95), (47, 64))]
assert odd == [(33, 95), (47, 64)]

# %% [markdown]
# ## Images of any size
#
# A microscope's picture has 4000 × 4000 pixels; a network's maps for it take gigabytes. So cut it
# into tiles. This needs a network and a new world: **cells**, in a dish, seen through a
# phase-contrast microscope.

# %%
from segviz import instances
from segviz.data import Cells, cells

# %%
dish = cells.scene(7, size=(128, 192))
figure, axes = draw.panels(3, size=3.2, titles=("what you see", "the mask", "one by one"))
draw.image(axes[0], dish.image)
draw.labels(axes[1], dish.mask, palette=cells.PALETTE)
draw.instances(axes[2], dish.image, dish.instances)
f"{dish.instances.max()} cells, {len(instances.touching(dish.instances))} pairs that touch"

# %% [markdown]
# There are two classes, and no colours. Where two cells touch, the mask has a thin ridge of
# background between them, two pixels wide; the paper draws such ridges into its masks too. Train a
# small U-Net with two poolings on 30 such pictures of 80 × 80. (The paper had 30 of membranes, of
# 512 × 512, and 35 and 20, only partly labelled, of cells: IoU 0.92 and 0.775.)

# %%
some, others = Cells("train", size=80), Cells("val", size=80)

def trained(data=some, seed=0, steps=200, **more):
    torch.manual_seed(seed)
    net = UNet(2, in_channels=1, width=8, depth=2, norm=True, dropout=0.0)
    fit(net, data, steps=steps, batch_size=4, lr=3e-3, seed=seed, **more)
    return net

# %%
plain = trained(title="cells")
evaluate(plain, others, classes=cells.CLASSES)

# %% [markdown]
# Now a larger picture, in tiles of 64 × 64, each by itself. **Predict:** where will the answer
# differ from that for the whole picture?

# %%
@torch.no_grad()
def by_tiles(image, tile, margin=0):
    """Scores (2, H, W) of an image, tile by tile; `rows_to_read` is your next exercise."""
    rows_to_read = exercises.rows_to_read.reference
    scores, ends = torch.empty(2, *image.shape[1:]), []
    for size in image.shape[1:]:              # the tiles, and what is read for them
        ends.append(list(zip(rows_to_read(size, tile, 0), rows_to_read(size, tile, margin),
                             strict=True)))
    for (top, bottom), (first, last) in ends[0]:
        for (left, right), (begin, stop) in ends[1]:
            found = plain.eval()(image[None, :, first:last, begin:stop])[0]
            scores[:, top:bottom, left:right] = found[:, top - first:bottom - first,
                                                      left - begin:right - begin]
    return scores

# %%
picture = cells.scene(2, size=(160, 256)).image
with torch.no_grad():
    whole = plain.eval()(picture[None])[0]
apart = by_tiles(picture, 64)
seams, wrong = (apart - whole).abs().amax(0), (apart.argmax(0) != whole.argmax(0)).float()

# %%
titles = ("the picture", "how far off", "other labels")
figure, axes = draw.panels(3, size=3.4, titles=titles)
draw.image(axes[0], picture)
draw.heat(axes[1], seams, vmax=seams.max() / 2)
draw.heat(axes[2], wrong)
at_seams = seams[:, 60:68].mean() / seams[:, 28:36].mean()
assert wrong.sum() > 20 and at_seams > 5
f"{int(wrong.sum())} pixels have another label"

# %% [markdown]
# **Seams** (the lower one at row 96, as the last tiles are moved back to end with the picture):
# each tile's border is computed from zeros where its neighbour's pixels should be. But near the
# border only. So give each tile a **margin** of real pixels, and believe what lies inside. How wide
# must it be? A pixel depends on what its receptive field holds, and nothing else (lesson 3): as far
# as that reaches, about half of it on each side.

# %%
from segviz import receptive

offs = {margin: (by_tiles(picture, 64, margin) - whole).abs().max().item()
        for margin in (0, 4, 8, 12, 16, 20, 24)}
for margin, off in offs.items():
    print(f"margin {margin:>2}: largest difference {off:.6f}")

# %%
reach = receptive.reach(plain, 80)        # how far beside its own pixel an answer looks
assert reach == 23 and offs[24] < 1e-4 < offs[12] < offs[0]
assert torch.equal(predict(plain, picture, tile=64), predict(plain, picture))
f"ours looks {reach} pixels far, the paper's {receptive.reach(full, 512)}"

# %% [markdown]
# With a margin of the whole reach, here 24, nobody can tell that there were tiles: the numbers are
# equal, to rounding. That is U-Net's **overlap-tile**. One detail: what a tile reads must begin at
# a multiple of 4, else its poolings pair other pixels. Here all do; `predict(net, image, tile=64)`
# sees to it, and finds the margin itself.
#
# **Exercise 3.** Along one side, and without that detail: which rows must each tile read?

# %%
def rows_to_read(size, tile, margin):
    """size: rows of the image, no fewer than `tile`; tile: rows that are answered at once;
    margin: how many rows around them the network looks at -> for each tile, from the top,
    (first, stop): it reads the rows first, ..., stop - 1 of the image. The tiles lie side
    by side, but the last one is moved back to end with the image."""
    ...

# %%
exercises.rows_to_read.check(rows_to_read)

# %% [markdown]
# And does it save memory? What `benchmarks/tiles.py` found, with a wider network of four poolings:

# %%
found = json.loads((course.ROOT / "data" / "results" / "tiles.json").read_text())
needed = {how: {int(n): one["MiB above image and labels"] for n, one in found[how].items()}
          for how in ("whole", "by tiles")}
for how, sizes in needed.items():
    print(f"{how:<9}", "   ".join(f"{n} × {n}: {mib:,} MiB" for n, mib in sizes.items()))
assert needed["by tiles"][4000] < 1.2 * needed["by tiles"][2000] < needed["whole"][2000]

# %% [markdown]
# By tiles it does not grow with the image (one of 1000 is too small to gain by them). And at the
# border of the image itself? There is nothing to read. The padded network has zeros there, as in
# training. The valid one has no answer there at all; so the paper **mirrors** the image, and tiles
# go beyond it. That is invented too, but it looks like cells. So at the image's own border no
# tiling is exact: there nobody knows what lies beyond.

# %%
part = picture[:, 32:128, 32:224]                     # a piece, as if it were an image
around = [F.pad(part, (24,) * 4), F.pad(part, (24,) * 4, mode="reflect")]
titles = ("a piece, and zeros around it", "the same, mirrored")
figure, axes = draw.panels(2, size=3.4, titles=titles)
for ax, shown_image in zip(axes, around, strict=True):
    draw.image(ax, shown_image)

# %% [markdown]
# ## Cells that touch
#
# Our network has a good IoU. But a biologist wants to *count*. A cell is a connected component of
# the mask. **Predict:** how many of the cells are found as cells of their own?

# %%
looked, masks_of = others.tensors()
truths = [cells.scene(others.scene_index(n), size=80).instances for n in range(len(others))]

def counted(net):
    """IoU of the class cell; shares of cells found, of touching pairs told apart."""
    with torch.no_grad():
        found = net.eval()(looked).argmax(1)
    parts = [instances.label(mask) for mask in found]
    both = list(zip(parts, truths, strict=True))
    hits = torch.cat([instances.found(*pair) > 0 for pair in both])
    apart = torch.tensor([instances.separated(*pair) for pair in both])
    iou = metrics.class_iou(metrics.confusion_matrix(found, masks_of, 2))[1]
    return {"IoU": iou.item(), "cells found": hits.float().mean().item(),
            "pairs told apart": (apart[:, 0].sum() / apart[:, 1].sum()).item()}

# %%
def tell(name, scores):
    print(f"{name:<22}", "   ".join(f"{key} {value:.2f}" for key, value in scores.items()))

table = {"plain loss": counted(plain)}
tell("plain loss", table["plain loss"])
assert table["plain loss"]["cells found"] < 0.6

# %% [markdown]
# (Found: one component of the answer has an IoU above 0.5 with it. A touching pair is told apart if
# both of its cells are found.) Most ridges are missed, and one missed pixel is enough to melt two
# cells into one. The loss hardly minds: ridges are few pixels.
#
# So let them weigh more. The paper adds to each pixel's weight
#
# $$w_0 \exp\left(-\frac{(d_1 + d_2)^2}{2\sigma^2}\right), \quad w_0 = 10, \quad \sigma \approx 5$$
#
# where $d_1$ is the distance to the border of the nearest cell and $d_2$ that to the *second*
# nearest. **Predict:** where is that large? Why two distances?
#
# **Exercise 4.** One pixel, by hand.

# %%
def border_weight(cells, row, column, w0, sigma):
    """cells (H, W): the number of the cell at each pixel, 1, 2, ..., and 0 for none; at
    least two cells -> the weight of the pixel (row, column), which is none of a cell:
    w0 * exp(-(d1 + d2)**2 / (2 * sigma**2)), where d1 and d2 are its distances to the
    nearest and to the second nearest cell, each to the cell's nearest pixel."""
    ...

# %%
exercises.border_weight.check(border_weight)

# %%
heavy = losses.border_weights(dish.mask)
for row_at, column_at in (dish.mask == 0).nonzero()[::2000].tolist():
    alone = exercises.border_weight.reference(dish.instances, row_at, column_at, 10, 5)
    assert abs(alone - heavy[row_at, column_at]) < 1e-3
assert 8 < heavy[heavy > 5].median() < 9
figure, axes = draw.panels(2, size=3.2, titles=("the mask", "what is added to the 1"))
draw.labels(axes[0], dish.mask, palette=cells.PALETTE)
draw.heat(axes[1], heavy, vmax=10);

# %% [markdown]
# One distance would light up all around every cell; two light up only where *two* cells are near.
# (On the cells themselves we put 0. The formula alone would raise their rims as well; the paper
# speaks of the background that separates, and later code of the same group, by another formula,
# raises background alone too.) With its own 1, a ridge pixel counts some nine times as much as
# others. The same network, pictures and batches:

# %%
weighted = trained(pixel_weights=losses.border_weights, title="cells, border weights")
table["border weights"] = counted(weighted)
for name, scores in table.items():
    tell(name, scores)

# %%
with torch.no_grad():
    answers = [n.eval()(looked).argmax(1) for n in (plain, weighted)]
titles = ("image", "truth", "plain loss", "border weights")
figure, axes = draw.panels(4, rows=2, size=2.4, titles=titles)
for axes_of, k in ((axes[:4], 1), (axes[4:], 7)):
    draw.image(axes_of[0], looked[k])
    numbers = [truths[k], *(instances.label(answer[k]) for answer in answers)]
    for ax, shown_numbers in zip(axes_of[1:], numbers, strict=True):
        draw.instances(ax, looked[k], shown_numbers)

# %% [markdown]
# Far more cells are found. But is it the *place* of the weight? Perhaps it is enough that
# background weighs more. So take the same weight, and spread it evenly over all background.
# **Predict:** how many pairs will be told apart?

# %%
drawn = some.tensors()[1]
spread = sum(losses.border_weights(mask).sum() for mask in drawn) / (drawn == 0).sum()
evenly = torch.stack([1 + spread, torch.ones(())])               # background, cell
print(f"all background weighs {evenly[0]:.2f}")

# %%
table["background, evenly"] = counted(trained(class_weights=evenly, title="cells, evenly"))
for name, scores in table.items():
    tell(name, scores)

# %%
one, other, even = table.values()
assert other["pairs told apart"] > even["pairs told apart"] + 0.1 > one["pairs told apart"] + 0.2
assert other["cells found"] > even["cells found"] > one["cells found"]
assert other["IoU"] < even["IoU"] < one["IoU"]

# %% [markdown]
# So both count: heavier background goes about half of the way, and the right place the rest. That
# is not one lucky run: in three (`trained(seed=)`, 0 to 2; `benchmarks/seeds.py`) the plain loss
# told 0.04 to 0.10 of the pairs apart, even weights 0.19 to 0.29, border weights 0.44 to 0.48. (In
# a dish full of cells that place is nearly all of the background.)
#
# > **Myth or measured?** *"The better mask has the higher IoU."* Here it has the lowest: what the
# > weights make wide, the ridges, is cut from the cells, and there are holes where there is no
# > border. Which is better depends on what one wants to do: measure an area, or count.

# %% [markdown]
# ## Few images
#
# So much from thirty pictures. And from three? The paper's answer to few images is to **bend**
# them: move the nine points of a 3 × 3 grid by chance, the pixels between them smoothly along, the
# same for image and mask. A bent cell is a cell.

# %%
from segviz.data.transforms import Augment

bend = Augment(flip=0, elastic=5)
bent = [bend(*some[0], torch.Generator().manual_seed(n)) for n in range(4)]
figure, axes = draw.panels(5, size=1.9, titles=("as it is", *["bent"] * 4))
for ax, (shown_image, shown_mask) in zip(axes, [some[0], *bent], strict=True):
    draw.overlay(ax, shown_image, shown_mask, alpha=0.3, palette=cells.PALETTE)

# %% [markdown]
# (The paper's deviation is 10 pixels, and its pictures of membranes have 512. Ours is 5, on 80: far
# stronger.) Train on three pictures, with border weights: as they are; with mirror images and
# quarter turns, which cost nothing; and bent as well. **Predict:** how many pairs will be told
# apart, beside thirty pictures as they are? And the IoU?

# %%
three = Cells("train", size=80, length=3)
ways = {"as they are": None, "turned": Augment(flip=0.5, turns=True),
        "turned and bent": Augment(flip=0.5, turns=True, elastic=5)}

# %%
for name, augment in ways.items():
    net3 = trained(three, augment=augment, pixel_weights=losses.border_weights, title=f"3, {name}")
    table[f"3, {name}"] = counted(net3)
for name, scores in table.items():
    tell(name, scores)

# %%
asis, turned, both = (table[f"3, {name}"] for name in ways)
assert asis["pairs told apart"] < 0.05 and both["pairs told apart"] > 0.3
assert both["pairs told apart"] > turned["pairs told apart"] + 0.1
assert turned["IoU"] > max(both["IoU"], asis["IoU"]) + 0.02

# %% [markdown]
# From three pictures as they are it tells hardly a pair apart; turned and bent, they do as much for
# counting as thirty that are neither. In the same three runs the pairs told apart were 0.00 to 0.01
# as they are, 0.21 turned, 0.34 to 0.41 bent alone, 0.47 to 0.53 turned and bent, and 0.44 to 0.48
# with thirty. The IoU has another order: highest turned (0.73 to 0.76), less where they were bent
# (0.64 to 0.68). The paper, for which bending "seem[s] to be the key concept", asks for "shift and
# rotation invariance" as well, and measures neither alone.
#
# > **Myth or measured?** *"U-Net needs hardly any data."* As it stands, it learned to count nothing
# > from three pictures. What makes them go further is knowing what may change and what may not: it
# > is *our* knowledge, and any network can be given it.

# %% [markdown]
# ## What "fast" meant
#
# The best before U-Net on membranes, so the paper, looked through a sliding window: for every pixel
# cut out a patch around it, run the network, keep one answer. The paper calls that "quite slow",
# and its own network "fast". Build both from the *same weights*: our network without padding makes
# 4 × 4 answers of a patch of 44 × 44, and a whole image at once. **Predict** how many times as much
# work the patches are.

# %%
once = UNet(2, in_channels=1, width=8, depth=2, padding="valid", norm=True).eval()
once.load_state_dict(weighted.state_dict())
large = cells.scene(5, size=236).image[None]
patches = large.unfold(2, 44, 4).unfold(3, 44, 4).flatten(2, 3)[0, 0][:, None]
tuple(patches.shape)

# %%
import time

with torch.no_grad():
    start = time.perf_counter()
    at_once = once(large)
    middle_time = time.perf_counter()
    pieces = torch.cat([once(part) for part in patches.split(64)])
    times = middle_time - start, time.perf_counter() - middle_time
grid = pieces.view(49, 49, 2, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, 2, 196, 196)
assert torch.allclose(grid, at_once, atol=1e-4)

# %%
work_once = multiply_adds(once, 1, 1, 236, 236)["Global"]
work_patches = len(patches) * multiply_adds(once, 1, 1, 44, 44)["Global"]
print(f"at once {times[0]:.2f} s, {work_once / 1e9:.2f} G multiply-adds")
print(f"patches {times[1]:.2f} s, {work_patches / 1e9:.2f} G")
assert work_patches > 20 * work_once
f"{work_patches / work_once:.0f} times the work, {times[1] / times[0]:.0f} times as long"

# %% [markdown]
# The same 38,416 answers, to rounding. Neighbouring patches share most of their pixels: the first
# convolution computes each of its places 77 times (42² for each of 2401 patches, where 234² would
# do), the last one once, and all layers together are between. (And this already takes 16 answers
# from each patch.) Lesson 2's lesson: let the convolution slide.
#
# "Segmentation of a 512x512 image takes less than a second on a recent GPU", says the abstract.
# Beside patches that is fast. But U-Net is no light network: padded, 192 G multiply-adds for such
# an image, as counted above.

# %% [markdown]
# ## Your own pictures
#
# All of this works on your own. If you have a folder with `train`, `val` and `test`, in each of
# them `images` and `masks` of PNG files with equal names (a mask's pixels are class numbers), write
# its path here, or into the variable `SEGVIZ_NUCLEI`. Nuclei under a microscope are a good start.

# %%
import os

folder = os.environ.get("SEGVIZ_NUCLEI")            # or "path/to/my/nuclei"

# %%
if folder:
    from segviz.data import Folder

    own = Folder(folder, "train"), Folder(folder, "test")
    learner = UNet(2, width=8, depth=3, norm=True)
    crop = Augment(crop=128, elastic=5, turns=True)
    fit(learner, own[0], steps=200, batch_size=8, lr=3e-3, augment=crop, title="your own")
    print(evaluate(learner, own[1]))
else:
    print("No folder given: nothing was trained.")

# %% [markdown]
# Without a folder nothing happens, and nothing below is missing. What to expect? The course's own
# command, `python benchmarks/nuclei.py`, trains longer. On the nuclei of the 2018 Data Science
# Bowl:

# %%
record = course.ROOT / "data" / "results" / "nuclei.json"
measured = json.loads(record.read_text()) if record.exists() else {}
for preset, found in measured.items():
    test = found["test"]
    print(f"{preset}: width {found['width']}, {found['steps']} steps: IoU of the nuclei "
          f"{test['iou']:.3f} on {test['images']} images of {len(test['sizes'])} sizes")

# %% [markdown]
# ## The failure to take along
#
# Back to the streets. **Predict:** what does U-Net take for what?

# %%
mixed = results["concatenate"].counts.float()
mixed /= mixed.sum(1, keepdim=True)
worst = mixed.fill_diagonal_(0).flatten().topk(5)
for share, at in zip(*worst, strict=True):
    print(f"{share:.0%} of {names[at // 10]} called {names[at % 10]}")
assert sum(at // 10 in few for at in worst.indices) >= 3

# %% [markdown]
# Mostly what is small or thin is missed, and taken for what lies around it. And how far does the
# network look, when it decides?

# %%
far = receptive.reach(net, 512)
heeded = receptive.effective(net, images[:16], (32, 32))
near = receptive.effective_size(heeded)
assert far == 107 and near < 80
f"it can see {far} pixels to a side; what counts lies within some {near / 2:.0f}"

# %% [markdown]
# By its wiring this U-Net sees more than the whole scene. What moves its answer lies close by. And
# every pixel's view *ends*: in a picture of 500 pixels a network may see a roof and windows and be
# sure of "car", and never see the water all around, or the buoy 150 pixels away that would tell it
# "boat". Lesson 3 measured it: beyond its field a network is right half of the time. Skips hand
# over detail. They do not reach further.
#
# How can every pixel be told what the *whole* picture shows? **Lesson 9: PSPNet.**
#
# ## What was shown
#
# - U-Net hands its decoder all features of all levels. All but the bottom cost about the same work;
#   the weights are far down. With lesson 7's settings, and batch normalisation, it goes beyond
#   DeconvNet and FCN-8s; without, it does not.
# - A convolution over a concatenation is a sum of two convolutions; addition shares their weights.
#   At equal work we saw no difference.
# - Without padding each answer is one from the middle of an image, and 572 becomes 388. With
#   padding, a size that 16 does not divide leaves skip and map off by one.
# - Tiles with a margin as wide as the network's reach give the whole image's numbers. Without,
#   seams.
# - Weights by two distances part cells that touch, and cost some IoU; even weights on all
#   background go half of the way. Three pictures, turned and bent, serve for counting as well as
#   thirty that are not.

# %%
print("Scoreboard: Toytown at 64 x 64, 80 scenes, 400 steps of 6")
for name, r in results.items():
    print(row(f"U-Net, {name}", r))
print("Scoreboard: cells at 80 x 80, 50 pictures")
for name, scores in table.items():
    tell(name, scores)

# %% [markdown]
# **Sources.** Ronneberger, Fischer, Brox: *U-Net: Convolutional Networks for Biomedical Image
# Segmentation*, MICCAI 2015, sections 1 (tiles, sliding windows), 2 (the network), 3 (loss,
# weights, augmentation), 4, and 5 (ten hours); what is said of their published network was read by
# others. lmb-freiburg/Unet-Segmentation, later code of the same group (Falk et al. 2019: border
# weights on background alone). Cireşan, Giusti, Gambardella, Schmidhuber: *Deep Neural Networks
# Segment Neuronal Membranes in Electron Microscopy Images*, NIPS 2012 (the sliding window). Long,
# Shelhamer, Darrell: *Fully Convolutional Networks for Semantic Segmentation*, CVPR 2015
# (addition). Words: contracting path 수축 경로, expanding path 확장 경로, concatenation 이어붙이기, elastic
# deformation 탄성 변형, mirroring 거울 반사 패딩, tile 타일, instance 인스턴스.
