# %% [markdown]
# # 3 · Receptive fields
#
# *60 minutes. You will find out, by hand and then for any network, which pixels an answer can
# depend on, and which of them really count. Then you will build three networks that are asked a
# question whose answer lies just out of their sight. Builds on lesson 2.*

# %%
from segviz import course
course.banner("03")

# %% [markdown]
# Lesson 2 ended with blocks. Each answer of its network came from a window of 40 × 40 pixels, and
# there was one answer every 8 pixels. We knew the 40: we had cut the crops to that size. But where
# in the network does 40 stand? Change one layer, and what becomes of it?
#
# ## Poke and see
#
# A *unit* is one place of a feature map. Its **receptive field** is the part of the input that it
# can depend on.
#
# To find it one needs no theory. Change one pixel; see whether the unit changes. To keep the
# pictures small, our image is a line of 25 pixels.

# %%
import copy

import torch
from torch import nn

def poke(network, unit=None, pixels=25):
    """Which pixels of a line change one unit (by default the middle one): █ yes, · no."""
    line = torch.rand(1, 1, pixels, dtype=torch.double)
    unit = network(line).shape[-1] // 2 if unit is None else unit
    seen = ""
    for pixel in range(pixels):
        poked = line.clone()
        poked[0, 0, pixel] += 1
        seen += "█" if network(poked)[0, 0, unit] != network(line)[0, 0, unit] else "·"
    return seen

# %%
torch.manual_seed(0)

def conv(kernel_size, **options):
    return nn.Conv1d(1, 1, kernel_size, dtype=torch.double, **options)

poke(conv(3))

# %% [markdown]
# A 3-convolution reads three pixels. **Predict** how many pixels a unit sees behind
#
# 1. two 3-convolutions,
# 2. a 3-convolution with stride 2, and then a 3-convolution,
# 3. a 3-convolution, and then one with stride 2.

# %%
stacks = [(conv(3), conv(3)), (conv(3, stride=2), conv(3)), (conv(3), conv(3, stride=2))]
for layers in stacks:
    seen = poke(nn.Sequential(*layers))
    print(seen, seen.count("█"))

# %% [markdown]
# 5, 7 and 5. The second layer reads three neighbours, and each of *them* reads three pixels. Where
# the first layer has a stride of 2, these neighbours lie two pixels apart, and so the whole reaches
# further. A stride makes every *later* kernel reach further. It does nothing for its own layer.
#
# ## Three numbers follow every map
#
# So we need to carry along how far apart units are. Three numbers do:
#
# | | | of the input itself |
# |---|---|---|
# | **size** | how many pixels a unit's field covers | 1 |
# | **jump** | how many pixels lie from one unit to the next | 1 |
# | **start** | where the middle of unit 0's field is | 0.5 |
#
# (Pixel 0 covers the interval from 0 to 1, so its middle is at 0.5.)
#
# A layer with kernel $k$, rate $d$ (its *dilation*: the taps are $d$ apart), stride $s$ and padding
# $p$ covers $k_{\text{eff}} = d\,(k - 1) + 1$ units of the map below. Their fields overlap: from
# the first to the last it is $k_{\text{eff}} - 1$ jumps.
#
# $$\text{size} \leftarrow \text{size} + (k_{\text{eff}} - 1) \cdot \text{jump} \qquad
# \text{jump} \leftarrow \text{jump} \cdot s \qquad
# \text{start} \leftarrow \text{start} + \Big(\frac{k_{\text{eff}} - 1}{2} - p\Big) \cdot \text{jump}$$
#
# The jump on the right is always the *old* one. Pooling counts like a convolution; what works on
# each place by itself (ReLU, batch norm in evaluation, 1 × 1) changes nothing.
#
# **Exercise 1.** One step of it.

# %%
from segviz.exercises import lesson_03 as exercises

# %%
def one_layer(size, jump, start, kernel, stride, padding, dilation):
    """(size, jump, start) of the map behind one layer, from those of the map before it."""
    ...

# %%
exercises.one_layer.check(one_layer)

