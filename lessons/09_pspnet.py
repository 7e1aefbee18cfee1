# %% [markdown]
# # 9 · PSPNet
#
# *70 minutes. You will ask networks a question whose answer stands at the other end of the picture,
# build the module that brings the whole scene to every pixel, and find out which of its parts does
# it. Builds on lessons 3, 6 and 8.*

# %%
from segviz import course
course.banner("09")

# %% [markdown]
# Lesson 8 brought the detail back, and ended with a view that ends: 107 pixels from a pixel, U-Net
# knows nothing any more. **Predict:** how far does FCN-8s see? And PSPNet without the module that
# this lesson is about: a ResNet-50 whose map has one place for 8 × 8 pixels (stride 8)?

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, layers, metrics, receptive
from segviz.models import FCN8s, PSPNet, UNet
from segviz.training import evaluate, fit

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another

# %%
with torch.device("meta"):
    full = {"U-Net": UNet(21), "FCN-8s": FCN8s(21), "ResNet-50, stride 8": PSPNet(21, bins=())}
    seen = {name: receptive.reach(network, 512) for name, network in full.items()}
seen

# %%
assert seen["U-Net"] == 107 and seen["U-Net"] < seen["FCN-8s"] < seen["ResNet-50, stride 8"]

# %% [markdown]
# Farther, but each view ends. (And lesson 3 has shown that what *counts* lies much closer than
# that.) The authors of PSPNet name three failures that they saw in an FCN on photographs (section
# 3.1). On a river it calls a boat a *car*, because that is what it looks like. Of one tall house it
# calls a part *building* and a part *skyscraper*. And a pillow with the sheet's pattern it does not
# see. Many such errors, they say, come from not knowing the whole scene.
#
# ## Evidence at the other end
#
# We have a world for this, from lesson 3: one sprite on a misty meadow. Beside a petrol pump it is
# a **car**, beside a buoy a **boat**; nothing else tells. Only that now the meadow is wide.

# %%
from segviz.data import Toytown, toytown

shown = ((5, "car"), (5, "boat"), (150, "car"), (150, "boat"))
figure, axes = draw.panels(2, rows=2, size=4.6)
figure.set_size_inches(9.2, 3.9)
for ax, (distance, label) in zip(axes, shown, strict=True):
    pair = toytown.pair(7, (64, 192), distance=distance, label=label)
    draw.image(ax, pair.image, f"{label}, {distance} pixels away")

# %% [markdown]
# As in lesson 3 there are four classes (car, boat, pump, buoy), the meadow is void, and for each
# pixel we note how far it is from the beacon, here along the row: up to 185 pixels.

# %%
from torch.utils.data import TensorDataset

BINS, LABELS = (1, 2, 3, 6), ("car", "boat")
CAR, BOAT, BEACON = (toytown.CLASSES.index(name) for name in (*LABELS, "pole"))

def example(index, distance, label, size=(64, 192)):
    """Image, targets (H, W), and for each pixel how many columns it is from the beacon."""
    pair = toytown.pair(index, size, distance=distance, label=label)
    target = torch.full_like(pair.mask, 255)
    for kind, of_class in enumerate((CAR, BOAT)):
        target[pair.mask == of_class] = kind
    target[pair.mask == BEACON] = 2 + LABELS.index(label)
    x0, _, x1, _ = next(thing for thing in pair.objects if thing.name == "pole").box
    columns = torch.arange(size[1])
    away = torch.maximum(x0 - columns, columns - x1 + 1).clamp(min=0)
    return pair.image, target, away.expand(size)

# %%
def examples(indices, labels):
    """Of each index an example for each of its labels, the beacon 1 to 170 pixels away."""
    made = [example(i, 1 + 37 * i % 170, label) for i in indices for label in labels(i)]
    return [torch.stack(parts) for parts in zip(*made, strict=True)]

