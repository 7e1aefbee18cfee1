# %% [markdown]
# # 5 · Checkerboards
#
# *35 minutes. You will find out why maps that a network has made larger carry a grid that nobody
# asked for. You will count it, measure it with a spectrum, and try three remedies. Builds on lesson
# 4.*

# %%
from segviz import course
course.banner("05")

# %% [markdown]
# Lesson 4 made small maps large, and something stayed behind: a regular pattern, also where the
# picture is smooth. Here it is in a network that was trained. Three poolings make the map of a
# scene eight times smaller; three layers, `up`, make it larger again.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, layers, metrics
from segviz.data import Toytown, toytown
from segviz.training import evaluate, fit, predict

# %%
def normed(channels):                # rescales each map as a whole: all places alike
    return nn.BatchNorm2d(channels), nn.ReLU()

def network(up, width, seed=0):
    """64 x 64 pixels -> 8 x 8 places -> ten scores for each of 64 x 64 pixels."""
    torch.manual_seed(seed)
    down = [layer for a, b in ((3, 12), (12, 24), (24, 32))
            for layer in (nn.Conv2d(a, b, 3, padding=1), *normed(b), nn.MaxPool2d(2))]
    return nn.Sequential(*down, nn.Conv2d(32, width, 3, padding=1), *normed(width),
                         up(width, width), *normed(width),
                         up(width, width), *normed(width), up(width, 10))

# %% [markdown]
# A common choice for `up` is a transposed convolution with kernel 3 and stride 2. (`padding` and
# `output_padding` make the output exactly twice as large: lesson 4.) Let it train while you read
# on.

# %%
def kernel_3(inputs, outputs):
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)

train, val = Toytown("train", size=64, length=400), Toytown("val", size=64, length=60)
images, masks = val.tensors()
first = network(kernel_3, width=20)
settings = {"steps": 150, "batch_size": 12, "lr": 6e-3}
history = fit(first, train, **settings, title="kernel 3, stride 2")

# %% [markdown]
# Each class has a map of scores. **Predict:** a clear sky is one even surface, and the sky class is
# easy. What will its map look like?

# %%
def score_maps(network):
    with torch.no_grad():
        return network.eval()(images)                  # (60, 10, 64, 64)

def show_score(ax, maps, scene):
    sky = maps[scene, 0]
    return draw.heat(ax, sky, vmin=sky.min(), vmax=sky.max())

scores = score_maps(first)
figure, axes = draw.panels(4, size=2.6, titles=("scene", "its sky score", "scene", "its sky score"))
for k, scene in enumerate((4, 6)):
    draw.image(axes[2 * k], images[scene])
    show_score(axes[2 * k + 1], scores, scene);

# %% [markdown]
# The sky is found, and a grid is printed over it. Is it really a matter of rows and columns? Take
# the mean of the sky's score over all pixels in even rows and even columns, then even and odd, and
# so on: four **phases**.

# %%
def four_means(maps):
    return torch.stack([maps[:, r::2, c::2].mean() for r in (0, 1) for c in (0, 1)])

sky = (masks == 0).float()
in_score, in_truth = four_means(scores[:, 0]), four_means(sky)
print("score:", in_score.numpy().round(2), "  truth:", in_truth.numpy().round(2))
assert in_score.std() / scores[:, 0].std() > 2 * in_truth.std() / sky.std()

# %% [markdown]
# In the truth all four are nearly alike: no sky prefers odd columns. In the scores they are not.
# The network has brought this pattern along.

# %% [markdown]
# ## Who writes where
#
# Look at one row. Each input of a transposed convolution stamps its kernel into the output, and the
# stamps lie `stride` apart.
#
# **Predict:** three inputs, kernel 3, stride 2. How many stamps fall on each of the seven outputs?
#
# **Exercise 1.** Count them, for any number of inputs, kernel `k` and stride `s`. (These are the
# stamps of lesson 4 in one dimension, where every input and every weight is 1.)

# %%
from segviz.exercises import lesson_05 as exercises

