# %% [markdown]
# # 7 · Convolution and deconvolution networks
#
# *55 minutes. You will keep what max pooling throws away, two bits at a time, and hand it to a
# network that is VGG16 on the way down and its mirror image on the way up. Then you will ask what
# those bits really say. Builds on lessons 4 and 6.*

# %%
from segviz import course
course.banner("07")

# %% [markdown]
# Lesson 6 gave FCN its skips, and stopped at 8 × 8 pixels. So here once more are the *true* shares
# of all classes in blocks of 8 × 8, made large again: what such a network could say if it knew
# everything. **Predict:** which classes are lost?

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, layers, losses, metrics
from segviz.data import Toytown, toytown
from segviz.training import evaluate, fit, predict

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another
train, val = Toytown("train", size=64, length=600), Toytown("val", size=64, length=80)
images, masks = val.tensors()
names = toytown.CLASSES

# %%
def through_grid(mask, places=8):
    """The shares of all classes in places x places blocks, made large again: (10, H, W)."""
    one_hot = F.one_hot(mask.clamp(max=10), 11)[..., :10].permute(2, 0, 1).float()
    shares = F.adaptive_avg_pool2d(one_hot[None], places)
    return F.interpolate(shares, size=mask.shape, mode="bilinear")[0]

known = sum(metrics.confusion_matrix(through_grid(m).argmax(0), m, 10) for m in masks)
for name, iou in zip(names, metrics.class_iou(known), strict=True):
    print(f"{name:<10}{iou:.2f}")
assert metrics.class_iou(known)[[names.index("pole"), names.index("marking")]].max() < 0.25

# %% [markdown]
# Poles and markings: thinner than a block. FCN's answer was to look again at earlier layers.
# Another group asked another question: what exactly does pooling throw away, and could we just
# *keep* it?
#
# ## Two bits
#
# Pool this map by hand. In each window of 2 × 2 the largest number stays. **Predict** what is lost
# besides three numbers.

# %%
picture = torch.tensor([[1., 9, 2, 3],
                        [4, 2, 8, 1],
                        [5, 1, 0, 2],
                        [0, 6, 7, 3]])
windows = picture.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2)     # 2 x 2 windows of four
values, which = windows.max(-1)
values, which

# %% [markdown]
# *Which* of the four it was: 0 upper left, 1 upper right, 2 lower left, 3 lower right. One of four
# is two bits. Lesson 4 called it the **switch**. Torch can tell it too, only it counts the places
# of the whole map, row by row:

# %%
pooled, switches = F.max_pool2d(picture[None], 2, return_indices=True)
across, along = switches // 4, switches % 4            # row and column: the map is 4 wide
assert torch.equal(2 * (across % 2) + along % 2, which[None])
switches[0]

# %% [markdown]
# **Unpooling** puts each value back where it stood.
#
# **Exercise 1.** Write it, for one map.

# %%
from segviz.exercises import lesson_07 as exercises

# %%
def unpool(values, switches, height, width):
    """values (h, w); switches (h, w): where each of them stood, row * width + column, in
    a map (height, width) -> that map, with 0 at all other places."""
    ...

# %%
exercises.unpool.check(unpool)

# %%
unpooled = layers.unpool(pooled[None], switches[None])[0, 0]     # segviz's, on (B, C, H, W)
filled = unpooled > 0
assert filled.sum() == 4 and torch.equal(unpooled[filled], picture[filled])
unpooled

# %% [markdown]
# Now what no *share* of a block of 8 × 8 pixels could say: a pole, one pixel wide, in column 13.
# Pool it three times, and go back. Without switches one can put each value into the upper left
# *corner* of its window, or draw straight lines between the values (*bilinear*). **Predict** in
# which columns the three bring the pole back.

# %%
def down(maps, times=3):
    memory = []
    for _ in range(times):
        maps, switches = F.max_pool2d(maps, 2, return_indices=True)
        memory.append(switches)
    return maps, memory

def up(maps, memory, mode):
    for switches in reversed(memory):
        maps = layers.unpool(maps, switches, mode)
    return maps