# %% [markdown]
# Now lesson 2's classifier, layer by layer. Its head was a 3 × 3 convolution in disguise.
# **Predict** the last line: you know two of its numbers.

# %%
layers = [("conv", 3, 1), ("conv", 3, 1), ("pool", 2, 2), ("conv", 3, 1), ("pool", 2, 2),
          ("conv", 3, 1), ("pool", 2, 2), ("head", 3, 1)]
size, jump, start = 1, 1, 0.5
for name, k, s in layers:
    size, start, jump = size + (k - 1) * jump, start + (k - 1) / 2 * jump, jump * s
    print(f"{name} {k} x {k}, stride {s}:   size {size:2}   jump {jump}   start {start:4}")
assert (size, jump, start) == (40, 8, 20)

# %% [markdown]
# There stands the 40, and the 8. And the first window's middle is at 20: it begins at the image's
# edge, because nothing is padded.
#
# Look down the column of sizes. The first convolution added 2. The last added 16, with the same
# nine weights.
#
# **Exercise 2.** The three numbers say which pixels any unit sees.

# %%
def field_of(unit, size, jump, start):
    """(first, end): along one axis, the first pixel that this unit sees, and one past the
    last. Where a network pads, a field may stick out of the image: do not cut it off."""
    ...

# %%
exercises.field_of.check(field_of)

# %% [markdown]
# ## Any network
#
# `receptive.theoretical` does it for any module: it runs it once, and watches each operation.

# %%
from segviz import receptive

classifier = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.MaxPool2d(2),
                           nn.Conv2d(16, 32, 3), nn.MaxPool2d(2),
                           nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3))
last = receptive.theoretical(classifier, 128)[-1]
assert (last.size, last.jump, last.start) == (size, jump, start)
last

# %% [markdown]
# Now VGG16 (2014), with its first fully connected layer as the 7 × 7 convolution that it is.
# **Predict:** is the field of that layer, fc6, larger than the 224 × 224 pixels it was trained on?

# %%
from torchvision.models import resnet50, vgg16

with torch.device("meta"):                   # no memory for weights: only shapes are needed
    vgg = nn.Sequential(*vgg16().features, nn.Conv2d(512, 4096, 7))
    resnet = nn.Sequential(*list(resnet50().children())[:-2])
*body, fc6 = receptive.theoretical(vgg, 224)
stages = [layer for layer in body if layer.kind == "MaxPool2d"]
for layer in [*stages, fc6]:
    print(f"{layer.kind:<10} map {layer.shape[0]:3}   size {layer.size:3}   "
          f"jump {layer.jump}")
assert (stages[-1].size, fc6.size) == (212, 404)

# %% [markdown]
# fc6 could see 404 pixels, if there were so many: the rest are zeros from padding.
#
# ResNet-50 (2015) has blocks with two ways, a bypass and three convolutions (1 × 1, 3 × 3, 1 × 1).
# The longer way counts. **Predict:** in the first block of a stage one of the three strides by 2:
# in the authors' own model the first 1 × 1, in torchvision the 3 × 3. Whose field is larger?

# %%
def deepest(network):
    return receptive.theoretical(network, 224)[-1].size

as_by_the_authors = copy.deepcopy(resnet)
for stage in as_by_the_authors[5:]:          # the stride goes from the 3 x 3 to the 1 x 1
    stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
assert (deepest(resnet), deepest(as_by_the_authors)) == (427, 483)
deepest(resnet), deepest(as_by_the_authors)

# %% [markdown]
# The authors': its 3 × 3 already steps over the smaller map. Two networks of one name, and 56
# pixels between them. (torchvision's variant, often called v1.5, looks at more of the map in its
# strided layer, and is a little more accurate.)
#
# Is all that true? A gradient is a poke at all pixels at once: where it is not zero, the pixel
# matters. With positive weights nothing can cancel. Here is a network with two ways.

# %%
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.long = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2),
                                  nn.Conv2d(4, 4, 3, padding=1))
        self.short = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.long(x) + self.short(x)

two_ways = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), Block(), Block())