# %%
def overlap_counts(inputs, k, s):
    """How many of the `inputs` of a 1-D transposed convolution (kernel k, stride s,
    no padding) write to each of its outputs: a list of (inputs - 1) * s + k counts."""
    ...

# %%
exercises.overlap_counts.check(overlap_counts)

# %%
three = layers.overlap(size=3, kernel_size=3, stride=2)
assert three.tolist() == [1, 1, 2, 1, 2, 1, 1]
ones = F.conv_transpose1d(torch.ones(1, 1, 3), torch.ones(1, 1, 3), stride=2)
assert torch.equal(ones.flatten().long(), three)       # weights of one: the counts themselves
three

# %% [markdown]
# Away from the ends: 1, 2, 1, 2. With kernel 4 every output has the same number.

# %%
figure, axes = draw.panels(3, size=2.4)
for ax, k in zip(axes, (3, 4, 5), strict=True):
    counts = layers.overlap(size=7, kernel_size=k, stride=2)
    ax.bar(range(len(counts)), counts, color="#4477AA", width=0.85)
    ax.set_title(f"kernel {k}, stride 2", fontsize=10)
    ax.set(yticks=[1, 2, 3], xlabel="output")
    ax.axis("on")

# %% [markdown]
# A map has two axes. **Predict:** on a map, how often is a pixel written to where both its row and
# its column have the count 2?

# %%
line = layers.overlap(size=8, kernel_size=3, stride=2)
plane = F.conv_transpose2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3), stride=2)[0, 0]
assert torch.equal(plane.long(), line[:, None] * line[None])
figure, axes = draw.panels(2, size=2.6, titles=("kernel 3", "kernel 4"))
draw.heat(axes[0], plane, vmax=4)
kernel = torch.ones(1, 1, 4, 4)
draw.heat(axes[1], F.conv_transpose2d(torch.ones(1, 1, 8, 8), kernel, stride=2)[0, 0], vmax=4)
sorted(set(plane[2:-2, 2:-2].flatten().tolist()))

# %% [markdown]
# Four times: the counts of row and column are **multiplied**. One pixel in four gets four times as
# much as its diagonal neighbour. That is the checkerboard, and it is the last sky of lesson 4: 3 ×
# 3, all weights alike.
#
# ## When the overlap is even
#
# **Predict:** for stride 3, which kernels from 1 to 8 give each output in the middle the same
# count?