# %%
pole = torch.zeros(1, 1, 64, 64)
pole[..., 13] = 1
modes = ("switches", "corner", "bilinear")
back = {mode: up(*down(pole), mode)[0, 0] for mode in modes}
columns = {mode: back[mode].sum(0).nonzero().flatten().tolist() for mode in modes}
for mode, where in columns.items():
    print(f"{mode:<9}", *where)

# %%
figure, axes = draw.panels(4, size=2.2, titles=("before", *modes))
for ax, values in zip(axes, (pole[0, 0], *back.values()), strict=True):
    draw.heat(ax, values)
assert columns["switches"] == [13] and columns["corner"] == [8]
assert len(columns["bilinear"]) > 12 and (back["switches"] > 0).sum() == 8

# %% [markdown]
# The switches know the column to the pixel. But of 64 pixels of pole they bring back 8, one in each
# block (the top one: all are equal, and torch keeps the first). They say *where*; to fill what lies
# between is left to the layers that follow.
#
# ## There and back
#
# **Predict**, for a map without negative numbers (it comes out of a ReLU): is `pool(unpool(y))`
# equal to `y`? And `unpool(pool(x))` to `x`?

# %%
torch.manual_seed(0)
x, y = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 8, 8)
pooled, switches = F.max_pool2d(x, 2, return_indices=True)
assert torch.equal(F.max_pool2d(layers.unpool(y, switches), 2), y)
again = layers.unpool(pooled, switches)
kept = again == x
f"of x {kept.float().mean():.0%} came back; the rest is {again[~kept].abs().max():.0f}"

# %%
assert kept.float().mean() == 0.25 and not torch.equal(again, x)
assert torch.equal(F.max_pool2d(layers.unpool(-y, switches), 2), torch.zeros_like(y))

# %% [markdown]
# > **Myth or measured?** *"Unpooling inverts pooling."* Pooling undoes unpooling (if nothing is
# > negative: else the zeros win). Unpooling does not undo pooling: three numbers of four are gone.
# > And it learns nothing: it has not a single weight.

# %% [markdown]
# ## The network
#
# **DeconvNet** (Noh, Hong, Han 2015) takes VGG16 all the way down to a *single* place, 1 × 1. Then
# it goes up as VGG16 in a mirror: unpool, with the switches of the pooling opposite, then layers
# that fill in; five times. Here it is at the paper's size. (`meta` tensors have shapes and no
# numbers: nothing is computed.)

# %%
from segviz.models import DeconvNet

with torch.device("meta"):
    full = DeconvNet(num_classes=21).eval()                      # 20 of VOC, background
    code, switches = full.encode(torch.empty(1, 3, 224, 224))
    maps = full.decode(code, switches)
print("switches", *(f"{tuple(s.shape[1:])}" for s in switches))
print("code    ", tuple(code.shape[1:]))
print("maps    ", *(f"{tuple(m.shape[1:])}" for m in maps))

# %% [markdown]
# Read it as a valley: down to the code, 4096 numbers for the whole picture, and up again.
# **Predict** where most of the weights are.

# %%
def size_of(module):
    return sum(p.numel() for p in module.parameters())

parts = {"thirteen convolutions": full.stages, "fc6, 7 x 7": full.fc6, "fc7": full.fc7,
         "fc6's mirror": full.fc6_deconv, "thirteen 'deconvolutions'": full.decoder,
         "scores": full.score}
for name, part in parts.items():
    print(f"{name:<28}{size_of(part):>12,}")
bottom = sum(size_of(part) for part in (full.fc6, full.fc7, full.fc6_deconv))
f"{size_of(full):,}, of these {bottom / size_of(full):.0%} in three layers"

# %%
assert size_of(full) == 251_805_653 and 0.88 < bottom / size_of(full) < 0.89

# %% [markdown]
# At the valley's floor. Keep that number in mind.
#
# ## Where is the deconvolution?
#
# **Predict:** behind fc6's mirror, thirteen transposed convolutions lead up. Which of them make
# maps larger?

# %%
strides = [layer.stride[0] for layer in full.decoder.modules()
           if isinstance(layer, nn.ConvTranspose2d)]
sizes = [tuple(stage(torch.empty(1, m.shape[1], 9, 9, device="meta")).shape[2:])
         for stage, m in zip(full.decoder, maps, strict=False)]
strides, sizes