# %%
for weight in two_ways.parameters():
    nn.init.ones_(weight)
image = torch.rand(1, 3, 64, 64, requires_grad=True)
two_ways(image)[0, :, 16, 16].sum().backward()
rows = image.grad[0].sum((0, 2)).nonzero()                  # rows of pixels that matter
found = (rows.min().item(), rows.max().item() + 1)
layer = receptive.theoretical(two_ways, 64)[-1]
assert found == layer.field(16, 16)[::2]                    # (top, left, bottom, right)
found, layer.size

# %% [markdown]
# > **Myth or measured?** *"A small stride and small poolings keep the field large."* People mix it
# > up with the *map*, which they do keep large. The field is the other way round. Test it: four 3 ×
# > 3 convolutions, with strides 1 and with strides 2.

# %%
def strided(stride):
    return nn.Sequential(*[nn.Conv2d(3, 3, 3, stride, padding=1) for _ in range(4)])

fine, coarse = (receptive.theoretical(strided(s), 64)[-1] for s in (1, 2))
assert fine.size < coarse.size and fine.shape > coarse.shape
print(f"stride 1: field {fine.size}, map {fine.shape[0]}    "
      f"stride 2: field {coarse.size}, map {coarse.shape[0]}")

# %% [markdown]
# So there is a bill for a large field: a small map. That is why lesson 2's map came in blocks. Is
# there a way round? One: let the taps stand apart.
#
# ## Holes
#
# An **atrous** convolution (from French *à trous*, with holes) has a rate $d$: a 3-convolution of
# rate 2 reads pixels 0, 2 and 4. No more weights, no stride. **Predict** what three of them see,
# first with rates 2, 2, 2, then with rates 1, 2, 4.

# %%
def atrous(*rates):
    return nn.Sequential(*[conv(3, dilation=rate) for rate in rates])

for rates in ((2, 2, 2), (1, 2, 4)):
    seen = poke(atrous(*rates))
    print(seen, rates, "reads", seen.count("█"), "of", len(seen.strip("·")))

# %% [markdown]
# Rates 2, 2, 2: a field of 13 pixels, and every second one is never looked at, whatever the
# weights. This is **gridding**. Rates 1, 2, 4 see all of a field of 15.
#
# In two dimensions gridding is worse. **Predict:** behind layers of rates 1 and 2 a unit sees 7 × 7
# pixels without a hole. How large may the third rate be? Is 7 too much? Is 9?

# %%
from segviz import draw

def atrous2d(*rates):
    return nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=r, dilation=r) for r in rates])

