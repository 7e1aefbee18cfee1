# %% [markdown]
# # 12 · DeepLab v2, v3, v3+
#
# *60 minutes. You will look at one map at several rates at once, take a convolution apart into two
# cheap ones and find out what that gives away, and let an early map draw the outlines. Builds on
# lessons 8 to 11.*

# %%
from segviz import course
course.banner("12")

# %% [markdown]
# Lesson 11 ended with two wants. Things come in many sizes, and a network with one rate looks at
# all of them in one. And outlines that are mended afterwards are dear, and paid for with the thin
# things: the network should draw them itself. Sizes first. **Predict:** in towns of 96 × 96 pixels,
# how many pixels long is a far car, and how many a near one?

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, layers, losses, metrics
from segviz.data import Toytown, toytown
from segviz.exercises import lesson_12 as exercises
from segviz.models import DeepLabV2, DeepLabV3, DeepLabV3Plus, resnet, vgg
from segviz.training import evaluate, fit, predict

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another

# %%
lengths = {name: [] for name in ("car", "tree", "pole", "building")}
for index in range(200):
    for thing in toytown.scene(index, 96).objects:
        x0, y0, x1, y1 = thing.box
        if thing.name in lengths and (length := max(x1 - x0, y1 - y0)) > 1:
            lengths[thing.name].append(length)
for name, each in lengths.items():
    low, high = torch.tensor(each).float().quantile(torch.tensor([0.1, 0.9])).tolist()
    print(f"{name:<9} {low:.0f} to {high:.0f} pixels, but for the tenth at either end")
    assert high > 4 * low

# %% [markdown]
# Some are ten times as long as others. A rate that spans one car stays inside a nearer one, and
# reaches far beyond one farther away.
#
# ## Several rates, added
#
# **DeepLab v2** (Chen and others, 2016, in print 2018) asks at four at once. The last map of a
# ResNet at stride 8 is read by four 3 × 3 convolutions, of rates 6, 12, 18 and 24. Each gives a
# score for every class, and the four scores are *added*: **atrous spatial pyramid pooling**, ASPP.
# By hand, on a small map of 4 channels and with 2 classes:

# %%
torch.manual_seed(0)
rates = [6, 12, 18, 24]
small = torch.randn(1, 4, 33, 33)
kernels = torch.randn(4, 2, 4, 3, 3)              # for each rate (classes, channels, 3, 3)
scores = [F.conv2d(small, kernel, padding=r, dilation=r)
          for kernel, r in zip(kernels, rates, strict=True)]
added = sum(scores)
tuple(added.shape)

# %% [markdown]
# **Exercise 1.** Four convolutions and a sum. Could *one* ordinary convolution do the same? For one
# channel and one class:

# %%
def one_kernel(kernels, rates):
    """kernels: a (3, 3) tensor for each of rates -> the one square kernel with which an
    ordinary convolution gives what the convolutions at these rates, each padded by its own
    rate, give together when they are added."""
    ...

# %%
exercises.one_kernel.check(one_kernel)

# %%
whole = torch.stack([torch.stack([exercises.one_kernel.reference(kernels[:, to, of], rates)
                                  for of in range(4)]) for to in range(2)])
assert torch.allclose(F.conv2d(small, whole, padding=24), added, atol=1e-4)
used = whole[0, 0] != 0
assert used.sum() == 33 and used.numel() == 2401
figure, axes = draw.panels(1, size=3.2)
draw.heat(axes[0], used.float(), f"{used.sum()} of {used.numel()} places")

# %% [markdown]
# It could: one kernel of 49 × 49, nearly empty. And for 36 weights it has only 33 taps: the four
# middle ones are never seen but as their sum.
#
# > **Myth or measured?** *"ASPP picks for each thing the rate that suits it."* A sum of
# > convolutions is one convolution, with the same weights at every place. Nothing picks. (So it is
# > on ResNet, in the authors' release. On VGG16 each branch has two more layers, with ReLUs, before
# > the sum: no longer one convolution, but still a sum.)
#
# segviz's `DeepLabV2` adds in the same way:

# %%
v2 = DeepLabV2(10, width=8, layers=(1, 1, 1, 1), rates=(1, 2, 4)).eval()
pictures = torch.rand(2, 3, 97, 65)
with torch.no_grad():
    parts = v2.score_maps(pictures)
    assert torch.allclose(v2(pictures), layers.upsampled(sum(parts), pictures.shape), atol=1e-5)

# %% [markdown]
# ## Meadows near and far
#
# Does it help? Lesson 3's meadow once more: a sprite, which is a car beside a petrol pump and a
# boat beside a buoy. Now three meadows are one above another: from far away, nearer, close by.
# *All* is twice as large each time: the sprite, its beacon, and the way between them, which is 8,
# 16 or 32 pixels.

# %%
import itertools
from torch.utils.data import TensorDataset

SCALES = (32, 64, 128)
CAR, BOAT, BEACON = (toytown.CLASSES.index(name) for name in ("car", "boat", "pole"))