# %%
def middle(k, s, layers_=1):
    counts = layers.overlap(size=24, kernel_size=k, stride=s, layers=layers_)
    return counts[len(counts) // 3: -(len(counts) // 3)]

print("kernel   ", *range(1, 9))
for s in (1, 2, 3, 4):
    even = [len(middle(k, s).unique()) == 1 for k in range(1, 9)]
    assert even == [layers.is_even(k, s) for k in range(1, 9)]         # k % s == 0
    print(f"stride {s}: ", *("■" if yes else "·" for yes in even))

# %% [markdown]
# Exactly those that the stride divides. (A kernel smaller than the stride leaves holes.)
#
# **Exercise 2.** You want a kernel of at least `k`. Which one has even overlap?

# %%
def even_kernel(k, s):
    """The smallest kernel size from `k` up with which a transposed convolution of
    stride `s` overlaps evenly."""
    ...

# %%
exercises.even_kernel.check(even_kernel)

# %% [markdown]
# Our network stacks three such layers. **Predict:** with kernel 3, a pixel of the first one is
# written to up to 4 times as often as its neighbour. And behind the third?

# %%
for count in (1, 2, 3):
    paths = middle(3, 2, layers_=count)
    ratio = (paths.max() / paths.min()).item()
    print(f"layers: {count}    {ratio:.0f} times along a row, {ratio**2:.0f} times on the map")
    assert ratio == (2, 3, 5)[count - 1]

# %% [markdown]
# 4, 9, 25: uneven layers make each other worse. Even ones stay even.
#
# ## Weights are not all one
#
# So far all weights were alike. **Predict:** kernel 4, stride 2, even overlap, but random weights,
# and an input of ones. Is the output flat?

# %%
torch.manual_seed(0)
weight = torch.randn(1, 1, 4, 4)
flat = F.conv_transpose2d(torch.ones(1, 1, 9, 9), weight, stride=2)[0, 0, 4:-4, 4:-4]
figure, (ax,) = draw.panels(1, size=2.6)
draw.heat(ax, flat, vmin=flat.min(), vmax=flat.max())
assert flat.std() > 0.1 and len(middle(4, 2).unique()) == 1

# %% [markdown]
# A checkerboard, with even overlap. Why? A pixel in an even row and column meets only the kernel's
# even rows and columns: 2 × 2 of its 16 weights. Its neighbour meets four *other* weights. So here
# is what each phase gets of an input of ones:

# %%
sums = torch.stack([weight[0, 0, r::2, c::2].sum() for r in (0, 1) for c in (0, 1)]).view(2, 2)
assert torch.allclose(flat[:2, :2], sums, atol=1e-5)
sums

# %% [markdown]
# It is not the *number* of weights that must agree but their **sum**, phase by phase. Bilinear
# weights (lesson 4) do:

# %%
kernel = layers.bilinear_kernel(4)
[kernel[r::2, c::2].sum().item() for r in (0, 1) for c in (0, 1)]

# %% [markdown]
# So do some kernels that the stride does *not* divide:

# %%
small = torch.tensor([0.5, 1, 0.5])                    # kernel 3, stride 2
flat = F.conv_transpose1d(torch.ones(1, 1, 9), small.view(1, 1, 3), stride=2)[..., 2:-2]
assert (kernel[::2, ::2].sum() == kernel[1::2, ::2].sum() == 1) and (flat == 1).all()
flat

# %% [markdown]
# > **Myth or measured?** *"To avoid checkerboards the kernel must be divisible by the stride."* You
# > have just seen both halves fail. Random weights of kernel 4 make a pattern. The weights ½, 1, ½
# > of kernel 3 make none. Even overlap only means that *equal* weights are harmless.

# %% [markdown]
# ## A measure
#
# By eye is not enough. A Fourier transform splits a row of numbers into waves: entry *n* says how
# much of it goes up and down *n* times. **Predict:** which of the eight entries are not zero for
# 0 1 0 1 0 1 0 1?

# %%
torch.fft.fft(torch.tensor([0., 1, 0, 1, 0, 1, 0, 1])).abs()

# %% [markdown]
# Entry 0, the sum of all, and entry 4: up and down four times in eight numbers, which is the
# **frequency 1/2**, one wave in two numbers. What repeats every `s` pixels has the frequency 1/s,
# and its multiples. On a map there are two frequencies, one along each axis. **Predict:** where in
# the spectrum of the sky score is the grid?

# %%
score = scores[6, 0]
energy = torch.fft.fft2((score - score.mean()).double()).abs() ** 2       # (64, 64)
logs = energy.clamp(min=1e-3).log10().roll((8, 8), (0, 1))               # entry 0 off the corner
figure, (left, right) = draw.panels(2, size=3.6, titles=("sky score", "its spectrum"))
show_score(left, scores, 6)
draw.heat(right, logs, vmin=logs.quantile(0.3), vmax=logs.max()).set_cmap("Blues")
right.plot([8, 40, 40], [40, 8, 40], "s", color="red", fillstyle="none", markersize=13)
right.axis("on")
right.set(xticks=(8, 40), xticklabels=("0", "1/2"), xlabel="frequency from left to right",
          yticks=(8, 40), yticklabels=("0", "1/2"), ylabel="frequency from top to bottom");

# %% [markdown]
# The darker, the more energy, in powers of ten. The dark cross at the upper left is the scene: slow
# changes where its arms meet, edges along them, and in the upright arm also the map's own border,
# for to a transform the sky at the top touches the road at the bottom. In the three boxes is the
# grid: frequency 1/2 from left to right, from top to bottom, and both, each with a paler cross
# of its own. How much of all energy is that?

# %%
step = 64 // 2                                         # as entry 4 of 8: frequency 1/2
share = (energy[::step, ::step].sum() / energy.sum()).item()
assert share > 0.002
f"{share:.2%} of the energy, at 3 of 4095 frequencies"

# %% [markdown]
# The same number can be had without a transform. Average over all tiles of 2 × 2: what is in the
# scene cancels, what repeats stays.
#
# **Exercise 3.** Write that mean tile, for any period.

# %%
def phase_tile(values, s):
    """values (H, W), both multiples of s -> (s, s): in row r, column c the mean of all
    pixels whose row is r and whose column is c, modulo s."""
    ...

# %%
exercises.phase_tile.check(phase_tile)

# %% [markdown]
# The variance of that tile, over the variance of the map, is our share. Why it must be (Parseval's
# theorem) you may take on trust; that it is, you can see. The package has the same as
# `metrics.checkerboard`, which we use from here on.

# %%
tile = torch.stack([score[r::2, c::2].mean() for r in (0, 1) for c in (0, 1)])
by_tiles = (tile.var(correction=0) / score.var(correction=0)).item()
by_package = metrics.checkerboard(score, stride=2)
assert abs(by_tiles - share) < 1e-4 and abs(by_package - share) < 1e-4
f"spectrum {share:.5f}    tiles {by_tiles:.5f}    package {by_package:.5f}"

# %% [markdown]
# Two things would spoil it. Near a map's border its layers read zeros, which leaves a pattern of
# its own: we leave out 8 pixels on each side. And where top and bottom touch there is a jump, which
# has all frequencies: we append the map's mirror image, so that like meets like. Edges inside the
# scene have all frequencies too. So we need a floor: the truth, each class as a map of zeros and
# ones.

# %%
def inner(maps):
    """(B, C, 64, 64) -> the 48 x 48 in the middle, with their mirror image (B, C, 94, 94)."""
    return F.pad(maps[..., 8:-8, 8:-8], (0, 46, 0, 46), mode="reflect")

truth = torch.stack([masks == label for label in range(10)], 1).float()
floor, pattern = (metrics.checkerboard(inner(maps), 2) for maps in (truth, scores))
print(f"truth {floor:.5f}    kernel 3, learned {pattern:.5f}, {pattern / floor:.0f} times as much")
assert pattern > 10 * floor

# %% [markdown]
# ## Three remedies
#
# Each is a different `up`, in the same network. The widths are chosen so that all have nearly the
# same number of weights.
#
# 1. **Kernel 4**, which stride 2 divides.
# 2. Kernel 4, **starting bilinear**: each kernel is bilinear upsampling times one random number.
# 3. **Resize, then convolve**: repeat each value in a 2 × 2 block, then an ordinary convolution.

# %%
def kernel_4(inputs, outputs):
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)