# %%
assert set(strides) == {1} and set(sizes) == {(9, 9)}

# %% [markdown]
# None. With stride 1 and padding 1 a 9 × 9 map stays 9 × 9. From 7 × 7 up, all the enlarging is
# done by unpooling. And what *is* a transposed convolution with stride 1? Remember lesson 4: write
# zeros between the inputs, turn the kernel, convolve. With stride 1 there are no zeros to write.
#
# **Exercise 2.** Give the weights of that ordinary convolution.

# %%
def as_convolution(weight):
    """weight (C, D, k, k) of a transposed convolution with stride 1, from C to D channels
    -> the weight (D, C, k, k) with which an ordinary convolution makes the same numbers."""
    ...

# %%
exercises.as_convolution.check(as_convolution)

# %%
deconvolution = nn.ConvTranspose2d(8, 4, 3, padding=1)
x = torch.randn(2, 8, 9, 9)
turned = exercises.as_convolution.reference(deconvolution.weight)
assert torch.allclose(deconvolution(x), F.conv2d(x, turned, deconvolution.bias, padding=1),
                      atol=1e-5)

# %% [markdown]
# > **Myth or measured?** *"DeconvNet enlarges by deconvolution."* Its thirteen "deconvolutions" are
# > ordinary convolutions with turned kernels; they enlarge nothing and invert nothing. Weights that
# > are to be learned do not care which way round they are stored.

# %% [markdown]
# ## Is it the switches?
#
# Now train it: scenes of 64 × 64, an eighth of the channels, the class weights of lesson 6. Three
# networks begin with the *same* weights and see the same batches; only their unpooling differs. The
# comparison is a fair one, for unpooling has no weights.

# %%
counts = torch.stack([torch.bincount(m[m < 10], minlength=10) for m in train.tensors()[1]])
settings = {"steps": 400, "batch_size": 6, "lr": 2e-3,
            "class_weights": losses.class_weights(counts).sqrt()}

def network(unpooling, seed=0):
    torch.manual_seed(seed)
    return DeconvNet(10, width=8, size=64, unpooling=unpooling)

networks = {mode: network(mode) for mode in modes}
starts = [n.state_dict().values() for n in networks.values()]
assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*starts, strict=True))

# %% [markdown]
# **Predict** while they train: how do the three masks look? What does the loss of the switches cost
# in mean IoU, what at the boundaries?

# %%
seconds = {mode: fit(net, train, **settings, title=mode).seconds
           for mode, net in networks.items()}

# %%
def row(name, scores):
    return (f"{name:<10} mean IoU {scores.mean_iou:.3f}    "
            f"boundary IoU {scores.boundary_iou:.3f}")

results = {mode: evaluate(net, val, classes=names) for mode, net in networks.items()}
for mode, scores in results.items():
    print(row(mode, scores))

# %%
figure, axes = draw.panels(5, rows=2, size=2.1, titles=("scene", *modes, "truth"))
for k, scene in enumerate((4, 6)):
    draw.image(axes[5 * k], images[scene])
    for ax, net in zip(axes[5 * k + 1:], networks.values(), strict=False):
        draw.labels(ax, predict(net, images[scene]))
    draw.labels(axes[5 * k + 4], masks[scene])

# %%
first, *others = results.values()
assert first.boundary_iou > max(other.boundary_iou for other in others)
assert first.mean_iou > max(other.mean_iou for other in others)

# %% [markdown]
# With switches one sees a road with its lines, the water, a skyline; no car or boat yet. Without,
# all that a scene has to say must pass through the code. How much does? Compare each mask with the
# next scene's mask.

# %%
@torch.no_grad()
def like_the_next(network):
    """The share of pixels where the masks of two different scenes agree."""
    found = network.eval()(images).argmax(1)
    return (found == found.roll(1, 0)).float().mean().item()

alike = {mode: like_the_next(network) for mode, network in networks.items()}
alike["truth"] = (masks == masks.roll(1, 0)).float().mean().item()
assert min(alike["corner"], alike["bilinear"]) > alike["switches"] + 0.03
assert alike["truth"] < 0.5
{mode: f"{share:.0%}" for mode, share in alike.items()}