def share_read(*rates, size=27):
    read = receptive.reads(atrous2d(*rates), size, (size // 2, size // 2))   # (H, W) bool
    side = receptive.theoretical(atrous2d(*rates), size)[-1].size
    return read, f"rates {rates}: {read.sum() / side**2:.0%} of {side} × {side}"

figure, axes = draw.panels(3, size=2.5)
for ax, rates in zip(axes, ((2, 2, 2), (1, 2, 7), (1, 2, 9)), strict=True):
    draw.heat(ax, *share_read(*rates))
assert share_read(1, 2, 7)[0].sum() == 21**2
assert share_read(2, 2, 2)[0].sum() == 7**2 and share_read(1, 2, 9)[0].sum() == 21**2

# %% [markdown]
# The third layer lays three copies of that 7 × 7 square side by side, its rate apart. Up to 7 they
# touch. From 8 on there are gaps between them. As long as the field below has no holes, a rate up
# to its size makes none, and a larger one does.
#
# The field's *size* is not the whole truth: it says how far a unit sees, not that it sees
# everything on the way.
#
# **Exercise 3.** Which pixels are read?

# %%
def pixels_read(rates):
    """The places, counted from the unit's own (0), that a stack of 3-convolutions with
    these rates reads along one axis: a sorted list, each place once. [1] -> [-1, 0, 1]"""
    ...

# %%
exercises.pixels_read.check(pixels_read)

# %% [markdown]
# ## Build one yourself
#
# Below, a stack seen from the side: the image's pixels at the bottom, a row of units for each
# layer. Point at any output unit, and see what it depends on at every layer and in the picture. Add
# layers, change their kernel, stride, padding, rate. **Predict**, then try:
#
# 1. Give the three layers the rates 1, 2 and 7, with as much padding. Then 8.
# 2. Rates 1, 1, 1 again. Give the *first* layer a stride of 2; take it back, and give it to the
#    *last*. Which of the two makes the field larger?
# 3. Choose VGG16 and look from deeper and deeper layers. Where does the field become larger than
#    the picture?
# 4. Make a kernel larger than its map. What is wrong?

# %%
from segviz.data import toytown
from segviz.widgets import ReceptiveExplorer

explorer = ReceptiveExplorer(toytown.scene(25, 224).image)
explorer

# %% [markdown]
# 1: no holes at 7, one between each two copies at 8. 2: the first: 11 pixels against 7; the last
# layer's own stride does nothing for it. 3: only at fc6, where 212 becomes 404. 4: the red line
# under the control says it.
#
# ## Which pixels count
#
# > **Myth or measured?** *"A unit looks at its receptive field."* As if all of its pixels counted
# > alike. Let us count the ways.
#
# Two 3-convolutions. Pixels at the middle of the field reach the unit by several ways, those at its
# edge by one. With all weights 1, the gradient counts the ways. **Predict** the five numbers.

# %%
def ways(depth):
    """How many ways lead from each pixel of the field to the unit, `depth` layers up."""
    line, kernel = (torch.ones(1, 1, n, dtype=torch.double) for n in (1, 3))
    for _ in range(depth):
        line = nn.functional.conv1d(line, kernel, padding=2)
    return line.flatten()

ways(2)

# %%
figure, axes = draw.panels(3, size=2.2)
for ax, depth in zip(axes, (2, 8, 32), strict=True):
    counts = ways(depth)
    ax.axis("on")
    ax.bar(range(-depth, depth + 1), counts / counts.max(), width=1)
    ax.set(title=f"{depth} layers, field {2 * depth + 1}", yticks=[], xlabel="place")

# %% [markdown]
# A bell, and compared with the field it gets thinner and thinner. Its width, the standard
# deviation, grows with the *square root* of the depth: each layer adds a step of −1, 0 or 1, and
# steps at random get √n far. The theoretical field grows with n.

# %%
def width(depth):
    counts, places = ways(depth), torch.arange(-depth, depth + 1)
    return (counts * places**2).sum().div(counts.sum()).sqrt().item()

assert abs(width(32) / width(8) - 2) < 1e-6           # four times as deep, twice as wide
width(8), width(32)

# %% [markdown]
# In two dimensions, and with real weights: the **effective receptive field** is the size of the
# gradient, pixel by pixel, averaged over images. Luo et al. (2016) measured it: a bell in random
# networks, which grew when they were trained.
#
# **Exercise 4.** Measure it.

# %%
def effective_field(network, image, row, column):
    """image (C, H, W) -> (H, W): how strongly each pixel moves the unit (row, column) of
    the network's output (its channels added up): |gradient|, added up over the image's
    channels."""
    ...

# %%
exercises.effective_field.check(effective_field)

# %% [markdown]
# `receptive.effective` does that for a batch of images and takes the mean;
# `receptive.effective_size` gives the side of a square with as many pixels as have at least 4.55 %
# of the peak (after Luo et al., who take the value at the centre for the peak). Here are random
# networks with ReLU, deep ones and one that is wide: a single 11 × 11 layer.
#
# **Predict:** five 3 × 3 layers, or one 11 × 11: the theoretical field is 11 × 11 for both. Whose
# effective one is larger?

# %%
def random_network(depth, kernel_size=3, width=8):
    layers = []
    for channels in [3] + [width] * (depth - 1):
        conv = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)

def field_of_random(depth, kernel_size=3, size=85):
    torch.manual_seed(0)
    noise = torch.randn(8, 3, size, size)
    networks = [random_network(depth, kernel_size) for _ in range(4)]
    fields = [receptive.effective(n, noise, (size // 2, size // 2)) for n in networks]
    return torch.stack(fields).mean(0)

# %%
from matplotlib.patches import Rectangle

sizes = {}
figure, axes = draw.panels(5, size=2)
settings = ((1, 11), (5, 3), (10, 3), (20, 3), (40, 3))
for ax, (depth, k) in zip(axes, settings, strict=True):
    field, full = field_of_random(depth, k), depth * (k - 1) + 1
    sizes[depth, k] = receptive.effective_size(field)
    title = f"{depth} × ({k} × {k}): {sizes[depth, k]:.0f} of {full}"
    draw.heat(ax, field, title, vmax=field.max())
    corner = (85 - full) / 2 - 0.5                        # the theoretical field
    ax.add_patch(Rectangle((corner, corner), full, full, fill=False, color="white"))

# %%
assert sizes[5, 3] < sizes[1, 11]
assert sizes[40, 3] < 2.5 * sizes[10, 3]              # not four times as large: about twice
assert sizes[40, 3] / 81 < 0.6 < sizes[10, 3] / 21
{f"{depth} layers": f"{sizes[depth, 3] / (2 * depth + 1):.0%}" for depth in (5, 10, 20, 40)}

# %% [markdown]
# One wide layer uses all of its field, and uses it evenly. Five layers of the same field already
# look at its middle. Forty layers use a good third of the width they could see. Depth makes a field
# large on paper; what counts stays near the middle. Does training change that?
#
# ## The evidence out of reach
#
# Now the question that decides whether all this matters: can a network know what it does not see?
# Toytown has a world made for asking. On a misty meadow stands *one sprite*. If a petrol pump
# stands at some distance, the sprite is a **car**. If it is a red buoy, the sprite is a **boat**.
# Nothing else tells than this *beacon*.

# %%
figure, axes = draw.panels(4, size=2.2)
shown = ((4, "car"), (4, "boat"), (24, "car"), (24, "boat"))
for ax, (distance, label) in zip(axes, shown, strict=True):
    pair = toytown.pair(3, 64, distance=distance, label=label)
    draw.image(ax, pair.image, f"{label}, {distance} pixels away")

# %% [markdown]
# Our networks label four things: car, boat, pump, buoy. The meadow is void (255), so that nothing
# is asked there. We also note for each pixel how far it is from the beacon. That stands 1 to 10
# pixels from the sprite's edge; the sprite is long, and its far end is up to 25 away.

# %%
CAR, BOAT, BEACON = (toytown.CLASSES.index(name) for name in ("car", "boat", "pole"))

def distance_to(box, size):
    """For each pixel, how many pixels it is from a box: the larger of across and down."""
    places, (x0, y0, x1, y1) = torch.arange(size), box
    across = torch.maximum(x0 - places, places - (x1 - 1)).clamp(min=0)
    down = torch.maximum(y0 - places, places - (y1 - 1)).clamp(min=0)
    return torch.maximum(down[:, None], across[None])

def example(index, distance, label, size=64):
    pair = toytown.pair(index, size, distance=distance, label=label)
    target = torch.full_like(pair.mask, 255)
    for kind, of_class in enumerate((CAR, BOAT)):
        target[pair.mask == of_class] = kind
    target[pair.mask == BEACON] = 2 if label == "car" else 3
    beacon = next(thing for thing in pair.objects if thing.name == "pole")
    return pair.image, target, distance_to(beacon.box, size)

# %%
from torch.utils.data import TensorDataset

def examples(indices, labels):
    """An example for each index and each of its labels, the beacon 1 to 10 pixels away."""
    made = [example(i, 1 + i % 10, label) for i in indices for label in labels(i)]
    return [torch.stack(parts) for parts in zip(*made, strict=True)]

images, targets, _ = examples(range(800), lambda i: [("car", "boat")[i // 10 % 2]])
train = TensorDataset(images, targets)
twins = examples(range(10_000, 10_060), lambda i: ("car", "boat"))    # each picture as both

# %% [markdown]
# Three networks: five 3 × 3 layers of 16 channels each, the same number of weights. Only their
# rates differ. A unit sees its own pixel and as many to each side as the rates add up to.

# %%
RATES = {"near": (1, 2, 2, 2, 3), "middle": (1, 2, 4, 4, 5), "far": (1, 2, 4, 7, 8)}

def stack(rates, classes=4, width=16):
    layers = []
    for channels, rate in zip((3,) + 4 * (width,), rates, strict=True):
        conv = nn.Conv2d(channels, width, 3, padding=rate, dilation=rate)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, classes, 1))

for name, rates in RATES.items():
    last = receptive.theoretical(stack(rates), 64)[-1]
    assert last.size == 2 * sum(rates) + 1
    print(f"{name:<7} rates {rates}   field {last.size}   to each side {sum(rates)} pixels")

# %% [markdown]
# **Predict:** for each of the three, how often is a pixel of the sprite labelled rightly, if it
# lies 5 pixels from the beacon? 12? 18? 24? Draw three curves. Then train.

# %%
from segviz.training import evaluate, fit

torch.manual_seed(0)
networks = {name: stack(rates) for name, rates in RATES.items()}
untrained = copy.deepcopy(networks["far"])
for name, network in networks.items():
    fit(network, train, steps=150, batch_size=12, lr=1e-2, title=name)

# %%
def rightness(network, images, targets, distances):
    """{distance: share right of the sprites' pixels that are so far from the beacon}"""
    with torch.no_grad():
        logits = network.eval()(images)
    right = logits[:, :2].argmax(1) == targets               # car or boat?
    sprite = targets < 2
    far = distances[sprite].unique().tolist()
    return {d: right[sprite & (distances == d)].float().mean().item() for d in far}

curves = {name: rightness(network, *twins) for name, network in networks.items()}

# %%
figure, (ax,) = draw.panels(1, size=4)
figure.set_size_inches(7, 3.2)
ax.axis("on")
colours = ("#332288", "#DDAA33", "#CC6677")
for (name, curve), colour in zip(reversed(curves.items()), colours, strict=True):
    ax.plot(list(curve), list(curve.values()), color=colour, label=name, marker="o", ms=3,
            linewidth={"far": 5, "middle": 3, "near": 1.5}[name])
    ax.axvline(sum(RATES[name]) + 0.5, color=colour, linestyle=":")
ax.set(xlabel="pixels from the beacon", ylabel="share right", ylim=(0.4, 1.04))
ax.legend(frameon=False);

# %% [markdown]
# Steps, as sharp as the theory. The dotted lines are not fitted: each stands at half the network's
# theoretical field. Up to that line a network is right nine times in ten and mostly always; one
# pixel further, and it is exactly as good as a coin. (Right beside the beacon, at distance 1, there
# are few pixels to learn from.)

# %%
for name, curve in curves.items():
    reach = sum(RATES[name])
    within = [share for d, share in curve.items() if d <= reach]
    beyond = [share for d, share in curve.items() if d > reach]
    assert sum(within) / len(within) > 0.9 and set(beyond) == {0.5}
    mean = sum(within) / len(within)
    print(f"{name:<7} within reach {mean:.3f}   beyond {beyond[0]:.3f}")

# %% [markdown]
# *Exactly* 0.5? Yes. Our test pictures are twins: each is drawn once with the pump and once with
# the buoy, and not one other pixel differs. Beyond reach a unit gets the same numbers from both, so
# it gives the same answer to both, and is right once.

# %%
with torch.no_grad():
    as_car, as_boat = networks["near"](twins[0][:2])          # scores of one pair of twins
same = (as_car == as_boat).all(0)                             # (H, W)
assert same[twins[2][0] > sum(RATES["near"])].all() and not same.all()

titles = ("as a car", "as a boat", "scores that differ, sprite")
figure, axes = draw.panels(3, size=2.4, titles=titles)
draw.image(axes[0], twins[0][0])
draw.image(axes[1], twins[0][1])
draw.heat(axes[2], ~same)
axes[2].contour(twins[1][0] < 2, levels=[0.5], colors="#d6004b");

# %% [markdown]
# No training, no data and no trick can help a network with what lies outside its field. **What
# decides must be within reach.** That is what a large field is for.
#
# And *which* pixels within reach count? Here is the effective field of the far network for one
# question: car or boat? It is measured at the middle of the sprite, for 40 pictures, laid over one
# another so that the sprite's middle is at the cross. **Predict:** what has training changed?

# %%
car_or_boat = nn.Conv2d(4, 1, 1, bias=False)             # the car's score less the boat's
car_or_boat.weight.data = torch.tensor([1., -1, 0, 0]).view(1, 4, 1, 1)

def around_the_sprite(network, image, target, reach=22):
    row, column = (target < 2).nonzero().float().mean(0).round().int().tolist()
    question = nn.Sequential(network, car_or_boat)
    field = receptive.effective(question, image[None], (row, column))
    field = nn.functional.pad(field, [reach] * 4)        # nothing beyond the image's edge
    return field[row:row + 2 * reach + 1, column:column + 2 * reach + 1]

def mean_field(network):
    fields = [around_the_sprite(network, *picture)
              for picture in zip(twins[0][:40], twins[1][:40], strict=True)]
    return torch.stack(fields).mean(0)

# %%
fields = {"before training": mean_field(untrained), "after": mean_field(networks["far"])}
figure, axes = draw.panels(2, size=3)
for ax, (name, field) in zip(axes, fields.items(), strict=True):
    draw.heat(ax, field, name, vmax=field.max())
    ax.plot(22, 22, "+", color="white", markersize=12)

# %%
def spread(field):
    """The field's standard deviation (down, across), in pixels."""
    places = torch.arange(len(field)) - len(field) // 2
    squares = torch.stack([field.sum(1) @ places.square().float(),
                           field.sum(0) @ places.square().float()])
    return (squares / field.sum()).sqrt().tolist()

for name, field in fields.items():
    down, across = spread(field)
    print(f"{name:<16} down {down:4.1f}   across {across:4.1f}   ratio {across / down:.2f}   "
          f"effective size {receptive.effective_size(field):.0f}")
sizes = [receptive.effective_size(field) for field in fields.values()]
assert across / down > 1.2 and sizes[1] < 1.1 * sizes[0]

# %% [markdown]
# Before training a round bell. After: a band to the left and the right, which is where the beacon
# stands, seen from the sprite. Luo et al. saw the effective field grow in training. Ours has not
# grown: it has moved to where the evidence is, as far as the theoretical field lets it.
#
# The explorer knows your networks, too. In "its field" you find the sprite and the beacon. Point at
# the sprite's end that is far from the beacon. **Predict:** is the beacon in the box of "far,
# trained"? And of "near, trained"? Then turn to the effective field.

# %%
questions = {f"{name}, trained": nn.Sequential(networks[name], car_or_boat)
             for name in ("far", "near")}
trained = ReceptiveExplorer(twins[0][0], networks=questions,
                            effective={name: twins[0][:2] for name in questions})
row, column = (twins[1][0] < 2).nonzero()[0].tolist()
trained.set(network="far, trained", unit=(row, column))
trained

# %% [markdown]
# ## Is larger always better?
#
# > **Myth or measured?** *"The larger the receptive field, the better the segmentation."* In the
# > world of pairs, yes. Now to ordinary scenes, where a pixel's own neighbourhood mostly tells.
# > Train the far network there, and beside it one with rates 1, 1, 1, 1, 1, whose field is 11 × 11.
# > **Predict** who wins.

# %%
from segviz.data import Toytown

scenes, val = Toytown("train", 64, length=400), Toytown("val", 64, length=100)
results = {}
for rates in ((1, 1, 1, 1, 1), RATES["far"]):
    torch.manual_seed(0)
    network, name = stack(rates, classes=10), f"field {2 * sum(rates) + 1}"
    fit(network, scenes, steps=200, batch_size=12, lr=1e-2, title=f"{name}, on scenes")
    results[name] = evaluate(network, val)

# %%
for name, result in results.items():
    print(f"{name}: pixel accuracy {result.pixel_accuracy:.3f}   "
          f"mean IoU {result.mean_iou:.3f}")
assert results["field 11"].mean_iou > results["field 45"].mean_iou

# %% [markdown]
# The small one. Both have the same weights to spend. One spends them on 11 × 11 pixels, the other
# spreads them over 45 × 45; and here what a pixel shows is mostly told by what is near. (After 200
# steps; what a longer training would do is not shown here.) A field must be large *enough* for the
# evidence, and still have taps to spare for the detail.
#
# ## The failure to take along
#
# Atrous layers paid for their field with holes. Strides pay for it with the map: every stride of 2
# makes all later kernels reach twice as far, at a quarter of the work, and that is why VGG16 has
# five of them. Its last map has one unit for 32 × 32 pixels. Here is a label map whose every answer
# is right, given once for each 8 × 8, 16 × 16, 32 × 32 pixels: the label at their middle.

# %%
from segviz import metrics

truth = torch.stack([toytown.scene(3 * i + 1, 128).mask for i in range(30)])    # (30, H, W)
figure, axes = draw.panels(4, size=2.3)
draw.labels(axes[0], truth[4], "truth")
for ax, jump in zip(axes[1:], (8, 16, 32), strict=True):
    middle = truth[:, jump // 2::jump, jump // 2::jump]
    blocks = middle.repeat_interleave(jump, 1).repeat_interleave(jump, 2)
    counts = metrics.confusion_matrix(blocks.where(blocks != 255, 0), truth, 10)
    score = metrics.mean_iou(counts)
    assert score < {8: 0.7, 16: 0.55, 32: 0.4}[jump]
    draw.labels(ax, blocks[4], f"{jump} × {jump}: mean IoU {score:.2f}")

# %% [markdown]
# Every answer is right, and at 32 × 32 the picture is lost. To see far we shrink the map. So we
# must make it large again. How? **Lesson 4: making maps larger.**
#
# ## What was shown
#
# - A unit depends on a window of the input, its receptive field. Size, jump and start follow it
#   from layer to layer; strides make all later kernels reach further, branches count by the longer
#   way.
# - Rates make a field large without strides, and can leave holes in it.
# - Inside the field pixels do not count alike: what counts is a bell around the middle, whose width
#   grows with the square root of the depth. Training moves it.
# - Evidence outside the field cannot be used: accuracy falls to chance at exactly its edge.
# - A field must be large enough for the evidence. With the same weights, larger than that was not
#   better.

# %%
print("Scoreboard: car or boat, the sprite's pixels by their distance from the evidence")
for name, curve in curves.items():
    reach = sum(RATES[name])
    within = [share for d, share in curve.items() if d <= reach]
    beyond = [share for d, share in curve.items() if d > reach]
    print(f"{name:<7} field {2 * reach + 1}   within reach {sum(within) / len(within):.3f}"
          f"    beyond {sum(beyond) / len(beyond):.3f}")

# %% [markdown]
# **Sources.** Araujo, Norris, Sim: *Computing Receptive Fields of Convolutional Neural Networks*,
# Distill 2019 (the sizes in closed form; a table, which has 212 for VGG16 and 483 for a third
# ResNet-50, TF-Slim's, whose strides stand in the last block of a stage). Luo, Li, Urtasun, Zemel:
# *Understanding the Effective Receptive Field in Deep Convolutional Neural Networks*, NIPS 2016
# (the gradient as a measure; the bell and its square root). Wang et al.: *Understanding Convolution
# for Semantic Segmentation*, WACV 2018 (gridding). Simonyan, Zisserman: *Very Deep Convolutional
# Networks for Large-Scale Image Recognition*, ICLR 2015 (VGG16). He et al.: *Deep Residual Learning
# for Image Recognition*, CVPR 2016. Words: receptive field 수용 영역, effective receptive field 유효 수용
# 영역, stride 스트라이드, dilation rate 팽창률, atrous convolution 아트러스 컨볼루션.