def bilinear(inputs, outputs):
    layer = kernel_4(inputs, outputs)
    numbers = torch.randn(inputs, outputs, 1, 1) / inputs**0.5
    layer.weight.data = numbers * layers.bilinear_kernel(4)
    return layer

def resize(inputs, outputs):
    return layers.ResizeConv(inputs, outputs, scale=2, kernel_size=3)

# %% [markdown]
# **Predict**, before they have learned anything: which of the four draw a checkerboard?

# %%
kinds = {"kernel 3": (kernel_3, 20), "kernel 4": (kernel_4, 16),
         "bilinear": (bilinear, 16), "resize": (resize, 20)}
networks = {name: network(*kind) for name, kind in kinds.items()}
with torch.no_grad():                                  # as in training: normed by these scenes
    untrained = {name: inner(network(*kind)(images)) for name, kind in kinds.items()}
before = {name: metrics.checkerboard(m, 2) for name, m in untrained.items()}
for name, n in networks.items():
    weights = sum(p.numel() for p in n.parameters())
    print(f"{name}    {weights} weights    checkerboard {before[name]:.5f}")

# %%
assert before["kernel 3"] > 0.1 and before["kernel 4"] > 0.1
assert before["bilinear"] < floor and before["resize"] < floor

# %% [markdown]
# With random weights about a fifth of what the two transposed convolutions draw is checkerboard,
# evenly overlapped or not. Bilinear weights have none. To resize leaves less than the truth has.
#
# Now train the three: a quarter of a minute or a little more. **Predict:** does training wash the
# pattern out? Does it come where there was none?