*pictures, _ = examples(range(680), lambda i: [LABELS[i // 170 % 2]])
train = TensorDataset(*pictures)
twins = examples(range(10_000, 10_050), lambda i: LABELS)             # each picture as both

# %% [markdown]
# Now a network. **PSPNet** (Zhao, Shi, Qi, Wang, Jia 2017) is a ResNet, a module that we shall
# build below, one 3 × 3 convolution, and scores. With `bins=()` that module is left out, and what
# remains is a plain network at stride 8. Ours has an eighth of the paper's channels, and one block
# in each of its four stages.

# %%
def network(bins, seed=0, classes=4, **options):
    torch.manual_seed(seed)
    options = {"width": 8, "layers": (1, 1, 1, 1)} | options
    return PSPNet(classes, bins=bins, **options)

settings = {"steps": 120, "batch_size": 8, "lr": 3e-3}

# %%
last = receptive.theoretical(network(()), (64, 192))[-1]
assert last.columns.size == 151
f"field {last.columns.size}: {receptive.reach(network(()), (64, 192))} pixels to one side, at most"

# %% [markdown]
# **Predict:** which share of a sprite's pixels will it label rightly, by distance from the beacon?
# Draw the curve, then train it.

# %%
networks = {"no pyramid": network(())}
fit(networks["no pyramid"], train, **settings, title="no pyramid")

# %%
@torch.no_grad()
def car_or_boat(network, images):
    """The softmax of the two alone, (B, 2, H, W), in evaluation mode."""
    return network.eval()(images)[:, :2].softmax(1)

def rightness(network, step=10):
    """{distance: share right of the sprites' pixels so far from the beacon}, in steps."""
    images, targets, away = twins
    right = car_or_boat(network, images).argmax(1) == targets
    sprite = targets < 2
    bands = {d: sprite & (away >= d) & (away < d + step) for d in range(0, 190, step)}
    return {d + step / 2: right[band].float().mean().item() for d, band in bands.items()}

# %%
curves = {"no pyramid": rightness(networks["no pyramid"])}
for distance, share in curves["no pyramid"].items():
    print(f"{distance:5.0f} {share:6.3f}  {'█' * round(40 * share)}")

# %%
beyond = [share for d, share in curves["no pyramid"].items() if d > 85]
within = [share for d, share in curves["no pyramid"].items() if d < 45]
assert set(beyond) == {0.5} and sum(within) / len(within) > 0.6

# %% [markdown]
# Beyond the field it is *exactly* a coin, as it must be. The test pictures are twins that differ in
# the beacon alone, so beyond reach both get the same answer, and one of them is wrong. (It is a
# coin some pixels earlier already: what counts lies closer, lesson 3. And right beside the beacon
# there are few pixels to learn from.) Would more weights help? **Predict**, for a network that is
# wider but no deeper:

# %%
def size_of(module):
    return sum(p.numel() for p in module.parameters())

wide, whole = network((), width=11), network(BINS)
with torch.no_grad():
    one, other = wide.eval()(twins[0][:2])                            # twins, untrained
    far = twins[2][0] > 85                                            # (H, W)
assert torch.equal(one[:, far], other[:, far]) and not torch.equal(one, other)
assert size_of(wide) > size_of(whole) > size_of(networks["no pyramid"])
[f"{size_of(n):,}" for n in (networks["no pyramid"], whole, wide)]

# %% [markdown]
# No. Whatever its weights are, and however many, it gives the same numbers to both twins.
#
# ## In training mode
#
# One thing before we go on. We have asked our networks *in evaluation mode*, where batch
# normalisation subtracts and divides by fixed numbers, averages kept from training. In training
# mode it takes mean and variance from the batch: over all pictures, and over all pixels of each.
# **Predict:** is the network without a pyramid still exactly a coin there?

# %%
from copy import deepcopy

@torch.no_grad()
def normed_by_batch(network, images):
    """Logits where batch norm does as in training; all else (dropout) as in evaluation."""
    network = deepcopy(network).eval()
    for part in network.modules():
        part.training = isinstance(part, nn.BatchNorm2d)
    return network(images)

cars, boats = (twins[0][k::2] for k in (0, 1))
far = (twins[2][0::2] > 85)[:, None]
difference = (normed_by_batch(networks["no pyramid"], cars)
              - normed_by_batch(networks["no pyramid"], boats)).abs() * far
assert difference.max() > 1e-3
f"far from the beacon scores differ by up to {difference.max():.2f}"

# %% [markdown]
# No: its answers differ between twins. Each layer subtracts a mean that the beacon has a share in,
# however far away it is. So pixels talk to one another, and so do the pictures of a batch. Can the
# network hear it? Give it one picture at a time:

# %%
images, targets, away = twins
net = networks["no pyramid"]
alone = torch.cat([normed_by_batch(net, image[None]) for image in images])
asked = (targets < 2) & (away > 85)
right = (alone[:, :2].argmax(1) == targets)[asked].float().mean().item()
assert right < 0.75
f"right beyond the field, each picture normed by itself: {right:.3f}"

# %% [markdown]
# > **Myth or measured?** *"What an answer depends on is its receptive field."* In evaluation, yes.
# > In training, with batch norm, it depends on every pixel of every picture in the batch. (Here
# > something comes through, and the network makes nothing good of it: it leans to one answer. That
# > it *cannot* learn to is not shown. Whoever tests a field should test it in evaluation mode.)

# %% [markdown]
# ## The mean of all places
#
# So batch norm is a back door: an accident. But it shows how to do it: **average**. The mean of a
# map over all its places has a bit of everything, and costs next to nothing. Hand it to every
# place, beside what the place knows itself.
#
# One mean for a whole picture is little. So PSPNet lays four grids over the map, of 1 × 1, 2 × 2, 3
# × 3 and 6 × 6 **cells**, and takes the mean of each cell. Each grid is a **bin** (so the authors'
# code; the paper says level, and bin for a cell): bin 2 has four cells. By hand, on a map of 6 × 6:

# %%
little = torch.zeros(1, 1, 6, 6)
little[..., 1, 4], little[..., 4, 0] = 36, 18
pooled = {n: F.adaptive_avg_pool2d(little, n) for n in (1, 2, 3, 6)}
quarter = little[0, 0, :3, 3:].mean()                      # the upper right one of 2 x 2
assert pooled[2][0, 0, 0, 1] == quarter == 4 and torch.equal(pooled[6], little)
assert pooled[1].item() == (36 + 18) / 36
for n in (1, 2, 3):
    print(pooled[n][0, 0].tolist())

# %% [markdown]
# Six can be divided by 1, 2, 3 and 6. Most sizes cannot. **Predict** on a line of 8 places: which
# places does each of 3 cells average?

# %%
line = torch.arange(8.0)[None, None]
means = F.adaptive_avg_pool1d(line, 3)[0, 0]
assert means.tolist() == [1, (2 + 3 + 4 + 5) / 4, 6]
means.tolist()

# %% [markdown]
# 0 to 2, 2 to 5, 5 to 7: the borders 8 / 3 and 16 / 3 are no whole numbers, so each cell takes
# every place that it touches, and neighbours *share* one. (Such pooling is called **adaptive**: one
# gives the number of cells, not the size of a window.)
#
# **Exercise 1.** Which places does each cell read?

# %%
from segviz.exercises import lesson_09 as exercises

# %%
def windows(size, bins):
    """For each of `bins` cells of an adaptive average over a line of `size` places:
    (first, end), the first place that it reads and one past the last. A list of pairs."""
    ...

# %%
exercises.windows.check(windows)

# %%
def read_by(size, bins):
    """How many cells read each place: torch's own pooling, asked by its gradient."""
    line = torch.zeros(1, 1, size, requires_grad=True)
    pooled = F.adaptive_avg_pool1d(line, bins)[0, 0]
    return sum((torch.autograd.grad(cell, line, retain_graph=True)[0] > 0).int()
               for cell in pooled).flatten().tolist()

for size, bins in ((8, 3), (9, 6), (25, 6), (4, 6), (60, 6)):
    found = exercises.windows.reference(size, bins)
    assert read_by(size, bins) == [sum(a <= x < b for a, b in found) for x in range(size)]
    print(f"{size} places, {bins} cells:", *(f"{a}-{b - 1}" for a, b in found))

# %% [markdown]
# Where there are more cells than places, some read the same ones. (9 and 25 are the places of our
# pictures. For 64 × 192 is first filled up to 65 × 193, and place *i* lies on pixel 8 *i*: 0, 8,
# ..., 192 are 25.) The authors' sizes avoid all that. They train on 473 × 473 and 713 × 713.
# **Predict** what is special about these.

# %%
def places(size):
    return (size - 1) // 8 + 1                             # of a map at stride 8

fitting = [n for n in range(9, 800, 8) if places(n) % 6 == 0]
assert places(473) == 60 and places(713) == 90 and {473, 713} <= set(fitting)
fitting

# %% [markdown]
# A map of 60 or of 90 places, which 2, 3 and 6 divide. And why 8 *k* + 1? If the last place lies on
# the last pixel, then a picture of 60 places has 8 · 59 + 1 = 473 pixels, and enlarging with
# **corners aligned** (lesson 4) puts each place back upon its pixel. A picture of 480 has 60
# places, too. Aligned, its last place goes from pixel 472 to 479:

# %%
place = torch.arange(60)
for size in (473, 480):
    off = place * (size - 1) / 59 - 8 * place
    print(f"{size}: place 59 is put {off[-1]:.0f} pixels from where it was seen")
assert off[-1] == 7

# %% [markdown]
# (segviz's `PSPNet` takes any size: it repeats the last row and column until the size is 8 *k* + 1,
# and cuts the answer back.)
#
# ## And back to every place
#
# A bin's cells are enlarged, bilinearly and with corners aligned, to the size of the map. So how
# much does each place hear of each cell?
#
# **Exercise 2.** Along one line.

# %%
def shares(place, size, bins):
    """A line of `bins` cells is enlarged to `size` places, linearly, corners aligned -> how
    much of each cell's value the given place gets: a list of `bins` numbers, together 1."""
    ...

# %%
exercises.shares.check(shares)

# %%
for place in (0, 4, 12, 24):
    heard = [exercises.shares.reference(place, 25, bins) for bins in (1, 2, 3)]
    print(f"place {place:2} of 25:", *([round(x, 2) for x in each] for each in heard))

# %% [markdown]
# Of bin 1 each place gets the same. Of bin 2 the first place gets the left half, and *nothing* of
# the right one. Keep that in mind.
#
# One thing is missing. Our map has C = 256 channels; four bins of 256 each would drown it. So each
# is first reduced, by a 1 × 1 convolution, to C // N channels, N being the number of bins; batch
# normalisation and ReLU follow in the authors' code.
#
# **Exercise 3.** The whole module, without the normalisation.

# %%
def pyramid(maps, bins, weights):
    """maps (B, C, H, W); weights: for each bin the weight (C', C, 1, 1) of its 1 x 1
    convolution -> (B, C + C' * len(bins), H, W): the maps, then for each bin n the average
    over n x n cells, convolved, ReLU, enlarged bilinearly (corners aligned), all stacked."""
    ...

# %%
exercises.pyramid.check(pyramid)

# %%
module = layers.PyramidPooling(16, bins=(1, 2, 3, 6), norm=False)
weights = [branch[1].weight for branch in module.branches]
for branch in module.branches:
    nn.init.zeros_(branch[1].bias)                         # ours has none
maps = torch.randn(2, 16, 9, 25)
byhand = exercises.pyramid.reference(maps, (1, 2, 3, 6), weights)
assert torch.allclose(module(maps), byhand, atol=1e-6)
tuple(maps.shape), tuple(byhand.shape)

# %% [markdown]
# **Exercise 4.** And what does it cost?

# %%
def cost(channels, bins):
    """Of a pyramid over `channels` channels: how many channels its result has, and how many
    weights its 1 x 1 convolutions (no biases)."""
    ...

# %%
exercises.cost.check(cost)

# %% [markdown]
# **Predict** for the paper's network, on ResNet-50, with 21 classes: which share of the weights is
# the pyramid's?

# %%
with torch.device("meta"):
    full = PSPNet(21)
parts = {"ResNet-50": full.backbone, "pyramid": full.pyramid, "3 × 3 behind it": full.head,
         "scores": full.score}
for name, part in parts.items():
    print(f"{name:<16}{size_of(part):>12,}   {size_of(part) / size_of(full):4.0%}")
assert size_of(full) == 46_716_373 and full.pyramid.out_channels == 4096
channels, weights = exercises.cost.reference(2048, (1, 2, 3, 6))
assert weights == sum(branch[1].weight.numel() for branch in full.pyramid.branches) == 2048**2

# %% [markdown]
# A tenth. But the convolution that reads its 4096 channels has more than four times as many.
#
# ## Does it bring the evidence?
#
# Three networks more: with the four bins; with bin 1 alone, the **global average**; and with the
# other three. (All have as many weights.) **Predict** their curves. For the last one remember
# exercise 2: place 0 hears nothing of bin 2's right cell, place 4 a sixth of it, place 12 half.

# %%
kinds = {"global average": (1,), "bins 2, 3, 6": BINS[1:], "pyramid": BINS}
for name, bins in kinds.items():
    networks[name] = network(bins)
    fit(networks[name], train, **settings, title=name)
    curves[name] = rightness(networks[name])
sizes = [size_of(networks[name]) for name in curves]
assert max(sizes[1:]) < 1.01 * min(sizes[1:])

# %%
figure, (ax,) = draw.panels(1)
figure.set_size_inches(7.5, 3.2)
ax.axis("on")
colours = ("#CC6677", "#DDAA33", "#44AA99", "#332288")
for (name, curve), colour, width in zip(curves.items(), colours, (2, 5, 2, 2), strict=True):
    ax.plot(list(curve), list(curve.values()), color=colour, label=name, marker="o", ms=3,
            linewidth=width)
ax.axvline(76, color=colours[0], linestyle=":")
ax.set(xlabel="pixels from the beacon", ylabel="share right", ylim=(0.4, 1.04))
ax.legend(frameon=False);

# %%
def far_right(network):
    right = car_or_boat(network, twins[0]).argmax(1) == twins[1]
    return right[(twins[1] < 2) & (twins[2] > 85)].float().mean().item()

# %%
far_scores = {name: far_right(net) for name, net in networks.items()}
assert far_scores["no pyramid"] == 0.5
assert min(far_scores["pyramid"], far_scores["global average"]) > 0.9
ends = {d: share for d, share in curves["bins 2, 3, 6"].items() if d > 85}
assert ends[95] > 0.8 and ends[175] < 0.75
far_scores

# %% [markdown]
# The dotted line is half the theoretical field. Without a pyramid the network is a coin from some
# 60 pixels on. With bin 1 it is right wherever the beacon stands. The finer bins alone reach beyond
# the field, too, but not to the picture's other end: the farther the beacon, the less a place hears
# of the cell in which it stands. (What a trained network really uses of its field is less than the
# whole. That is how the authors argue, too: in theory the field of a ResNet already exceeds the
# picture.)
#
# In three runs (`network(bins, seed)` and `fit(..., seed=)`, 0 to 2) global average and pyramid
# were right beyond the field for 0.98 to 1.00 of the pixels. Without, it was 0.500 each time, with
# `width=11` as well (`benchmarks/seeds.py`).
#
# A pair of twins, 155 pixels from the evidence. The sprite is painted as what it is taken for, car
# rose, boat wine red:

# %%
def painted(network, image, target):
    """The picture, its sprite in the colour of its label: (3, H, W)."""
    boat = car_or_boat(network, image[None])[0].argmax(0) == 1
    rose, wine = (torch.tensor(draw.PALETTE[c] / 255.0).view(3, 1, 1) for c in (CAR, BOAT))
    return torch.where(target < 2, torch.where(boat, wine, rose), image)

figure, axes = draw.panels(2, rows=3)
figure.set_size_inches(9.2, 5.2)
for column, k in enumerate((4, 5)):
    draw.image(axes[column], twins[0][k], LABELS[column])
    for row, name in ((1, "no pyramid"), (2, "pyramid")):
        found = painted(networks[name], twins[0][k], twins[1][k])
        draw.image(axes[2 * row + column], found, name)

# %% [markdown]
# So the module works. But look at the curves again: the *global average* is as good as the pyramid.
# Here one fact decides, is there a pump in the picture or a buoy, and one mean can hold one fact.
# What are three more bins for?
#
# ## Bin by bin
#
# In the explorer you can move the beacon, hide it, and turn off bins of the network that you have
# just trained. A bin that is off says the same of every picture, its mean. **Predict**, then try:
#
# 1. The beacon is far away. Which bin, turned off, makes the answer wrong? Is that bin enough
#    alone?
# 2. All bins off. Bring the beacon nearer. From what distance on is the answer right?
# 3. Hide the beacon. What does the network say now, of something that nobody can know?
# 4. Point at the sprite's left end, then at its right end. Which cells of bin 6 reach it?

# %%
from segviz.widgets import PyramidExplorer

explorer = PyramidExplorer(networks["pyramid"], range(10_000, 10_012), size=(64, 192),
                           beside=networks["no pyramid"], distance=121)
explorer

# %% [markdown]
# Questions 1 and 2 as numbers, over all twins:

# %%
@torch.no_grad()
def answers(network, images, choices, classes=2):
    """{name: labels (B, H, W)} out of the first classes, each time with only these bins
    heard: the others say their mean over all places and images."""
    own, *bins = network.eval().levels(images)
    means = [each.mean((0, 2, 3), keepdim=True).expand_as(each) for each in bins]
    found = {}
    for name, heard in choices.items():
        told = zip(network.bins, bins, means, strict=True)
        said = [each if n in heard else mean for n, each, mean in told]
        found[name] = network.combine([own, *said], images.shape)[:, :classes].argmax(1)
    return found

def share_right(found, targets, asked):
    return (found == targets)[asked].float().mean().item()

# %%
CHOICES = {"all bins": BINS, **{f"without {n}": tuple(set(BINS) - {n}) for n in BINS},
           **{f"only {n}": (n,) for n in BINS}, "no bin": ()}
images, targets, away = twins
sprite = targets < 2
one = {name: [share_right(found, targets, sprite & part) for part in (away < 40, away > 85)]
       for name, found in answers(networks["pyramid"], images, CHOICES).items()}
for name, (near, far) in one.items():
    print(f"{name:<10}   near {near:.3f}   far {far:.3f}")

# %%
assert one["only 1"][1] > 0.9 and one["without 1"][1] < 0.7 and one["no bin"][1] == 0.5
assert max(one["no bin"][0], one["without 1"][0]) < 0.75

# %% [markdown]
# Bin 1 does it, and it alone. The finer bins *could* do much of it, as the curve above has shown;
# here they were not needed. And did you see the first column, your question 2? Without bin 1 no
# distance is near enough: the answer is no better right *beside* the beacon, where the network
# without a pyramid is nearly always right. As long as one mean answers everything, nothing else is
# learned. (Question 4: the pixel is reached by more cells than exercise 2 gives one place. The 3 ×
# 3 convolution behind the pyramid reads the neighbours, and the enlarging by 8 reads two places.)
#
# And question 3, a meadow with no beacon at all? How sure is the network of what nobody can know?

# %%
hidden = [explorer.parts(scene, 121, "hidden")[0] for scene in range(12)]
sprites = torch.stack([picture.mask for picture in hidden])
sure = {}
for name in ("no pyramid", "pyramid"):
    says = car_or_boat(networks[name], torch.stack([picture.image for picture in hidden]))
    sure[name] = says.amax(1)[sprites].mean().item()
    print(f"{name:<11} boat: {(says[:, 1] > 0.5)[sprites].float().mean():4.0%}"
          f"   sure of its answer: {sure[name]:.2f}")
assert sure["pyramid"] > sure["no pyramid"]

# %% [markdown]
# The network without a pyramid is undecided. It was often asked in training where it could not
# know. The one with it has never been without an answer, and gives one here too, all but certain.
# To see everything is not to know when there is nothing to see.

# %% [markdown]
# > **Myth or measured?** *"PSPNet owes its gain to four scales."* To the largest part of it not.
# > The authors measured mean IoU in percent (ADE20K, ResNet-50; section 5.2): 37.23 without, 40.07
# > with bin 1 alone, 41.68 with all four. So 2.84 of 4.45 points came with the global average.
# > (Between them, readers of table 1 report 41.07 for four bins without the 1 × 1 convolutions.)

# %% [markdown]
# ## Two meadows
#
# So when does *where* matter? When one mean holds too much. Put two meadows side by side, each with
# its own sprite and its own beacon, each car or boat whatever the other is. In half of the pictures
# there are a pump *and* a buoy. **Predict** for those: how often is the global average right? How
# often the pyramid? And which bin will do it?

# %%
def both(index, *labels):
    """Two meadows side by side: image and targets, 32 x 256."""
    halves = [example(2 * index + k, 88 + (2 * index + k) % 25, label, (32, 128))[:2]
              for k, label in enumerate(labels)]
    return [torch.cat(parts, -1) for parts in zip(*halves, strict=True)]

def stacked(made):
    return [torch.stack(parts) for parts in zip(*made, strict=True)]

torch.manual_seed(0)
drawn = torch.randint(2, (400, 2)).tolist()
double_settings = settings | {"steps": 160}
doubles = TensorDataset(*stacked(both(i, LABELS[a], LABELS[b])
                                 for i, (a, b) in enumerate(drawn)))
KINDS = [(a, b) for a in LABELS for b in LABELS]                # each index as all four
doubles_seen = stacked(both(i, *kind) for i in range(5000, 5025) for kind in KINDS)
mixed = torch.tensor([a != b for a, b in KINDS] * 25)

# %%
figure, axes = draw.panels(1, rows=2)
figure.set_size_inches(9, 2.7)
for ax, k in zip(axes, (1, 3), strict=True):
    draw.image(ax, doubles_seen[0][k], " and ".join(KINDS[k]))

# %%
doubled = {"global average": network((1,)), "pyramid": network(BINS)}
for name, net in doubled.items():
    fit(net, doubles, **double_settings, title=f"{name}, two meadows")

# %%
def doubles_right(network, choices):
    """{name: shares right of sprites' pixels: two of a kind in the picture, one of each}"""
    images, targets = doubles_seen
    asked = [(targets < 2) & of[:, None, None] for of in (~mixed, mixed)]
    return {name: [share_right(found, targets, of) for of in asked]
            for name, found in answers(network, images, choices).items()}

# %%
two = {}
for name, net in doubled.items():
    two |= doubles_right(net, {name: net.bins})
two |= doubles_right(doubled["pyramid"], CHOICES)
for name, (same, each) in two.items():
    print(f"{name:<15} two of a kind {same:.3f}   one of each {each:.3f}")

# %%
assert two["pyramid"][1] > 0.85 and min(two["pyramid"][0], two["global average"][0]) > 0.9
assert two["global average"][1] < 0.75

# %% [markdown]
# With two of a kind the mean is all one needs. With one of each it says "a pump and a buoy", and
# whose is whose is lost. (Why a little above a coin? Some sprites have the *other* meadow's beacon
# close by; then "not that one" is a good guess.) The pyramid knows. In three runs the global
# average had 0.59 to 0.62 with one of each, the pyramid 0.93 to 0.96.

# %%
finer = max((2, 3, 6), key=lambda n: two[f"only {n}"][1])
assert finer == 2 and two["only 2"][1] > 0.8 and two["without 2"][1] < 0.75
print(f"bin 2 alone {two['only 2'][1]:.3f}, all but bin 2 {two['without 2'][1]:.3f}")

# %% [markdown]
# And by bin 2: its cells are the two meadows. With one meadow bin 1 did it all, with two, bin 2,
# even where two of a kind would not need it. Nobody has told them. Where the evidence stands in the
# same cell as the question, and nothing else does that contradicts it, that bin serves.
#
# **Predict:** what if the meadows meet somewhere else? Move the pictures to the right, by 16 of 256
# pixels and by 64; what leaves on the right comes in on the left.

# %%
images, targets = doubles_seen
moved = {}
for shift in (0, 16, 64):
    found = answers(doubled["pyramid"], images.roll(shift, -1), {"all": BINS})["all"]
    there = targets.roll(shift, -1)
    moved[shift] = share_right(found, there, (there < 2) & mixed[:, None, None])
assert moved[16] < moved[0] - 0.1 and moved[64] < 0.7
{shift: f"{share:.2f}" for shift, share in moved.items()}

# %% [markdown]
# Then no cell fits any more, and it is soon a coin again. (The network has never seen such
# pictures. One that trains on them may do better, with other bins.) A pyramid is a bet that *some*
# bin fits.
#
# ## In a larger picture
#
# **Predict:** our network of one meadow learned on pictures 192 pixels wide. What will it say if
# the meadow is wider, with the beacon still 100 pixels away?

# %%
@torch.no_grad()
def in_a_meadow(network, width, asked=range(10_000, 10_025)):
    """Of the sprites' pixels, which share is labelled rightly, which share as boat."""
    images, targets, _ = stacked(example(i, 100, label, (64, width))
                                 for i in asked for label in LABELS)
    found, sprite = car_or_boat(network, images).argmax(1), targets < 2
    return share_right(found, targets, sprite), found[sprite].float().mean().item()

larger = {width: in_a_meadow(networks["pyramid"], width) for width in (192, 256, 384, 512)}
for width, (right, boat) in larger.items():
    print(f"{width} wide: right {right:.2f}   called boat {boat:.2f}")

# %%
assert larger[192][0] > 0.9 and larger[512][0] < 0.75
assert abs(larger[512][1] - 0.5) > 0.25 > abs(larger[192][1] - 0.5)

# %% [markdown]
# At 512 it calls nearly everything by one name. A mean depends on what it is taken over: in a wider
# meadow the beacon has a smaller share of it, and all else another one. What follows has learned
# the means of *one* size. (The authors' code tests in windows of the training size, 473 or 713, and
# lays them over each other.)

# %% [markdown]
# ## One number a channel
#
# Bin 1 leaves one number a channel and picture, and then comes batch norm: less the batch's mean,
# divided by its standard deviation. **Predict** what happens in a batch of one. And what is left in
# a batch of *two*?

# %%
learner = network(BINS).train()
try:
    learner(twins[0][:1])
except ValueError as error:
    print(error)

# %%
torch.manual_seed(0)
norm = nn.BatchNorm2d(4, affine=False)                     # a new one is in training mode
for batch in (16, 4, 2):
    normed = norm(100 * torch.rand(batch, 4, 1, 1)).flatten(1)
    print(f"batch of {batch:2}:", *(f"{x:5.2f}" for x in normed[:, 0]))
assert torch.allclose(normed.abs(), torch.ones(2, 4), atol=1e-3)

# %% [markdown]
# Two numbers, less their mean, by their spread: *plus one and minus one*, whatever they were (if
# they were not nearly equal). Of each channel only this is left: which of the two pictures has
# more. Torch raises an error for one; two it takes without a word. The authors trained with 16,
# over several GPUs. Where there is no room for many, one can **freeze** the statistics:

# %%
for part in learner.pyramid.modules():
    if isinstance(part, nn.BatchNorm2d):
        part.eval()                                   # running mean and variance stay
learner(twins[0][:1]).shape

# %% [markdown]
# (They should then come from a training with larger batches. A last, short batch of one stops a
# training too; `fit` leaves it out.)
#
# ## A second loss
#
# The paper trains with a second head, on the third stage of blocks, whose loss is added with a
# weight of 0.4, and which is thrown away afterwards. One often hears that it gives the middle of a
# deep network the gradient that it lacks. Does it lack it? Here are three networks before training,
# the last one as deep as ResNet-101, and how long the gradient is in their first three stages: of
# the first loss, and of 0.4 times the second. **Predict** how the two compare.

# %%
def gradient(blocks, head):
    """The length of the gradient of one head's loss, in the first to the third stage."""
    net = network(BINS, layers=blocks, auxiliary=True).train()
    images, labels = (part[:8] for part in pictures)
    F.cross_entropy(net(images, auxiliary=True)[head], labels, ignore_index=255).backward()
    stages = (net.backbone.layer1, net.backbone.layer2, net.backbone.layer3)
    return [nn.utils.get_total_norm(p.grad for p in stage.parameters()).item()
            for stage in stages]

# %%
lengths = {blocks: [gradient(blocks, head) for head in (0, 1)]
           for blocks in ((1, 1, 1, 1), (3, 4, 6, 3), (3, 4, 23, 3))}
for blocks, (first, second) in lengths.items():
    print(f"{blocks!s:<14} first loss", *(f"{x:6.1f}" for x in first),
          "   second", *(f"{0.4 * x:6.1f}" for x in second))

# %%
for first, second in lengths.values():
    assert all(a > 0.4 * b for a, b in zip(first, second, strict=True))
assert lengths[3, 4, 23, 3][0][0] > lengths[3, 4, 6, 3][0][0] > lengths[1, 1, 1, 1][0][0]

# %% [markdown]
# > **Myth or measured?** *"Without the second loss the gradient would not arrive."* Before
# > training, in our ResNets, it does: the deeper the network the *longer* it is, and in every stage
# > that of the first loss is the longer one. What the second adds is a demand: the third stage is
# > to be of use by itself. The authors measured 1.41 points of mean IoU for it (section 5.2). What
# > it is worth in our scenes comes next.

# %% [markdown]
# ## Ordinary scenes
#
# Enough of meadows. Toytown at 64 × 64, as in lessons 6 to 8, without a pyramid and with it.
# **Predict** how far apart they are.

# %%
from segviz import losses

names = toytown.CLASSES
scenes, val = Toytown("train", size=64, length=600), Toytown("val", size=64, length=80)
counts = torch.stack([torch.bincount(m[m < 10], minlength=10) for m in scenes.tensors()[1]])
town_settings = {"steps": 300, "batch_size": 6, "lr": 3e-3,
                 "class_weights": losses.class_weights(counts).sqrt()}
town = {"no pyramid": network((), classes=10), "pyramid": network(BINS, classes=10)}

# %%
for name, net in town.items():
    fit(net, scenes, **town_settings, title=name)
results = {name: evaluate(net, val, classes=names) for name, net in town.items()}

# %%
def row(name, scores):
    return (f"{name:<11} mean IoU {scores.mean_iou:.3f}    "
            f"boundary IoU {scores.boundary_iou:.3f}")

for name, scores in results.items():
    print(f"{row(name, scores)}    {size_of(town[name]):>8,} weights")
bare, pyramids = (scores.mean_iou for scores in results.values())
assert abs(pyramids - bare) < 0.05

# %% [markdown]
# The pyramid brings nothing here, and the second loss brings nothing either. In three runs mean IoU
# was 0.486 to 0.498 without a pyramid, 0.484 to 0.497 with it, and 0.488 to 0.493 with the second
# loss. (A wider network without a pyramid, of as many weights but more work, had 0.510 to 0.521.)
# Is that a surprise? A field of 151 pixels covers a scene of 64 twice over; and in these scenes
# what a pixel shows is mostly told by what is near it.
#
# Does the trained pyramid say anything at all?

# %%
images, masks = val.tensors()
for name, found in answers(town["pyramid"], images, CHOICES, classes=10).items():
    score = metrics.mean_iou(metrics.confusion_matrix(found, masks, 10))
    print(f"{name:<10} mean IoU {score:.3f}")
assert name == "no bin" and score > 0.9 * results["pyramid"].mean_iou

# %% [markdown]
# Hardly. On ADE20K, with 150 classes indoors and outdoors, the authors had 4.45 points: there it
# may well matter whether this is a kitchen. A module helps where its failure is. Look for the
# failure first.

# %% [markdown]
# ## The failure to take along
#
# Everything in this lesson happened at stride 8. The pyramid tells a place what is elsewhere. What
# lies *within* a place, a pole, a line, it does not bring back:

# %%
for name in ("pole", "marking", "car", "road"):
    found = results["pyramid"].class_iou[names.index(name)]
    print(f"{name:<8} {found:.2f}")
iou = results["pyramid"].class_iou
assert max(iou[names.index(name)] for name in ("pole", "marking")) < 0.35

# %% [markdown]
# And stride 8 has its price already. **Predict:** how much more work is ResNet-50 at stride 8 than
# at stride 32, with the same weights?

# %%
from torch.utils.flop_counter import FlopCounterMode

from segviz.models.resnet import ResNet

def work(output_stride, size=473):
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        ResNet(output_stride=output_stride).eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops() / 2e9

price = {stride: work(stride) for stride in (32, 16, 8)}
assert 3 < price[8] / price[32] < 6
{stride: f"{g:.0f} G multiply-adds" for stride, g in price.items()}

# %% [markdown]
# Yet it sees as far as at stride 32, with kernels no larger. How? Its last two stages stride no
# more; instead their 3 × 3 kernels have *holes* (lesson 3: rates of 2 and of 4). We have used that
# here without a word about what it does to the map. How large may the holes be? How many rates at
# once? **Lesson 10: atrous convolution.**
#
# ## What was shown
#
# - Beyond its field a network is exactly a coin, whatever its weights. (In training, batch norm is
#   a back door.)
# - Pyramid pooling averages the map over 1, 4, 9 and 36 cells, reduces, enlarges and stacks: each
#   place hears of the whole picture. Cells overlap where they do not divide the map.
# - One fact about the whole scene needs bin 1 alone. Two facts at two places need the bin whose
#   cells hold them apart.
# - A mean depends on what it is taken over: in a wider picture the network fails.
# - Batch norm of one number a channel: impossible for one picture, plus and minus one for two.
# - On ordinary scenes of Toytown neither the pyramid nor the second loss helped.

# %%
print("Scoreboard: car or boat, where the evidence is farther away than the field reaches")
for name, score in far_scores.items():
    print(f"{name:<15} one meadow {score:.3f}"
          + (f"    two meadows, one of each {two[name][1]:.3f}" if name in doubled else ""))
print("Scoreboard: Toytown at 64 x 64, 80 scenes, 300 steps of 6, PSPNet of width 8")
for name, scores in results.items():
    print(row(name, scores))

# %% [markdown]
# **Sources.** Zhao, Shi, Qi, Wang, Jia: *Pyramid Scene Parsing Network*, CVPR 2017, sections 3.1
# (failures), 3.2 (the module, the field), 4 (the second loss), 5.1 (batch of 16, weight 0.4), 5.2
# (scores; one of table 1 as readers report it); the authors' code, hszhao/semseg (order,
# normalisation, aligned corners, sizes 8k + 1, dilation). Liu, Rabinovich, Berg: *ParseNet: Looking
# Wider to See Better*, 2015 (the global average). He, Zhang, Ren, Sun: *Deep Residual Learning for
# Image Recognition*, CVPR 2016. Ioffe, Szegedy: *Batch Normalization*, ICML 2015. Words: pyramid
# pooling 피라미드 풀링, global average pooling 전역 평균 풀링, context 문맥, batch normalization 배치 정규화,
# auxiliary loss 보조 손실.