# %% [markdown]
# Two *truths* agree on less than half of their pixels. So little comes through: these two have
# mostly learned where things usually are, and say so of every scene, sky above, road below.
#
# One lucky run? In three (`network(mode, seed)` and `fit(..., seed=)`, 0 to 2) boundary IoU was
# 0.21 to 0.27 with switches, 0.11 to 0.17 with corners, 0.14 to 0.16 bilinear, and the switches won
# each time (`benchmarks/seeds.py`).
#
# > **Myth or measured?** *"The decoder draws the outlines."* These three have the same decoder,
# > down to the weights they began with. What counts first is what reaches it.

# %% [markdown]
# ## Stage by stage
#
# Where does the detail come in? Here is how strongly the maps respond behind each of the five
# stages (the mean over all channels, each panel on its own scale). Above, the network with
# switches; below, the one with bilinear unpooling. **Predict** at which size one can recognise the
# scene.

# %%
@torch.no_grad()
def stages_of(net, scene):
    maps = net.decode(*net.encode(images[scene][None]))[1:]      # behind each unpooling
    return [m[0].mean(0) for m in maps]

sizes = [4, 8, 16, 32, 64]
figure, axes = draw.panels(6, rows=2, size=1.9, titles=("", *(f"{n} × {n}" for n in sizes)))
for k, mode in enumerate(("switches", "bilinear")):
    draw.image(axes[6 * k], images[4], mode)
    for ax, m in zip(axes[6 * k + 1:], stages_of(networks[mode], 4), strict=False):
        draw.heat(ax, m, vmax=m.max())

# %% [markdown]
# With switches the road can be seen at 32 × 32, and its edges at 64 × 64. Without, there are only
# blobs. But which of the five sets of switches does the mask depend on most? Take the trained
# network, and let one stage at a time put its values into a *random* one of the four places.
# **Predict** which stage hurts most.

# %%
net = networks["switches"]

def told(*modes):
    """How the trained network scores when its unpoolings, coarse to fine, do this."""
    torch.manual_seed(0)                                         # for the shuffled ones
    net.unpooling = modes
    scores = evaluate(net, val, show=False)
    net.unpooling = "switches"
    return scores

def one_shuffled(at):
    return told(*("shuffled" if stage == at else "switches" for stage in range(5)))

# %%
shuffled = [one_shuffled(at) for at in range(5)]
for n, scores in zip(sizes, shuffled, strict=True):
    print(row(f"{n // 2} → {n}", scores))
print(row("none", results["switches"]))

# %%
boundary = [scores.boundary_iou for scores in shuffled]
assert boundary[4] < 0.9 * results["switches"].boundary_iou
assert boundary[0] > max(boundary[4], 0.85 * results["switches"].boundary_iou)

# %% [markdown]
# The first ones hardly matter. The last one hurts, here most of all: perhaps because only two
# convolutions come behind it. One training of one network is no law.

# %% [markdown]
# ## Whose picture is it?
#
# The network has two sources: the code at the bottom, and the switches. The usual story is that the
# code knows *what* is in the picture, and the switches *where*. We can ask. Decode the code of
# scene A with the switches of scene B.
#
# **Predict:** whose outlines will the mask have? And whose classes?

# %%
@torch.no_grad()
def decoded(code, switches):
    return net.score(net.decode(code, switches)[-1]).argmax(1)

with torch.no_grad():
    code, switches = net.encode(images)
mask_b = decoded(code, switches)                                 # each scene's own
mask_a = mask_b.roll(1, 0)                                       # that of the scene before
mixed = decoded(code.roll(1, 0), switches)                       # code of A, switches of B

# %%
titles = ("A", "mask of A", "B", "mask of B", "code of A,\nswitches of B")
figure, axes = draw.panels(5, rows=2, size=2.1, titles=titles)
for k, b in enumerate((4, 7)):
    draw.image(axes[5 * k], images[b - 1])
    draw.image(axes[5 * k + 2], images[b])
    for column, mask in ((1, mask_a), (3, mask_b), (4, mixed)):
        draw.labels(axes[5 * k + column], mask[b])

# %% [markdown]
# Look twice. And measure: how many outlines two masks have in common (IoU of the pixels where the
# label changes), and how much of the area they give to the same classes, wherever it is.