# %%
networks["kernel 3"] = first
for name in ("kernel 4", "bilinear", "resize"):
    fit(networks[name], train, **settings, title=name)

# %% [markdown]
# A share can fall in two ways: the pattern gets weaker, or the rest gets stronger. So here is also
# how strong the pattern is (the standard deviation of the mean tiles), and all of the map.

# %%
def strength(maps):
    tiles = torch.stack([maps[..., r::2, c::2].mean((-2, -1)) for r in (0, 1) for c in (0, 1)])
    return tiles.var(0, correction=0).mean().sqrt().item()

maps = {name: score_maps(n) for name, n in networks.items()}
after = {name: metrics.checkerboard(inner(m), 2) for name, m in maps.items()}
print("          share of the pattern    its strength      of all")
for name in networks:
    two = untrained[name], inner(maps[name])
    print(f"{name:<10}{before[name]:.5f} -> {after[name]:.5f}     "
          "{:.3f} -> {:.3f}    ".format(*map(strength, two)),
          "{:.1f} -> {:.1f}".format(*(m.std() for m in two)))
print(f"the truth            {floor:.5f}")

# %%
figure, axes = draw.panels(5, rows=2, size=2.1, titles=("scene", *networks))
for row, scene in enumerate((4, 6)):
    draw.image(axes[5 * row], images[scene])
    for column, name in enumerate(networks, start=1):
        show_score(axes[5 * row + column], maps[name], scene);

# %%
assert after["kernel 3"] > 3 * after["kernel 4"] and after["kernel 4"] > 1.5 * floor
assert after["resize"] < after["bilinear"] < floor
assert all(inner(maps[name]).std() > 2 * untrained[name].std() for name in maps)
grown = {name: strength(inner(maps[name])) / strength(untrained[name]) for name in maps}
assert grown["kernel 3"] > 1.5 and 0.5 < grown["kernel 4"] < 1.5 and grown["bilinear"] > 5

# %% [markdown]
# Training does **not** wash it out. As a *share* it falls, because the scene outgrows it: the
# scores have become several times as strong. But the pattern of kernel 3 has itself grown, and that
# of kernel 4 has kept more than half of its strength: gradient descent is not neat where the loss
# hardly feels it. Kernel 4 is far better than kernel 3, and still above the truth; its grid can be
# seen. The bilinear start has got a little of it, less than the truth has by its edges. To resize
# is cleanest.
#
# Is that so, or one lucky run? In five (`network(..., seed)` and `fit(..., seed=)`, 0 to 4) the
# order was the same each time: kernel 3 with 40 to 64 times the truth's share, kernel 4 with 2 to
# 10 times, bilinear with 0.4 to 0.8, resize with 0.1 to 0.2. How much kernel 4 keeps is much a
# matter of chance.
#
# > **Myth or measured?** *"A kernel that the stride divides removes checkerboards."* It removes one
# > cause, uneven overlap. Weights are another, and training leaves it standing.

# %% [markdown]
# Why does the bilinear one stay clean, though it was free to change? Look at the four sums of its
# last layer, before and after.

# %%
def unevenness(layer):
    """How far the phases' sums differ, relative to the weights themselves."""
    w = layer.weight.detach()                          # (inputs, outputs, 4, 4)
    sums = torch.stack([w[:, :, r::2, c::2].sum((2, 3)) for r in (0, 1) for c in (0, 1)])
    return (sums.std(0, correction=0).norm() / sums.mean(0).norm()).item()

for name in ("kernel 4", "bilinear"):
    start, end = network(*kinds[name])[-1], networks[name][-1]
    moved = ((end.weight - start.weight).norm() / start.weight.norm()).item()
    print(f"{name}: weights moved by {moved:.0%}, sums uneven {unevenness(start):.2f} "
          f"-> {unevenness(end):.2f}")