def meadow(index, unit):
    """A meadow `unit` pixels high, all in it in proportion: image, targets (H, W), scale."""
    pair = toytown.pair(index, (unit, 96), distance=unit // 4, seed=unit)
    target, boat = torch.full_like(pair.mask, 255), int((pair.mask == BOAT).any())
    target[(pair.mask == CAR) | (pair.mask == BOAT)] = boat
    target[pair.mask == BEACON] = 2 + boat
    return pair.image, target, torch.full_like(target, unit)

# %%
def town(index):
    """Three meadows, one above another, each of its own scale and its own class."""
    orders = tuple(itertools.permutations(SCALES))
    rows = [meadow(index, unit) for unit in orders[index % 6]]
    return [torch.cat(parts, dim=-2) for parts in zip(*rows, strict=True)]

def towns(indices):
    return [torch.stack(parts) for parts in zip(*map(town, indices), strict=True)]

# %%
*shown, _ = towns(range(300))
meadows, meadow_settings = TensorDataset(*shown), {"steps": 60, "batch_size": 8, "lr": 1e-2}
asked = towns(range(20_000, 20_060))

# %%
figure, axes = draw.panels(4, size=2.2)
figure.set_size_inches(6.4, 3.8)
for ax, picture in zip(axes, asked[0], strict=False):
    draw.image(ax, picture)

# %% [markdown]
# The network: two stages of VGG16, so a map at stride 4 that knows its neighbourhood; and behind it
# branches of 3 × 3, each with a ReLU and scores of its own, which are added, much as v2 has it on
# VGG16. On this map the way to the beacon is 2, 4 or 8 places. Branches of rates 3, 6 and 12; and
# against them three networks of three branches with the *same* rate each. Equal weights, equal
# work. **Predict** a table: for each network and each of the three scales, which share of the
# sprites' pixels will be right? (A coin has 0.5.)

# %%
class Summed(nn.Module):
    """VGG16's first two stages, at stride 4, and branches of some rates, scores added."""

    def __init__(self, rates, seed=0, width=8, classes=4):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(*vgg.stages(3, width, norm=True, pool_size=3)[:2])
        self.branches = nn.ModuleList(
            layers.norm_conv(2 * width, 2 * width, 3, rate)
            .append(nn.Conv2d(2 * width, classes, 1)) for rate in rates)

    def forward(self, images):
        maps = self.stem(layers.filled(images, 4))
        scores = sum(branch(maps) for branch in self.branches)
        return layers.upsampled(scores, images.shape, 4)

# %%
BRANCHES = ((3, 6, 12), (3, 3, 3), (6, 6, 6), (12, 12, 12))
by_rates = {rates: Summed(rates) for rates in BRANCHES}
assert len({sum(p.numel() for p in net.parameters()) for net in by_rates.values()}) == 1
for rates, net in by_rates.items():
    fit(net, meadows, **meadow_settings, title=f"rates {rates}")

# %%
@torch.no_grad()
def by_scale(network):
    """For each scale the share of its sprites' pixels that are right."""
    pictures, targets, scale = asked
    network.eval()
    right = torch.cat([network(p)[:, :2].argmax(1) for p in pictures.split(20)]) == targets
    return [right[(targets < 2) & (scale == unit)].float().mean().item() for unit in SCALES]

# %%
scale_scores = {rates: by_scale(net) for rates, net in by_rates.items()}
for rates, shares in scale_scores.items():
    print(f"rates {rates!s:<13}", *(f"{unit} high: {share:.2f}   "
                                    for unit, share in zip(SCALES, shares, strict=True)))
several, *single = scale_scores.values()
assert min(several) > 0.9
assert all(single[k][k] > 0.85 and min(single[k]) < 0.75 for k in range(3))

# %% [markdown]
# Each single rate is right at the scale at which its taps reach from the sprite to the beacon. At
# the others it is nearer to a coin: its taps fall short of the beacon, or beyond it. Three rates
# are right at all three. In three runs they had 0.98 to 1.00 at every scale; a single one 0.97 to
# 1.00 at its own, and 0.48 to 0.80 at the others (`benchmarks/seeds.py`). Side by side is not the
# only way: lesson 10's doubling rates, one behind the other, answered near and far, too.
#
# And on ordinary scenes? Trained on Toytown, this small network had a mean IoU of 0.48 to 0.51 with
# rates 3, 6 and 12, and of 0.49 to 0.52 with three of rate 1: here what is near mostly tells. As in
# lesson 9, look first for the failure that a module cures.
#
# ## Stacked, not added
#
# **DeepLab v3** (Chen and others, 2017) changes what is done with the branches. Each gets batch
# normalisation and a ReLU, they are *stacked*, and a 1 × 1 convolution reads all of them.
# **Predict:** can that do whatever the sum could?

# %%
branches = [torch.randn(1, 2, 5, 5) for _ in range(3)]
together = torch.cat(branches, 1)                                          # 6 channels
to_sum = torch.eye(2).repeat(1, 3)[..., None, None]                        # (2, 6, 1, 1)
assert torch.allclose(F.conv2d(together, to_sum), sum(branches), atol=1e-6)
to_sum[..., 0, 0]

# %% [markdown]
# Yes: with these weights it *is* the sum. With others it can trust one rate in this channel and
# another in that; with a ReLU behind it, one branch's word can count only where another agrees.
#
# And which branches? Rates 6, 12 and 18 at stride 16. The authors also tried a fourth of 24, as in
# v2: it lost 0.12 points. Lesson 10 showed why a very large rate may be idle. **Predict:** a
# picture of 96 × 96 is given to torchvision's DeepLab v3 (stride 8, rates 12, 24, 36). How many of
# the weights of its ASPP read anything but padding?

# %%
with torch.device("meta"):
    theirs = layers.ASPP(2048, 256, (12, 24, 36))
weights = sum(p.numel() for p in theirs.parameters() if p.dim() == 4)
idle = sum(branch[0].weight.numel() * 8 // 9 for branch in theirs.convs[1:4])
assert idle > 0.8 * weights
f"{idle:,} of {weights:,} weights read padding alone"

# %% [markdown]
# Four fifths of it are idle: at rates as large as the map (12 × 12 places) all three branches are 1
# × 1 convolutions. So v3 has two more branches. A **1 × 1** convolution does openly what a large
# rate comes to. And **image pooling** does what it was meant for, to hear the whole map: its mean,
# through a 1 × 1 convolution, handed to every place. That is lesson 9's bin 1.
#
# **Exercise 2.** The five branches, without the normalisation.

# %%
def aspp(maps, point, atrous, rates, whole):
    """maps (B, C, H, W); point and whole: weights (D, C, 1, 1); atrous: a weight (D, C, 3, 3)
    for each of rates. No biases -> (B, D * (len(rates) + 2), H, W): the 1 x 1 convolution by
    `point`; the 3 x 3 at each rate; the mean of the whole map, convolved by `whole`, at
    every place. A ReLU behind each; stacked in this order."""
    ...

# %%
exercises.aspp.check(aspp)

# %%
maps = torch.randn(2, 16, 12, 12)
layer = layers.ASPP(16, 8, (1, 2, 4)).eval()              # its batch norms change nothing yet
point, *atrous, pooled = layer.convs
by_hand = exercises.aspp.reference(
    maps, point[0].weight, [each[0].weight for each in atrous], layer.rates, pooled[1].weight)
assert torch.allclose(torch.cat(layer.levels(maps), 1), by_hand, atol=1e-4)
assert torch.allclose(layer(maps), layer.project(torch.cat(layer.levels(maps), 1)))
tuple(by_hand.shape)

# %% [markdown]
# > **Myth or measured?** *"Image pooling always helps: it gives the context."* It is a mean over
# > whatever the picture shows (lesson 9). On Cityscapes, wide streets, the authors' own network had
# > 78.79 with it and 79.14 *without* (v3+, section 4.5); on VOC it helped, they say. And like bin 1
# > it cannot be trained on a batch of one.
#
# ## Rates belong to a stride
#
# The paper trains at stride 16 with rates 6, 12, 18, and tests at stride 8 with 12, 24, 36. The
# same weights. **Predict:** the five branches at stride 16 and, at every second place, at stride 8:
# which of them give the same numbers? And if one forgets to double the rates?

# %%
def at_stride(stride, rates):
    torch.manual_seed(0)                                        # the same weights each time
    return DeepLabV3(10, width=8, layers=(1, 1, 1, 2), output_stride=stride, rates=rates,
                     align_corners=True).eval()

noise = torch.rand(2, 3, 97, 129)              # sides 16 n + 1: every second place is an old one
parts = ("1 × 1", "rate 1", "rate 2", "rate 3", "image pooling")
with torch.no_grad():
    coarse = at_stride(16, (1, 2, 3)).levels(noise)
    doubled, forgotten = (at_stride(8, rates).levels(noise)
                          for rates in ((2, 4, 6), (1, 2, 3)))
off = [[((y[..., ::2, ::2] - x).abs().max() / x.abs().max()).item()
        for x, y in zip(coarse, fine, strict=True)] for fine in (doubled, forgotten)]
for name, a, b in zip(parts, *off, strict=True):
    print(f"{name:<14} rates doubled: off by {a:.0e}   not doubled: {b:.0e}")
assert max(off[0][:4]) < 1e-4 and off[1][0] < 1e-4 and min(off[1][1:4]) > 0.1
assert off[0][4] > 0.01

# %% [markdown]
# With doubled rates everything is the same but image pooling: the mean over a map with more places
# is another one. Forget it, and three branches look half as far. A user of the authors' code lost a
# point in this way, and was told by one of them: 12, 24, 36. Done rightly they *gain*: 77.21 at
# stride 16, 78.51 at 8. (Ours would need training at 8, as in lesson 10.)
#
# One thing more about rates: **multi-grid**. The blocks of the last stage get rates of their own,
# the stage's times 1, 2, 4:

# %%
with torch.device("meta"):
    net = resnet.ResNet(output_stride=16, dilate_first=True, multi_grid=(1, 2, 4))
last_rates = [block.conv2.dilation[0] for block in net.layer4]
assert last_rates == [2, 4, 8]
last_rates

# %% [markdown]
# Their table 3 (ResNet-101 at stride 16, VOC, mean IoU, without ASPP) has 68.39 for (1, 1, 1),
# 71.45 for (2, 2, 2), 73.14 for (1, 2, 3), 73.45 for (1, 2, 4). The second and the third see
# equally far, 1 + 2 + 3 = 2 + 2 + 2, and are 1.7 points apart: gridding, perhaps (lesson 10).
#
# ## A convolution in two steps
#
# v3+ saves work. A 3 × 3 convolution does two things at once: it looks around, and it mixes
# channels. Do one after the other. **Depthwise:** each channel is convolved by itself, with a 3 × 3
# kernel of its own. **Pointwise:** at each place the channels are mixed, by a 1 × 1. By hand:

# %%
torch.manual_seed(0)
maps = torch.randn(2, 6, 9, 9)
depthwise, pointwise = torch.randn(6, 3, 3), torch.randn(4, 6)

each = [F.conv2d(maps[:, c:c + 1], depthwise[None, c:c + 1], padding=1) for c in range(6)]
looked = torch.cat(each, 1)                                                # still 6 channels
mixed = torch.einsum("oc,bchw->bohw", pointwise, looked)
tuple(mixed.shape)

# %% [markdown]
# In torch that is `groups=6`: 6 groups of channels, and each kernel reads its own group alone. In
# segviz it is `separable_conv`:

# %%
layer = layers.separable_conv(6, 4)
first, _, _, second, _, _ = layer                    # batch norm and ReLU stand behind each
first.weight.data, second.weight.data = depthwise[:, None], pointwise[..., None, None]
assert first.groups == 6 and torch.allclose(first(maps), looked, atol=1e-5)
assert torch.allclose(second(first(maps)), mixed, atol=1e-5)
[type(part).__name__ for part in layer]

# %% [markdown]
# **Exercise 3.** What does it save?

# %%
def costs(inputs, outputs, k, places):
    """Multiply-adds of convolutions without biases, from `inputs` to `outputs` channels,
    k x k, for a map of so many places: (plain, depthwise, pointwise)."""
    ...

# %%
exercises.costs.check(costs)

# %% [markdown]
# The share that is left is 1 / outputs + 1 / k², whatever comes in. For one branch of v3+'s ASPP
# and the first convolution of its decoder:

# %%
for inputs in (2048, 304):
    plain, depth, point = exercises.costs.reference(inputs, 256, 3, 1)
    share = (depth + point) / plain
    assert abs(share - (1 / 256 + 1 / 9)) < 1e-12
    print(f"{inputs:4} to 256: {plain:>9,} against {depth:>6,} + {point:>7,}: "
          f"{1 / share:.2f} times less, {point / (depth + point):.0%} of it pointwise")

# %% [markdown]
# (The authors' code, and `fit`, spare the few depthwise weights **weight decay**, which in each
# step draws all others a little towards zero.)
#
# **Predict:** how many times *faster* is it? Here with maps of 33 × 33 and of 129 × 129 (a picture
# of 513 × 513 at stride 16 and 4), and with the few channels of a lesson. What is printed depends
# on the machine: yours may say something else.

# %%
from timeit import repeat

@torch.no_grad()
def milliseconds(layer, maps):
    """The quickest of six runs."""
    return 1000 * min(repeat(lambda: layer(maps), number=1, repeat=6))

def bare(inputs, outputs, k, groups=1):
    return nn.Conv2d(inputs, outputs, k, padding=k // 2, groups=groups, bias=False)

for inputs, outputs, size in ((2048, 256, 33), (304, 256, 129), (38, 32, 17)):
    maps = torch.randn(1, inputs, size, size)
    plain = milliseconds(bare(inputs, outputs, 3), maps)
    depth = milliseconds(bare(inputs, inputs, 3, groups=inputs), maps)
    point = milliseconds(bare(inputs, outputs, 1), maps)
    a, b, c = exercises.costs.reference(inputs, outputs, 3, 1)
    print(f"{inputs:4} to {outputs:3}, map {size:3}:",
          f"plain {plain:6.2f} ms, depthwise {depth:5.2f}, pointwise {point:5.2f};",
          f"work / {a / (b + c):.1f}, time / {plain / (depth + point):.1f}")

# %% [markdown]
# Eight times less work, and nothing like eight times as fast. Look at the depthwise step: of the
# multiply-adds of both steps it has a thirtieth, of the time a good part. Why? Count what must be
# *moved*: every number that is read or written, and the weights. How many multiply-adds are there
# for each?

# %%
def per_number(inputs, outputs, k, places, groups=1):
    work = inputs // groups * k * k * outputs * places
    moved = (inputs + outputs) * places + inputs // groups * k * k * outputs
    return work / moved

intensity = {"plain": per_number(304, 256, 3, 129**2),
             "depthwise": per_number(304, 304, 3, 129**2, groups=304),
             "pointwise": per_number(304, 256, 1, 129**2)}
assert intensity["depthwise"] < 5 < 100 < intensity["pointwise"] < intensity["plain"]
{name: f"{number:.1f}" for name, number in intensity.items()}

# %% [markdown]
# A depthwise convolution does 4.5 multiply-adds for a number that it fetches or stores, a plain one
# over a thousand: it waits for memory, not for arithmetic. (The ratio is the **arithmetic
# intensity**.) So time depends on what is moved, on the library, on the machine. The paper gives
# operations, 33 to 41 % fewer for the whole network, and no seconds.
#
# ## What it gives away
#
# The paper's figure 3 says that a depthwise separable convolution "decomposes a standard
# convolution". **Predict:** can *every* 3 × 3 convolution be written in two steps?
#
# Leave out what stands between the steps, batch norm and ReLU. Then the kernel from channel *i* to
# channel *o* is `pointwise[o, i]` times `depthwise[i]`. So all 256 outputs look at channel *i* with
# *one* kernel, up to a factor:

# %%
kernel = torch.einsum("oi,ihw->oihw", pointwise, depthwise)
maps = torch.randn(2, 6, 9, 9)
assert torch.allclose(F.conv2d(maps, kernel, padding=1), second(first(maps)), atol=1e-4)
ranks = torch.linalg.matrix_rank(kernel.transpose(0, 1).flatten(2))
assert set(ranks.tolist()) == {1}
ranks.tolist()

# %% [markdown]
# Write the kernels of one input channel as a matrix, a row for each output and a column for each of
# the 9 taps. All rows are multiples of one row: the matrix has **rank 1**. A plain convolution's
# may have 9. So it is a restriction.
#
# **Exercise 4.** Which separable convolution is *closest* to a given one? The tool is the singular
# value decomposition, `torch.linalg.svd`: it writes a matrix as a sum of matrices of rank 1, each a
# column times a row, the strongest first.

# %%
def as_separable(weight):
    """weight (O, I, k, k) of a plain convolution -> (depthwise (I, 1, k, k), pointwise
    (O, I, 1, 1)): the two steps, with nothing between them, whose kernels
    pointwise[o, i] * depthwise[i] come closest to weight[o, i], in squares."""
    ...

# %%
exercises.as_separable.check(as_separable)

# %%
def kept(weight):
    """The closest separable convolution's weights, as a plain one's, and which share of the
    squares of `weight` is in them."""
    depthwise, pointwise = exercises.as_separable.reference(weight.detach())
    closest = pointwise * depthwise[:, 0]
    return closest, 1 - ((weight - closest).square().sum() / weight.square().sum()).item()

shares = {outputs: kept(torch.randn(outputs, 16, 3, 3))[1] for outputs in (1, 4, 32, 256)}
assert shares[1] > 0.999 and shares[32] < 0.35 and shares[256] < 0.2
{outputs: f"{share:.0%}" for outputs, share in shares.items()}

# %% [markdown]
# To a single output it is exact: each channel has one kernel then. To 256 outputs a seventh of a
# random convolution is left; one ninth is the least there can be. And of a *trained* one? We shall
# have one in a moment.
#
# ## The decoder
#
# So to the outlines, and **DeepLab v3+** (Chen and others, 2018). Between v3's scores at stride 16
# and the pixels there is a straight line, 16 pixels long. v3+ adds what we know from lessons 6 and
# 8: an early map. Of the ResNet's first stage, at stride 4, a 1 × 1 convolution makes 48 channels;
# ASPP's 256 are enlarged to its size; both are stacked; two 3 × 3 convolutions read them; scores;
# and only four pixels of straight line are left.
#
# Train it, with plain convolutions and with separable ones, beside v3. And for control: v3 at
# stride 8; and a v3+ whose early map is replaced by zeros, in training too, which has all the
# weights and the finer map, but nothing to see on it. (Scenes of 64 × 64 have only 5 × 5 places at
# stride 16. So the rates are 1, 2, 3, and no mask will be fine.) **Predict** boundary IoU of the
# five.

# %%
names = toytown.CLASSES
train, val = Toytown("train", size=64, length=400), Toytown("val", size=64, length=80)
images, masks = val.tensors()
counts = torch.stack([torch.bincount(m[m < 10], minlength=10) for m in train.tensors()[1]])
settings = {"steps": 200, "batch_size": 8, "lr": 3e-3,
            "class_weights": losses.class_weights(counts).sqrt()}

# %%
SMALL = {"layers": (1, 1, 1, 1), "output_stride": 16, "rates": (1, 2, 3)}

def v3(seed=0, width=8, **options):
    """As v3+ below: corners aligned, and in a dilated stage the first block, too."""
    torch.manual_seed(seed)
    options = SMALL | {"align_corners": True, "dilate_first": True} | options
    return DeepLabV3(10, width=width, **options)

class Blind(DeepLabV3Plus):
    """v3+, whose decoder is handed zeros in place of the early map."""

    def decode(self, context, details, shape):
        return super().decode(context, torch.zeros_like(details), shape)

def v3_plus(seed=0, separable=False, blind=False):
    torch.manual_seed(seed)
    return (Blind if blind else DeepLabV3Plus)(10, width=8, **SMALL, separable=separable)

# %%
nets = {"v3": v3(), "v3 at stride 8": v3(output_stride=8, rates=(2, 4, 6)),
        "v3+ blind": v3_plus(blind=True), "v3+": v3_plus(),
        "v3+ separable": v3_plus(separable=True)}
for name, net in nets.items():
    fit(net, train, **settings, title=name)

# %%
from torch.utils.flop_counter import FlopCounterMode

def size_of(module):
    return sum(p.numel() for p in module.parameters())

def work_of(network, size=64):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2e6

# %%
def row(name, scores):
    return (f"{name:<27} mean IoU {scores.mean_iou:.3f}    "
            f"boundary IoU {scores.boundary_iou:.3f}")

results = {}
for name, net in nets.items():
    results[name] = evaluate(net, val, classes=names)
    cost = f"{size_of(net):>7,} weights   {work_of(net):4.1f} M multiply-adds"
    print(row(name, results[name]), "  ", cost)
outline = {name: scores.boundary_iou for name, scores in results.items()}
assert outline["v3+"] - outline["v3+ blind"] > max(0.02, outline["v3+ blind"] - outline["v3"])
assert outline["v3+ separable"] > outline["v3"]
assert outline["v3+"] > outline["v3 at stride 8"]

# %% [markdown]
# The decoder wins, and mostly by the early map. And at stride 16 it beats v3 at stride 8, which
# takes nearly twice the work. (The authors have the same one step coarser: a decoder at stride 32
# had 77.37 with 74 G multiply-adds, v3 at stride 16 had 77.21 with 81 G. And it is the outlines:
# 1.64 points over all, 4.8 in the narrowest band around them.) Three runs of each, and of a v3 of
# width 10, with as much work as v3+ (`benchmarks/seeds.py`):
#
# | | v3 | wider v3 | v3 at stride 8 | v3+ blind | v3+ | v3+ separable |
# |---|---|---|---|---|---|---|
# | boundary IoU | 0.21 to 0.22 | 0.23 to 0.24 | 0.25 to 0.27 | 0.23 to 0.26 | 0.30 to 0.35 | 0.25 to 0.27 |
#
# **Predict:** which things has v3 lost whole, and which of them does v3+ have?

# %%
shown = ("v3", "v3 at stride 8", "v3+")
figure, axes = draw.panels(5, rows=2, size=2.1, titles=("scene", *shown, "truth"))
for k, scene in enumerate((55, 43)):
    draw.image(axes[5 * k], images[scene])
    for ax, name in zip(axes[5 * k + 1:], shown, strict=False):
        draw.labels(ax, predict(nets[name], images[scene]))
    draw.labels(axes[5 * k + 4], masks[scene])

# %% [markdown]
# In v3 trees melt into one, and water is gone. Both come back at stride 8, and in v3+ for half the
# work. Posts and cars are blobs still, or missing.
#
# ### Five steps, a picture each
#
# What happens on the way? A map of many channels can be shown in three colours: the three mixtures
# of channels in which places differ most (principal components: the singular value decomposition
# again). **Predict**, for each of the five, how fine the picture is and whether you can recognise
# the scene.

# %%
def in_colours(maps):
    """(1, C, h, w) -> (3, h, w): the three principal components as red, green, blue."""
    flat = maps[0].flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    u, _, _ = torch.linalg.svd(flat, full_matrices=False)
    parts = u[:, :3].T @ flat
    low, high = parts.min(1, keepdim=True).values, parts.max(1, keepdim=True).values
    return ((parts - low) / (high - low)).view(3, *maps.shape[2:])

# %%
plus, picture = nets["v3+"], images[55:56]
with torch.no_grad():
    early, *_, last = plus.stages(picture)                                   # 1: backbone
    context = plus.aspp(last)                                                # 2: ASPP
    details = plus.reduce(early)                                             # 3: early map
    stacked = torch.cat([layers.upsampled(context, details.shape, 4), details], 1)
    decoded = plus.decoder(stacked)                                          # 4: two 3 x 3
    logits = layers.upsampled(plus.score(decoded), picture.shape, 4)         # 5: scores
    assert torch.allclose(logits, plus(picture), atol=1e-4)

steps = {"1 backbone": last, "2 ASPP": context, "3 early map, reduced": details,
         "4 stacked, decoded": decoded}
figure, axes = draw.panels(3, rows=2, size=2.6)
draw.image(axes[0], picture[0], "scene")
for ax, (name, maps) in zip(axes[1:5], steps.items(), strict=True):
    _, channels, height, width = maps.shape
    draw.image(ax, in_colours(maps), f"{name}: {channels} × {height} × {width}")
draw.labels(axes[5], logits[0].argmax(0), "5 scores, enlarged")

# %% [markdown]
# Steps 1 and 2 know *what* but hardly where: 5 × 5 places. Step 3 knows *where*: outlines, and no
# names. Step 4 has both.
#
# Why only 48 channels of the early map (here 6)? So that it does not drown the 256 of the context.
# The authors had (table 1) 77.61 with 8 channels, 77.92 with 16, 78.16 with 32, 78.21 with 48,
# 77.94 with 64.
#
# > **Myth or measured?** *"48 is the right number."* Between the best and the worst lie 0.6 points,
# > between 32 and 48 a twentieth of one, and no spread is given. That a *few* are enough is
# > measured; 48 is not. (What counts more is the second 3 × 3: 78.85. A third one: 78.02.)
#
# ### The trained convolution, taken apart
#
# Now there are trained 3 × 3 convolutions. How much of each is left in the closest separable one?
# And how does the network score if each is replaced by that? **Predict** both.

# %%
from copy import deepcopy

replaced = deepcopy(plus)
for where, layer in (*(("ASPP", layer) for layer in replaced.aspp.convs[1:4]),
                     *(("decoder", layer) for layer in replaced.decoder)):
    random = kept(torch.randn_like(layer[0].weight))[1]
    layer[0].weight.data, share = kept(layer[0].weight)
    print(f"{where:<8} {share:.0%} is left, of random weights {random:.0%}")
    assert share > random
closest = evaluate(replaced, val, classes=names)
print(row("closest separable", closest))
print(row("trained separable", results["v3+ separable"]))
assert closest.mean_iou < results["v3+"].mean_iou - 0.02

# %% [markdown]
# > **Myth or measured?** *"Separable is the same, only cheaper."* Those are the convolutions of
# > rank 1 in each channel. Training came nearer to them than chance would, and is far from them.
# > But one does not take trained networks apart: one *trains* them separable, with a ReLU between
# > the steps. On the authors' Xception that lost 0.14 points of 79.93 and saved 40 % of the work.
# > Ours, with its few channels and few steps, loses much more, and is hardly better than the plain
# > one taken apart.
#
# ## What does it rely on?
#
# Below, the trained v3+, plain and separable. Branches of ASPP can be turned off, the early map too
# ("details"); what is off tells every place the same, its mean over all places and scenes. Rates
# can be changed. **Predict**, then try, on several scenes:
#
# 1. Turn off the 1 × 1; turn off the branches of rates 1 to 3 instead. Which are missed more?
# 2. Turn off all of ASPP, and keep the details. Then the other way round. What is left?
# 3. All rates become 1. And if rate 3 becomes 5, as large as the map?
# 4. Choose separable. How do multiply-adds, weights and *time* change?

# %%
from segviz.widgets import DeepLabExplorer

explorer = DeepLabExplorer(nets["v3+"], images[:24], masks[:24], names, draw.PALETTE,
                           other=nets["v3+ separable"], scene=4)
explorer

# %% [markdown]
# The same in numbers, over these scenes. (`on`: 1 × 1, three rates, image pooling.)

# %%
def mean_iou_of(on=(True,) * 5, rates=(1, 2, 3), details=True):
    head = explorer.heads["plain"]
    found = torch.stack([head.run(k, on, rates, details)[0] for k in range(24)])
    return metrics.mean_iou(metrics.confusion_matrix(found, masks[:24], 10))

ON, OFF = True, False
asked_of = {"all on": {}, "no 1 × 1": {"on": (OFF, ON, ON, ON, ON)},
            "no rates": {"on": (ON, OFF, OFF, OFF, ON)},
            "no pooling": {"on": (ON, ON, ON, ON, OFF)},
            "no ASPP": {"on": (OFF,) * 5}, "no details": {"details": OFF},
            "rates 1, 1, 1": {"rates": (1, 1, 1)}, "rates 1, 2, 5": {"rates": (1, 2, 5)}}
relied = {name: mean_iou_of(**setting) for name, setting in asked_of.items()}
for name, score in relied.items():
    print(f"{name:<13} {score:.3f}")
assert relied["no rates"] < min(relied["no 1 × 1"], relied["no pooling"])
assert max(relied["no ASPP"], relied["no details"]) < 0.75 * relied["all on"]
assert relied["rates 1, 1, 1"] < relied["all on"]
assert relied["rates 1, 2, 5"] > 0.8 * relied["all on"]

# %% [markdown]
# 1: the atrous branches are missed most. 2: each half alone is poor. (That is not what an early map
# is *worth*. This network was never trained to do without; the one that was is the blind one
# above.) 3: without its distances it loses; 5 for 3 costs it little, for at both most of the
# weights read padding. 4: less than half of the multiply-adds and of the weights; of the time it
# saves little.
#
# ## Four versions
#
# | | v1 (2015) | v2 (2016) | v3 (2017) | v3+ (2018) |
# |---|---|---|---|---|
# | backbone | VGG16 | ResNet-101 (or VGG16) | ResNet-101 | ResNet-101, Xception-65 |
# | output stride | 8 | 8 | 16, tested at 8 | 16 |
# | context | fc6, rate 12 | ASPP, added | ASPP, stacked, 1 × 1, image pooling | the same (separable on Xception) |
# | batch norm in the head | none | none | trained | trained |
# | labels in training | every 8th | every 8th | all | all |
# | outlines | CRF | CRF | straight lines | decoder |
# | learning rate | in steps | poly | poly | poly |
# | mean IoU, VOC val | 62.25, CRF 67.64 | 76.35, CRF 77.69 | 77.21 (at 8: 78.51) | 78.85 (ResNet-101, plain) |
#
# (*poly*: the learning rate falls as the share of steps that is left, to the power of 0.9; so does
# that of `fit`.)
#
# From 76.35 to 77.21: is v3's ASPP worth 0.86? v2's network has also seen another data set (COCO),
# and each picture at three scales; v3's has not. **Predict** how much of v2's 76.35 is its ASPP,
# and how much the rest. Their table 4:

# %%
v2_steps = {"ResNet-101": 68.72, "three scales": 71.27, "COCO": 73.28,
            "scaled pictures in training": 74.87, "ASPP": 76.35, "CRF": 77.69}
points = list(v2_steps.values())
for name, before, after in zip(list(v2_steps)[1:], points, points[1:], strict=False):
    print(f"{name:<28} + {after - before:.2f}")
print(f"{'ASPP against one rate of 12':<28} + {76.35 - 75.54:.2f}")

# %% [markdown]
# > **Myth or measured?** *"The architecture made the points."* Some of them. Against one layer of
# > rate 12 ASPP is worth 0.81 on ResNet-101; three scales, COCO and scaled pictures are worth 6.15
# > together. In v2's table 2 another schedule (poly, 20,000 steps of 10 pictures for 6,000 of 30)
# > brings a VGG16 from 62.25 to 65.88. For v3, comparing at full size in training instead of
# > shrinking the labels to the map brought 1.2 (v3+, section 4.1); the decoder brings 1.64. When
# > two networks are compared, ask for everything else first.
#
# And the CRF? v3 has none. The paper does not argue against it: it has better scores without.
#
# ### torchvision's
#
# `deeplabv3_resnet50` is v3 at stride 8 with rates 12, 24, 36, and differs from the paper and the
# authors' code: a 3 × 3 convolution more behind ASPP; half of the values dropped there, not a
# tenth; no multi-grid; the first block of a dilated stage keeps the rate before; corners not
# aligned; and a second head, for training. segviz's `DeepLabV3` is the same network, and takes its
# weights:

# %%
import torchvision
from segviz.models.deeplab import copy_deeplabv3

theirs = torchvision.models.segmentation.deeplabv3_resnet50(
    weights=None, weights_backbone=None, num_classes=21).eval()
ours = DeepLabV3(21).eval()
copy_deeplabv3(ours, theirs.state_dict())
picture = torch.rand(1, 3, 65, 80)
with torch.no_grad():
    assert torch.allclose(ours(picture), theirs(picture)["out"], atol=1e-4)
f"{size_of(ours):,} weights"

# %% [markdown]
# ## The whole line
#
# You have built everything from a fully connected layer to DeepLab v3+. Each step answered a
# failure that you had measured:
#
# | lesson | what failed | what cured it | what was left |
# |---|---|---|---|
# | 2 | a classifier says one thing of a picture | its last layers as convolutions | maps 32 times too coarse |
# | 4, 5 | enlarging: blocks, blur, checkerboards | transposed convolutions; kernels that divide | no new detail |
# | 6 | FCN-32s: soft blobs | scores of earlier maps, added | thin things |
# | 7 | pooling forgets where | switches | features thrown away |
# | 8 | a decoder without features | U-Net: the early maps themselves | a view that ends |
# | 9 | evidence far away | PSPNet: the mean of the whole scene | where, and how large |
# | 10 | coarse maps; fields that cost weights | rates for strides | one rate, one scale; soft outlines |
# | 11 | soft outlines | a CRF that asks the pixels | its price; thin things |
# | 12 | one scale; outlines | several rates; an early map again | ? |
#
# The last cell is yours. Of which classes does our best network still know least?

# %%
iou = results["v3+"].class_iou
for k in iou.argsort():
    print(f"{names[k]:<9} v3 {results['v3'].class_iou[k]:.2f}   v3+ {iou[k]:.2f}")
assert {"pole", "boat", "car"} & {names[k] for k in iou.argsort()[:4]}

# %% [markdown]
# Small things and thin ones, as in lesson 6: better, and still last.
#
# And one question was never asked fairly: each lesson compared its networks on scenes and with
# steps of its own. How does *every* model do on the *same* pictures, with equal training? And which
# would you take for your own? **Lesson 13: the scoreboard**, and your own pictures.
#
# ## What was shown
#
# - Rates whose scores are added are one sparse convolution. With ReLUs in the branches three rates
#   answered at three scales, where each single one, at equal weights, answered at its own.
# - v3 stacks the branches, and adds what a very large rate comes to, a 1 × 1, and what it was meant
#   for, the whole map's mean.
# - Rates belong to an output stride. Halve it and double them, and all but image pooling gives the
#   same numbers.
# - A depthwise separable convolution costs 1 / outputs + 1 / k² of a plain one's work, and more of
#   its time: its first step moves many numbers and does little with each. It is a restriction, rank
#   1 for each channel, and a trained plain convolution is not one.
# - v3+'s early map draws the outlines: blind, the same decoder brings less than half of it.
# - Much of the papers' progress came from data, scales, schedules and label sizes.

# %%
print("Scoreboard: car or boat at three scales (32, 64, 128 pixels high), three branches")
for rates, shares in scale_scores.items():
    print(f"rates {rates!s:<13}", *(f"{share:.2f}" for share in shares))
print("Scoreboard: Toytown at 64 × 64, 80 scenes, 200 steps of 8, width 8")
for name, scores in results.items():
    print(row(name, scores))

# %% [markdown]
# **Sources.** Chen, Papandreou, Kokkinos, Murphy, Yuille: *DeepLab: Semantic Image Segmentation
# with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs*, PAMI 2018 (v2),
# sections 3.2, 4.1.2 (ASPP), tables 2 (schedules) and 4 (ResNet-101); the authors' release
# (branches on ResNet). Chen, Papandreou, Schroff, Adam: *Rethinking Atrous Convolution for Semantic
# Image Segmentation*, 2017 (v3), sections 3.2.1 (multi-grid), 3.3 (ASPP, image pooling), 4.1
# (labels, output stride), 4.3, table 3. Chen, Zhu, Papandreou, Schroff, Adam: *Encoder-Decoder with
# Atrous Separable Convolution for Semantic Image Segmentation*, ECCV 2018 (v3+), sections 3.1, 4.1,
# 4.4, 4.5, figure 3, tables 1 to 3, 5 and 7; the authors' code (dropout, corners, depthwise weights
# without decay). Howard and others: *MobileNets: Efficient Convolutional Neural Networks for Mobile
# Vision Applications*, 2017, sections 3.1 (cost), 3.2 (weight decay). Ma and others: *ShuffleNet
# V2: Practical Guidelines for Efficient CNN Architecture Design*, ECCV 2018, section 1 (operations
# are not time). Eckart, Young: *The Approximation of One Matrix by Another of Lower Rank*,
# Psychometrika 1, 1936. torchvision's `deeplabv3_resnet50`. The answer on rates: tensorflow/models,
# issue 6257. Words: depthwise separable convolution 깊이별 분리 합성곱, pointwise convolution 점별 합성곱,
# output stride 출력 스트라이드.