# %%
def outlines(mask):
    here = mask[:, :-1, :-1]
    return (here != mask[:, 1:, :-1]) | (here != mask[:, :-1, 1:])

def common_outlines(one, two):
    a, b = outlines(one), outlines(two)
    return ((a & b).sum() / (a | b).sum()).item()

def common_classes(one, two):
    a, b = (F.one_hot(mask, 10).float().mean((1, 2)) for mask in (one, two))
    return torch.minimum(a, b).sum(1).mean().item()

# %%
pairs = {"mixed and A (code)": (mixed, mask_a), "mixed and B (switches)": (mixed, mask_b),
         "A and B": (mask_a, mask_b)}
for name, (one, two) in pairs.items():
    print(f"{name:<24}outlines {common_outlines(one, two):.2f}    "
          f"classes {common_classes(one, two):.2f}")

# %%
assert common_outlines(mixed, mask_b) > 0.5 > common_outlines(mixed, mask_a)
assert common_classes(mixed, mask_b) > 0.93 > common_classes(mixed, mask_a)
same = (mixed == mask_b).float().mean().item()
assert same > 0.85
f"{same:.0%} of the pixels as if the code had been B's own"

# %% [markdown]
# Outlines *and* classes are B's. (An outline that is one pixel off counts as missed, and any two
# scenes share most of their classes: compare with the last row.) A's code leaves hardly a trace:
# the mask is no more like A than any two scenes are like each other. So give all scenes one and the
# same code, the mean of all. **Predict** the mean IoU.

# %%
blank = decoded(code.mean(0, keepdim=True).expand_as(code), switches)
without = metrics.mean_iou(metrics.confusion_matrix(blank, masks, 10))
own = results["switches"].mean_iou
assert without > 0.9 * own
f"mean IoU, each its own code: {own:.3f}; one code for all: {without:.3f}"

# %%
bits = sum(2 * s[0].numel() for s in switches)
bottom_of_ours = sum(map(size_of, (net.fc6, net.fc7, net.fc6_deconv))) / size_of(net)
assert bits > 30_000 and bottom_of_ours > 0.5
print(f"{bits:,} bits of switches, {code[0].numel()} numbers of code")
print(f"the layers at the bottom hold {bottom_of_ours:.0%} of this network's weights")

# %% [markdown]
# Next to no difference. This network reads the picture from its *switches*; what the layers at the
# bottom say, half of all its weights, could as well be a constant. (Half, and not 88 %: fc6 is 2 ×
# 2 here, not 7 × 7.) How can two bits say "water"? They cannot. But there are 15,616 switches.
# Which way the maxima lie, in 8 to 64 channels at once, is a picture too, and the decoder has
# learned to read it.
#
# > **Myth or measured?** *"The code says what, the switches say where."* In this network the
# > switches say both, as well as they can. But it is small, from scratch, and its batch
# > normalisation at the bottom sees six numbers a channel, one a picture. The paper's began with a
# > trained VGG16. How it is there, we have not measured. A story told of a network is no
# > measurement either.

# %% [markdown]
# ## See it yourself
#
# Below is the network that you have trained with switches. Each of its five unpoolings can be told
# where to put its values; no weight changes. **Predict**, then try:
#
# 1. Shuffle the last unpooling alone, 32 → 64. What do large surfaces look like, what outlines?
# 2. Put it back, and shuffle the first. Is there anything to see?
# 3. All five *corner*: which classes are left?
# 4. *bilinear* in the last one only. It looks so harmless. Is it?

# %%
from segviz.widgets import SwitchesExplorer

explorer = SwitchesExplorer(net, images[:12], masks[:12], scene=4)
explorer

# %% [markdown]
# What you should have seen, as numbers, over all scenes:

# %%
settings_tried = {"switches in all": ("switches",) * 5,
                  "first shuffled": ("shuffled",) + ("switches",) * 4,
                  "last shuffled": ("switches",) * 4 + ("shuffled",),
                  "last bilinear": ("switches",) * 4 + ("bilinear",),
                  "all corner": ("corner",) * 5}
seen = {name: told(*modes) for name, modes in settings_tried.items()}
for name, scores in seen.items():
    print(row(f"{name:<16}", scores))