# %%
start = network(*kinds["bilinear"])[-1]
assert unevenness(start) < 1e-5 and unevenness(networks["bilinear"][-1]) > 0.005
assert unevenness(networks["bilinear"][-1]) < unevenness(networks["kernel 4"][-1])

# %% [markdown]
# So it did change, and a bilinear start is no guarantee: nothing holds the sums together, and they
# have drifted. It is a good place to start from.
#
# **Resize, then convolve** is a guarantee, for flat input and away from the borders: every output
# meets *all* weights, so all phases have the same sum, whatever the weights are.
#
# **Exercise 4.** Write it.

# %%
def resize_convolution(maps, weight, scale):
    """maps (B, C, H, W), weight (D, C, k, k) with odd k -> (B, D, H * scale, W * scale):
    each value repeated in a scale x scale block, then a convolution that keeps the size
    (zeros around, no bias)."""
    ...

# %%
exercises.resize_convolution.check(resize_convolution)

# %% [markdown]
# **Predict:** random weights, an input of ones, again. Is this output flat?

# %%
torch.manual_seed(0)
larger = layers.ResizeConv(1, 1, scale=2)
with torch.no_grad():
    flat = larger(torch.ones(1, 1, 9, 9))[0, 0, 2:-2, 2:-2]
assert flat.std() < 1e-6
f"from {flat.min():.6f} to {flat.max():.6f}"

# %% [markdown]
# ## See it yourself
#
# Below are all of these layers, far from their borders. On top one row: the stamps of the last
# layer, and how many paths lead to each output. Then the map: input, paths, output, spectrum. Point
# at a cell to see who writes to it. "Learned" takes, from each layer that you have trained, the
# kernel with the largest weights.
#
# **Predict**, then try:
#
# 1. Weights *ones*, stride 2: move the kernel from 1 to 8. When are the bars level? And stride 3?
# 2. Kernel 3, stride 2: one layer, two, three. How uneven do the bars get?
# 3. Kernel 4, stride 2: *ones*, *bilinear*, *random*, *learned*. What does the spectrum do, over
#    ones, and over a picture?
# 4. With random weights (kernel 3 or 4, over ones), change the way to *resize, convolve*.

# %%
from segviz.widgets import CheckerboardExplorer

def strongest(layer):
    """Of all kernels (k, k) of a trained layer the one with the largest weights."""
    kernels = getattr(layer, "conv", layer).weight.detach().flatten(0, 1)
    return kernels[kernels.flatten(1).norm(dim=1).argmax()]

def trained(name):
    return [strongest(layer) for layer in networks[name]
            if isinstance(layer, (nn.ConvTranspose2d, layers.ResizeConv))]

learned = {("transposed", 3, 2): trained("kernel 3"), ("transposed", 4, 2): trained("kernel 4"),
           ("resize, convolve", 3, 2): trained("resize")}
explorer = CheckerboardExplorer(images[6].mean(0), learned)
explorer

# %% [markdown]
# What you should have seen, as numbers:

# %%
def shown(*setting, **others):
    return metrics.checkerboard(explorer.output(*setting, **others), setting[1])

inputs = ("a map of ones", "a picture")
rows = {weights: [shown(4, 2, weights=weights, over=over) for over in inputs]
        for weights in ("ones", "bilinear", "random", "learned")}
for weights, (ones, picture) in rows.items():
    print(f"kernel 4, stride 2, {weights:<9} over ones {ones:.4f}    over a picture {picture:.4f}")
way = {"weights": "random", "way": "resize, convolve"}
print(f"resized, random weights       over ones {shown(4, 2, **way):.4f}")

# %%
assert rows["ones"][0] == rows["bilinear"][0] == shown(4, 2, **way) == 0
assert min(rows["random"][0], rows["learned"][0]) > 0.99 and rows["learned"][1] > after["kernel 4"]
stacked = [shown(3, 2, layers=count) for count in (1, 2, 3)]
assert torch.allclose(torch.tensor(stacked), torch.tensor([1, 0.81, 0.70]), atol=0.01)
assert rows["random"][1] > 10 * max(rows["ones"][1], rows["bilinear"][1])

# %% [markdown]
# With one layer over ones it is all or nothing: what varies at all, varies with the stride. Over a
# picture the measure says *how much*. (Stacked layers repeat also every 4 and every 8 pixels, which
# this number does not count: kernel 3, ones, has 1, then 0.81 with two layers and 0.70 with three.)
#
# The learned kernel has far more here than the table above said of its network. This is *one*
# kernel, alone. In the network sixteen are added for each map, and much of their patterns cancels.

# %% [markdown]
# ## The same pattern, backwards
#
# A transposed convolution is what a convolution does with its gradient (lesson 4). So a convolution
# with stride 2 should have checkerboards too: in how much each *pixel* counts.
#
# **Predict:** the gradient of the sum of all outputs, for a 3 × 3 convolution with stride 2 and
# weights of one.

# %%
def gradient(layer, pixels):
    """How strongly each pixel moves the sum of all outputs."""
    pixels = pixels.clone().requires_grad_()
    layer(pixels).sum().backward()
    return pixels.grad

strided = nn.Conv2d(1, 1, 3, stride=2, bias=False)
strided.weight.data.fill_(1)
reads = gradient(strided, torch.rand(1, 1, 17, 17))[0, 0]
assert torch.equal(reads.long(), line[:17, None] * line[None, :17])      # the overlap from above
reads[4:8, 4:8].int()

# %% [markdown]
# One pixel in four is read by four windows, one by a single one. Whatever the network looks for, it
# sees some pixels better than their neighbours.
#
# **Predict** for real pictures: which of these layers, all with stride 2, leave a checkerboard in
# the gradient?

# %%
torch.manual_seed(0)
candidates = {"convolution 3": nn.Conv2d(3, 8, 3, stride=2, padding=1),
              "convolution 4": nn.Conv2d(3, 8, 4, stride=2, padding=1),
              "max pooling 3": nn.MaxPool2d(3, stride=2, padding=1),
              "max pooling 2": nn.MaxPool2d(2), "mean pooling 2": nn.AvgPool2d(2)}
gradients = {name: gradient(layer, images)[..., 8:-8, 8:-8]
             for name, layer in candidates.items()}
backwards = {name: metrics.checkerboard(g, 2) for name, g in gradients.items()}
for name, value in backwards.items():
    print(f"{name:<15}{value:.4f}")

# %%
titles = (*list(gradients)[:4], "mean pooling 2\n(1/4 everywhere)")
figure, axes = draw.panels(5, size=2.1, titles=titles)
for ax, g in zip(axes, gradients.values(), strict=True):
    part = g[6, 0, :24, :24]
    draw.heat(ax, part, vmin=part.min(), vmax=part.max())

# %%
one, two, three, four, five = backwards.values()
assert min(one, two) > 0.99 and 0.03 < three < 0.5 and four < 0.03 and five < 1e-6
noise = 3 / 48**2                                      # what a map of noise would have
assert four > noise

# %% [markdown]
# Convolutions with stride: all of it, also with kernel 4. Max pooling over windows that overlap: a
# good part, for a pixel can win up to four times. Max pooling over windows that do not: hardly any.
# Each window hands its gradient to *one* pixel, which is uneven enough; but over all pictures the
# winner sits in any corner, so little repeats. Yet look at the upper part of its panel, the sky:
# row after row is filled and empty in turn. Where a picture is smooth, the same corner wins each
# time:

# %%
slope = (torch.arange(32.0)[:, None] + torch.arange(32.0)[None])[None, None]
winners = gradient(nn.MaxPool2d(2), slope)
assert metrics.checkerboard(winners, 2) > 0.999
winners[0, 0, :4, :4].int()

# %% [markdown]
# > **Myth or measured?** *"Checkerboards come from the decoder."* Any layer with a stride can make
# > them. Downwards they are in the gradients: in which pixels a network learns from, and in every
# > picture that is made by following gradients.