left = explorer.run(4, ("corner",) * 5)[0].unique()
print("all corner, scene 4, has", *(names[c] for c in left))

# %%
tried = [scores.boundary_iou for scores in seen.values()]
assert tried[0] > tried[1] > max(tried[2:]) and tried[3] < 0.75 * tried[0] > 1.25 * tried[4]

# %% [markdown]
# Bilinear, so harmless to look at, does more harm than chance, here. This decoder has learned to
# find three zeros in each window, and has never seen a smooth map. (So the comparison above was a
# fair one only because each network was *trained* with its own unpooling.)

# %% [markdown]
# ## What it costs
#
# Switches are cheap. How cheap, against handing over the features themselves?
#
# **Exercise 3.** Count the bytes, for one map before its pooling.

# %%
def storage(channels, height, width):
    """Of a map (channels, height, width) that a 2x2 pooling is about to halve, the bytes
    of its switches (2 bits each) and of itself (float32): two numbers."""
    ...

# %%
exercises.storage.check(storage)

# %%
shapes = [s.shape[1:] for s in full.encode(torch.empty(1, 3, 224, 224, device="meta"))[1]]
stored = [exercises.storage.reference(c, 2 * h, 2 * w) for c, h, w in shapes]
places, features = (sum(column) / 1e6 for column in zip(*stored, strict=True))
assert features == 64 * places
f"five stages at the paper's size: switches {places:.1f} MB, features {features:.0f} MB"

# %% [markdown]
# (Torch keeps a switch as an index of 64 bits, 32 times what it needs. The saving is one of the
# idea, and of implementations that pack it.)
#
# Now the network as a whole beside FCN-8s. The counter of torch counts a multiplication and an
# addition as two; we halve it. **Predict** who needs more of what.

# %%
from torch.utils.flop_counter import FlopCounterMode

from segviz.models import FCN8s

def multiply_adds(network, size=224):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2

with torch.device("meta"):
    rivals = {"DeconvNet": full, "FCN-8s": FCN8s(21).eval(),
              "FCN-8s, padding 1": FCN8s(21, padding=1).eval()}
for name, rival in rivals.items():
    print(f"{name:<20}{size_of(rival) / 1e6:6.1f} M weights    "
          f"{multiply_adds(rival) / 1e9:5.1f} G multiply-adds at 224 × 224")

# %%
work = [multiply_adds(rival) for rival in rivals.values()]
assert work[2] < work[0] < work[1] and size_of(full) > 1.8 * size_of(rivals["FCN-8s"])

# %% [markdown]
# Nearly twice the weights. In work it lies between the two FCNs: the wide border of zeros of the
# original is dear at this size. And what does it buy here? FCN-8s with the same width, steps and
# batches:

# %%
torch.manual_seed(0)
fcn = FCN8s(num_classes=10, width=8, padding=1)
seconds["FCN-8s"] = fit(fcn, train, **settings, title="FCN-8s").seconds
results["FCN-8s"] = evaluate(fcn, val, classes=names)
marking = {name: r.class_iou[names.index("marking")].item() for name, r in results.items()}
for name in ("FCN-8s", "switches"):
    print(row(name, results[name]),
          f"   markings {marking[name]:.2f}   {seconds[name]:.0f} s of training")

# %%
assert results["FCN-8s"].mean_iou > results["switches"].mean_iou
assert results["FCN-8s"].boundary_iou > results["switches"].boundary_iou
assert marking["switches"] > marking["FCN-8s"] + 0.05

# %% [markdown]
# It buys the lane markings. Overall FCN-8s is ahead, after as many steps. But the paper has
# DeconvNet ahead!
#
# ## Their numbers, and ours
#
# On VOC 2012 test, in percent mean IoU (the rows with DeconvNet as reported by others, not read in
# the paper itself):
#
# | | mean IoU |
# |---|---|
# | FCN-8s, as first published | 62.2 |
# | FCN-8s, retrained by its authors | 67.2 |
# | DeconvNet | 69.6 |
# | DeconvNet, and a CRF | 70.5 |
# | DeconvNet and FCN-8s together | 71.7 |
# | both, and a CRF | 72.5 |
#
# Two things to know before one reads it. **72.5** is not DeconvNet's own score. It is two networks
# and a CRF (lesson 11). And DeconvNet does not look at the picture as FCN does, but at some 50
# *boxes* in which another program suspects objects. Each is cut out, made 224 × 224 and scored
# alone; then all scores are laid over each other in the picture.
#
# **Exercise 4.** Lay them: the maximum, pixel by pixel and class by class. As in the authors' code
# it begins at 0.

# %%
def pasted(scores, boxes, height, width):
    """scores: for each box its maps (C, y1 - y0, x1 - x0); boxes: (x0, y0, x1, y1) each,
    x across -> (C, height, width): for each class and pixel the largest score that any
    box has for it, but never less than 0."""
    ...

# %%
exercises.pasted.check(pasted)

# %% [markdown]
# What do boxes bring *by themselves*? Back to the first cell: a perfect network with 8 × 8 blocks.
# Let it also look at a box around each car, boat and pole, again with 8 × 8 blocks. No decoder, no
# switch. (The boxes are the true ones, 1.2 times as large, as reported of the paper's training.)
# **Predict** the IoU of poles: it was about 0.1.

# %%
def around(box, size=64, factor=1.2):
    """A box that is `factor` times as large, cut at the picture's border."""
    (x0, y0, x1, y1), grow = box, (factor - 1) / 2
    across, down = grow * (x1 - x0), grow * (y1 - y0)
    return (max(0, int(x0 - across)), max(0, int(y0 - down)),
            min(size, int(x1 + across) + 1), min(size, int(y1 + down) + 1))

def with_boxes(item):
    scene = toytown.scene(val.scene_index(item), size=64)
    small = [o.box for o in scene.objects if names[o.label] in ("car", "boat", "pole")]
    boxes = [(0, 0, 64, 64), *map(around, small)]
    scores = [through_grid(scene.mask[y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes]
    return exercises.pasted.reference(scores, boxes, 64, 64)

# %%
boxed = sum(metrics.confusion_matrix(with_boxes(item).argmax(0), mask, 10)
            for item, mask in enumerate(masks))
for at in map(names.index, ("pole", "car", "boat")):
    before, after = (metrics.class_iou(c)[at].item() for c in (known, boxed))
    print(f"{names[at]:<6}{before:.2f} -> {after:.2f}")
    assert after > before + 0.25
print(f"mean IoU {metrics.mean_iou(known):.3f} -> {metrics.mean_iou(boxed):.3f}")

# %% [markdown]
# A car is some 7 pixels wide here, so in its box there is a place for each pixel: almost the truth
# itself comes through. That much can boxes do alone. (The authors' are not true ones but another
# program's suggestions, and their code leaves out those with a side below 112 pixels.) In the
# paper's 69.6 there are boxes, batch normalisation, two rounds of training (some 2.7 million
# cut-outs in the second, as reported), ImageNet's weights, 224 × 224 pixels, *and* switches. Which
# of them won? The table cannot say. Our three networks differ in nothing else than the switches;
# but they speak of Toytown alone.
#
# ## SegNet: leave the bottom out
#
# **Predict:** what is left of 251.8 million weights without the three layers at the bottom?

# %%
left = size_of(full) - bottom
assert 29e6 < left < 30e6
f"{left:,}"

# %% [markdown]
# That is **SegNet** (Badrinarayanan, Kendall, Cipolla; 29.5 million by our count): thirteen
# convolutions down, thirteen up, switches between, no code. After what you have seen it is no
# surprise that this works. Its authors also measured, on street scenes with a small version (CamVid
# test; BF is a score of boundaries):
#
# | what reaches the decoder | stored | weights | mean IoU | BF |
# |---|---|---|---|---|
# | nothing, bilinear | 0 | 0.6 M | 43.3 | 20.8 |
# | nothing, larger decoder | 0 | 1.6 M | 45.9 | 30.5 |
# | switches | 1 | 1.4 M | 47.7 | 35.8 |
# | features, squeezed to 11 maps | 11 | 0.65 M | 47.3 | **38.1** |
# | features, all 64 maps | 64 | 1.6 M | **50.1** | 37.4 |
#
# (*Stored* as they count it: memory for the first map, in units of its switches.) Something always
# beats nothing. Switches or squeezed features is a question of taste here: the one has a little
# more mean IoU, the other better boundaries. Features kept whole have the highest mean IoU.

# %% [markdown]
# ## The failure to take along
#
# What do switches leave behind? Ask the trained network itself. Stop before its second pooling: 16
# maps of 32 × 32. Hand on either the *places* of the maxima alone, or their *values* alone (made
# large bilinearly), or all *features*. One convolution has to make a mask of it. **Predict** the
# order. How far is the best from the whole DeconvNet?

# %%
from torch.utils.data import TensorDataset

@torch.no_grad()
def handed_on(images, what):
    maps = net.stages[1][:-1](net.stages[0](images)[0])          # [:-1]: before pooling
    pooled, switches = F.max_pool2d(maps, 2, return_indices=True)
    return {"places": layers.unpool(torch.ones_like(pooled), switches),
            "values": layers.unpool(pooled, switches, "bilinear"), "features": maps}[what]

def probe(what):
    torch.manual_seed(0)
    one = nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 10, 5, padding=2),
                        nn.Upsample(scale_factor=2, mode="bilinear"))
    seen, new = (TensorDataset(handed_on(x, what), y)
                 for x, y in (train.tensors(), val.tensors()))
    fit(one, seen, steps=200, batch_size=8, lr=1e-2, title=what,
        class_weights=settings["class_weights"])
    return evaluate(one, new)