# %% [markdown]
# ## The failure to take along
#
# So our maps are large now, and smooth. Look at the cleanest one.

# %%
figure, axes = draw.panels(6, size=1.9, titles=("scene", "resize", "truth") * 2)
for k, scene in enumerate((4, 6)):
    draw.image(axes[3 * k], images[scene])
    draw.labels(axes[3 * k + 1], predict(networks["resize"], images[scene]))
    draw.labels(axes[3 * k + 2], masks[scene])

# %% [markdown]
# No grid. But poles, cars and lane markings are gone, and what had corners is round. Is that for
# want of training? Lesson 4 had the true shares: in each of 8 × 8 places the share of every class,
# made large again by straight lines. Its mean IoU said how good that can be; here are the same
# shares class by class. **Predict:** how much of a car comes back, how much of a pole?

# %%
perfect = F.interpolate(F.avg_pool2d(truth, 8), scale_factor=8, mode="bilinear")
counts = metrics.confusion_matrix(perfect.argmax(1), masks, 10)
best, learned_iou = metrics.class_iou(counts), evaluate(networks["resize"], val).class_iou
print(f"{'':<10}resize    the truth, through 8 x 8")
for name, iou, limit in zip(toytown.CLASSES, learned_iou, best, strict=True):
    print(f"{name:<10}{iou:.2f}      {limit:.2f}")

# %%
names = toytown.CLASSES
thin = [best[names.index(name)].item() for name in ("pole", "marking")]
small = [names.index(name) for name in ("car", "boat")]
assert max(thin) < 0.25 and best[names.index("sky")] > 0.85
assert (best[small] > learned_iou[small] + 0.1).all()

# %% [markdown]
# For cars and boats it is want of training, in good part: with the true shares many of their pixels
# come back. For poles and markings it is not. Even a network that knew the shares of all its 8 × 8
# places, upsampled like this, would lose most of the one and all of the other: they are thinner
# than what one place can say. Upsampling makes a map *large*. It cannot bring back what the
# poolings have dropped.
#
# But the network still had it, a few layers earlier, before it pooled. **Lesson 6: FCN and skips.**
#
# ## What was shown
#
# - Where the stride does not divide the kernel, some outputs are written to more often than others.
#   On a map the counts of row and column multiply, and so do stacked layers.
# - Even overlap is enough only for equal weights. What must agree is the sum of the weights in each
#   phase.
# - The pattern can be measured: the share of the variance that repeats with the stride, in the
#   spectrum or by phase.
# - Learned kernels keep a pattern, even with kernel 4 and stride 2. A bilinear start has none and
#   keeps nearly none; to resize first rules it out, away from the borders.
# - Going down, layers with a stride can leave the same pattern in the gradients.

# %%
results = {name: evaluate(n, val) for name, n in networks.items()}
print("Scoreboard: Toytown at 64 x 64, 60 scenes, 150 steps, stride 8 and back")
for name, r in results.items():
    print(f"{name:<9} pixel accuracy {r.pixel_accuracy:.3f}    mean IoU {r.mean_iou:.3f}"
          f"    checkerboard {after[name]:.5f}")
assert results["resize"].mean_iou > results["kernel 3"].mean_iou

# %% [markdown]
# The cleanest maps also score better than the worst ones, here. For the order of those between, one
# run of each is not enough.
#
# **Sources.** Odena, Dumoulin, Olah: *Deconvolution and Checkerboard Artifacts*, Distill 2016
# (uneven overlap in one and two dimensions, stacked layers, resize-convolution, gradients). Aitken
# et al.: *Checkerboard artifact free sub-pixel convolution*, 2017 (random weights as a cause of
# their own, and initial weights without the pattern). Long, Shelhamer, Darrell: *Fully
# Convolutional Networks for Semantic Segmentation*, CVPR 2015, sections 4.2 and 4.3 (upsampling
# that starts bilinear). Words: checkerboard artifact 체커보드 아티팩트, transposed convolution 전치 합성곱,
# overlap 겹침, frequency 주파수, spectrum 스펙트럼.