# %%
probes = {what: probe(what) for what in ("places", "values", "features")}
for what, scores in probes.items():
    print(row(what, scores))
print(row("DeconvNet", results["switches"]))

# %%
p, v, f = (scores.boundary_iou for scores in probes.values())
assert 1.5 * p < v and 1.5 * p < f and f > 0.85 * results["switches"].boundary_iou

# %% [markdown]
# Here, with one convolution to read them, places alone say little, and values nearly as much as all
# features. (A whole decoder has learned to read far more from places, as you have seen.) And one
# convolution on these features, trained for 200 steps, is no worse than the whole decoder after
# 400.
#
# So why does the decoder get addresses only, and never what stood there? Handing over everything
# costs 64 times the memory. Yet memory is what one can buy. **Lesson 8: U-Net.**
#
# ## What was shown
#
# - Pooling forgets three numbers of four, and which was the largest: two bits. Unpooling with these
#   switches puts values back to the pixel, has no weights, and leaves three places of four empty.
# - DeconvNet is VGG16 and its mirror image. Its thirteen deconvolutions are convolutions with
#   turned kernels; from 7 × 7 up, all enlarging is unpooling's. 88 % of its weights sit at the
#   bottom.
# - With the same weights to begin with, switches beat no switches, and the lane markings gain most.
# - In the network that we trained, the switches carry the classes too, and the code next to
#   nothing. To a single convolution values say more than places.
# - A published score is a whole recipe. Boxes alone can do much.

# %%
print("Scoreboard: Toytown at 64 x 64, 80 scenes, 400 steps of 6, width 8")
for name, r in results.items():
    name = name if name == "FCN-8s" else f"DeconvNet, {name}"
    print(f"{name:<20} pixel accuracy {r.pixel_accuracy:.3f}    mean IoU {r.mean_iou:.3f}"
          f"    boundary IoU {r.boundary_iou:.3f}")

# %% [markdown]
# **Sources.** Noh, Hong, Han: *Learning Deconvolution Network for Semantic Segmentation*, ICCV
# 2015, sections 3 (the network, unpooling), 5.1 (boxes) and 6 (results), and its published code
# (layers, the maximum from 0). Zeiler, Fergus: *Visualizing and Understanding Convolutional
# Networks*, ECCV 2014 (unpooling with switches). Badrinarayanan, Kendall, Cipolla: *SegNet: A Deep
# Convolutional Encoder-Decoder Architecture for Image Segmentation*, TPAMI 2017, table 1. Long,
# Shelhamer, Darrell: *Fully Convolutional Networks for Semantic Segmentation*, CVPR 2015, table 3,
# and its published code (the score of the retrained FCN-8s). Words: unpooling 언풀링, switch 스위치,
# deconvolution 디컨볼루션(역합성곱), encoder 인코더, decoder 디코더, region proposal 영역 제안.
