# %% [markdown]
# # 10 · Atrous convolution
#
# *60 minutes. You will make a trained network's map ten times as dense without touching a weight,
# find out what that costs and what it never looks at, and build the first DeepLab. Builds on
# lessons 3, 6 and 9.*

# %%
from segviz import course
course.banner("10")

# %% [markdown]
# Lesson 9 ended with a ResNet-50 that sees far with holes in its kernels, and with a bill: over
# four times the work. Its **output stride** is 8: from one place of its last map to the next it is
# 8 pixels. Ordinary ones have 32. **Predict:** which of its 16 blocks have holes in their 3 × 3
# convolutions, and of what rate?

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, layers, losses, metrics
from segviz.data import Toytown, toytown
from segviz.models import resnet, vgg
from segviz.training import evaluate, fit, predict

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another

# %%
def rates_of(output_stride):
    with torch.device("meta"):
        net = resnet.ResNet(output_stride=output_stride)
    return [[block.conv2.dilation[0] for block in stage]
            for stage in (net.layer1, net.layer2, net.layer3, net.layer4)]

assert rates_of(32) == [[1] * 3, [1] * 4, [1] * 6, [1] * 3]
assert rates_of(8) == [[1] * 3, [1] * 4, [1, *[2] * 5], [2, 4, 4]]
rates_of(8)

# %% [markdown]
# The third stage lost its stride, and got rate 2; the fourth lost its own too, and got 4. But the
# first block of each is a step behind. Why? Begin with one layer.
#
# ## Holes by hand
#
# Lesson 3 met the word: *à trous*, with holes. A convolution of **rate** $r$ reads every $r$-th
# neighbour:
#
# $$y[i] = \sum_k w[k] \, x[i + r\,k]$$
#
# **Predict** the three lines of numbers, and how long they are.

# %%
x, w = torch.tensor([1., 2, 4, 7, 11, 16, 22, 29]), torch.tensor([-1., 0, 1])

def with_rate(x, w, r):
    """y[i] = w[0] x[i] + w[1] x[i + r] + w[2] x[i + 2 r] ..., without padding."""
    length = len(x) - r * (len(w) - 1)
    return sum(w[k] * x[r * k:r * k + length] for k in range(len(w)))

for r in (1, 2, 3):
    y = with_rate(x, w, r)
    assert torch.equal(y, F.conv1d(x[None, None], w[None, None], dilation=r)[0, 0])
    print(f"rate {r}:", y.tolist())

# %% [markdown]
# The same weights ask the same question: how much more is there on the right than on the left? Over
# 2 places, over 4, over 6.
#
# From its first tap to its last a kernel of $k$ taps now covers $k + (k - 1)(r - 1)$ places: its
# own, and $r - 1$ in each of the $k - 1$ gaps. Keep an eye on the last three.

# %%
def covers(k, r):
    return k + (k - 1) * (r - 1)

for k, r in ((3, 1), (3, 2), (3, 4), (7, 4), (4, 8), (3, 12)):
    print(f"{k} taps, rate {r:2}: covers {covers(k, r):2}")
assert covers(7, 4) == covers(4, 8) == covers(3, 12) == 25

# %% [markdown]
# On a map it reads so along rows and along columns: nine places, whatever the rate.
#
# **Exercise 1.** So which *ordinary* convolution would do the same?

# %%
from segviz.exercises import lesson_10 as exercises

# %%
def with_holes(kernel, rate):
    """kernel (k, k) -> the kernel with which an ordinary convolution does the same as the
    given one at this rate."""
    ...

# %%
exercises.with_holes.check(with_holes)

# %%
torch.manual_seed(0)
maps, kernel = torch.randn(1, 1, 40, 40), torch.randn(3, 3)
figure, axes = draw.panels(3, size=2.2)
for ax, r in zip(axes, (1, 2, 4), strict=True):
    atrous = F.conv2d(maps, kernel[None, None], dilation=r)
    held = exercises.with_holes.reference(kernel, r)
    assert torch.allclose(F.conv2d(maps, held[None, None]), atrous, atol=1e-5)
    draw.heat(ax, F.pad(held, [4 - r] * 4) != 0, f"rate {r}: {len(held)} × {len(held)}")

# %% [markdown]
# > **Myth or measured?** *"Dilation makes the kernel larger."* It spreads it. Ordinary convolutions
# > of these sizes do the same, but the layer multiplies nine weights at any rate: the kernel with
# > holes is never built. (On that Yu and Koltun insist, who made the word **dilated** convolution
# > common.)
#
# ## A stride, traded for a rate
#
# Two layers on a line, the first with stride 2. Take the stride away: the second now reads
# neighbours that lie too close together. So give it rate 2. **Predict** how the new line compares
# with the old one.

# %%
line = torch.randn(1, 1, 17, dtype=torch.double)
first, second = torch.randn(2, 1, 1, 3, dtype=torch.double)

strided = F.conv1d(F.conv1d(line, first, stride=2, padding=1), second, padding=1)
traded = F.conv1d(F.conv1d(line, first, padding=1), second, padding=2, dilation=2)
assert torch.allclose(traded[..., ::2], strided) and traded.shape[-1] == 17
for y in (strided, traded):
    print(*(f"{value:5.2f}" for value in y[0, 0, :9]))

# %% [markdown]
# Every second number is the old line, digit for digit; the others lie between. Padding is as wide
# as the rate, and so the map keeps its size: it is strides that make maps smaller, never rates.
#
# **Exercise 2.** The recipe for a whole network (DeepLab v3, section 3.1). Remember the blocks that
# are a step behind: what about the layer that *loses* its stride?

# %%
def converted(strides, output_stride):
    """strides: those of a network's layers -> [(stride, rate)] for each layer. Strides are
    kept as long as the map's is at most output_stride; from there on they are traded, so
    that the same weights give the same numbers where the old map had places."""
    ...

# %%
exercises.converted.check(converted)

# %% [markdown]
# Now the real ones: VGG16's five stages, and ResNet-50, at an eighth of their width. **Predict:**
# what else than convolutions needs holes in VGG16?

# %%
def body(name, stride):
    torch.manual_seed(0)                                        # the same weights each time
    if name == "VGG16":
        return nn.Sequential(*vgg.stages(width=8, output_stride=stride)).eval()
    net = resnet.ResNet(width=8, output_stride=stride).eval()
    return lambda image: net(image)[-1]

def difference(fine, coarse, step):
    """Where the coarse map has places: by how much the fine one is off, at most."""
    return ((fine[..., ::step, ::step] - coarse).abs().max() / coarse.abs().max()).item()

# %%
image = torch.rand(1, 3, 101, 130)
for name in ("VGG16", "ResNet-50"):
    for stride in (16, 8):
        fine = body(name, stride)(image)
        off = difference(fine, body(name, 32)(image), 32 // stride)
        print(f"{name:<9} stride {stride:2}: {tuple(fine.shape[2:])}   off by {off:.0e}")
        assert off < 1e-5

# %% [markdown]
# Nothing but rounding, if that. In VGG16 the *poolings* need holes: once pool4 strides no more, the
# four values that pool5 compares lie two places apart. What if one forgets?

# %%
forgetful = body("VGG16", 8)
pool5 = forgetful[4][-1]
assert (pool5.stride, pool5.dilation) == (1, 2)
pool5.dilation = 1
forgetful[4][-2].padding = (0, 1, 0, 1)          # the layer that pads for pool5
off = difference(forgetful(image), body("VGG16", 32)(image), 4)
assert off > 0.1
f"pool5 without holes: off by {off:.2f} of the largest value"

# %% [markdown]
# > **Myth or measured?** *"DeepLab only makes VGG16's map denser."* Its first version has 3 × 3
# > poolings throughout; pool4 and pool5 stay, at stride 1, pool5 **without** holes, and a 3 × 3
# > average follows. So the numbers are new ones, and training must do the rest.
#
# ## One trained network, three maps
#
# Train VGG16's stages (with batch normalisation) at stride 32, and a score for each place. Our
# poolings are 3 × 3, which keep place *i* upon pixel 32 *i*; so images are filled up to 32 *k* + 1
# pixels, and maps are enlarged with corners aligned, as in lesson 9.

# %%
class Scorer(nn.Module):
    def __init__(self, output_stride, width=8, classes=10):
        super().__init__()
        options = {"norm": True, "output_stride": output_stride, "pool_size": 3}
        self.stages = nn.Sequential(*vgg.stages(3, width, **options))
        self.score = nn.Conv2d(8 * width, classes, 1)
        self.output_stride = output_stride

    def forward(self, images):
        scores = self.score(self.stages(layers.filled(images, 32)))
        return layers.upsampled(scores, images.shape, self.output_stride)

# %%
names = toytown.CLASSES
train, val = Toytown("train", size=96, length=300), Toytown("val", size=96, length=60)
images, masks = val.tensors()
counts = torch.stack([torch.bincount(m[m < 10], minlength=10) for m in train.tensors()[1]])
settings = {"steps": 200, "batch_size": 6, "lr": 3e-3,
            "class_weights": losses.class_weights(counts).sqrt()}

# %%
torch.manual_seed(0)
trained = Scorer(32)
fit(trained, train, **settings, title="VGG16 at stride 32")

# %% [markdown]
# Its map has 4 × 4 places for a scene of 96 × 96. **Predict:** the same weights at stride 16 and 8,
# not trained again: what will the masks look like? Better, worse, the same?

# %%
def run_at(output_stride):
    other = Scorer(output_stride)
    other.load_state_dict(trained.state_dict())
    return other.eval()

denser = {stride: run_at(stride) for stride in (32, 16, 8)}

# %%
figure, axes = draw.panels(5, size=2.1, rows=2,
                           titles=("scene", *(f"stride {s}" for s in denser), "truth"))
for k, scene in enumerate((1, 4)):
    draw.image(axes[5 * k], images[scene])
    for ax, net in zip(axes[5 * k + 1:], denser.values(), strict=False):
        draw.labels(ax, predict(net, images[scene]))
    draw.labels(axes[5 * k + 4], masks[scene])

# %%
def row(name, scores):
    return (f"{name:<24} mean IoU {scores.mean_iou:.3f}    "
            f"boundary IoU {scores.boundary_iou:.3f}")

same_weights = {stride: evaluate(net, val, classes=names) for stride, net in denser.items()}
for stride, scores in same_weights.items():
    print(row(f"trained at 32, run at {stride}", scores))
one, *others = (scores.mean_iou for scores in same_weights.values())
assert max(abs(other - one) for other in others) < 0.05

# %% [markdown]
# About the same. Ten times as many answers, and no better ones: what lies between two places is now
# *computed*, not drawn as a straight line, but the network was never asked to be right there. A
# denser map is an offer, and training has to take it up. Same weights to begin with, same batches:

# %%
torch.manual_seed(0)
fine_from_the_start = Scorer(8)
fit(fine_from_the_start, train, **settings, title="VGG16 at stride 8")

# %%
at_8 = evaluate(fine_from_the_start, val, classes=names)
print(row("trained at 8, run at 8", at_8))
assert at_8.mean_iou > max(scores.mean_iou for scores in same_weights.values())

# %% [markdown]
# In three runs (`benchmarks/seeds.py`) mean IoU was 0.35 to 0.36, 0.34 to 0.35 and 0.38 to 0.40.
# And the trade goes both ways: the one trained at 8, run at 32, had 0.33 to 0.34.
#
# ## What it costs
#
# **Predict:** how do parameters and multiply-adds of ResNet-101 grow from stride 32 to 16 to 8?
# Each step makes a map four times as large. Does the work grow by 4 each time?

# %%
from torch.utils.flop_counter import FlopCounterMode

def multiply_adds(compute):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute()
    return counter.get_total_flops() // 2

def price(stride, size=513):
    with torch.device("meta"):
        net = resnet.ResNet((3, 4, 23, 3), output_stride=stride).eval()
        work = multiply_adds(lambda: net(torch.empty(1, 3, size, size)))
    return sum(p.numel() for p in net.parameters()), work / 1e9

prices = {stride: price(stride) for stride in (32, 16, 8)}
for stride, (weights, work) in prices.items():
    print(f"stride {stride:2}: {weights:,} weights   {work:5.0f} G multiply-adds")

(weights, a), (more, b), (most, c) = prices.values()
assert weights == more == most and b / a < 1.5 and 3 < c / b < 3.5

# %% [markdown]
# Of the 33 blocks of ResNet-101 the last three get four times the places for stride 16; for stride
# 8 these three again, and 23 more. So the second step costs nearly all. (The v3+ paper's table 3,
# whole networks: 52, 81 and 276 G.) DeepLab v3 trains at stride 16, and runs on its validation
# images at 8.
#
# > **Myth or measured?** *"A larger field for free."* Free of *weights*. What it costs is places:
# > all that comes behind the traded stride is computed at each of them, and kept for the gradient.

# ## How far it sees
#
# Yu and Koltun: *"dilated convolutions support exponential expansion of the receptive field without
# loss of resolution or coverage"*. **Predict** the field of six 3-tap layers, if all have rate 4;
# if rates double, 1, 2, 4...; if they triple.

# %%
def field(rates):
    return 1 + 2 * sum(rates)

plans = {"rate 4": lambda n: [4] * n, "doubling": lambda n: [2**i for i in range(n)],
         "tripling": lambda n: [3**i for i in range(n)]}
for name, plan in plans.items():
    print(f"{name:<9}", *(f"{field(plan(n)):4}" for n in range(1, 7)))
assert [field(plan(6)) for plan in plans.values()] == [49, 127, 729]

# %% [markdown]
# > **Myth or measured?** *"Holes make the field grow exponentially."* Exponential *rates* do, such
# > as theirs, which double. The field adds up $2r$ a layer: with one rate it is a straight line.
#
# And coverage? Lesson 3 said: a rate up to the size of the field below makes no holes.
#
# **Exercise 3.** Then which stack is the widest of all?

# %%
def widest(taps, layers):
    """Rates for so many layers, each with `taps` taps, one behind the other: a list in
    which no pixel of the field is left out, and whose field is as wide as it can be."""
    ...

# %%
exercises.widest.check(widest)

# %% [markdown]
# **Predict** how often each pixel is read with rates 1, 2, 4 and with 1, 3, 9; then count the ways,
# as in lesson 3.

# %%
def ways(rates):
    line = torch.ones(1, 1, 1)
    for r in rates:
        line = F.conv1d(line, torch.ones(1, 1, 3), padding=2 * r, dilation=r)
    return line.flatten().int().tolist()

for rates in ((1, 2, 4), (1, 3, 9)):
    print(rates, *ways(rates))
assert set(ways((1, 3, 9))) == {1} and max(ways((1, 2, 4))) > 2

# %% [markdown]
# The widest stack hears of each pixel by one way only; doubling hears of most by several.
#
# ## What it never reads
#
# Rates 2, 2, 2 leave nearly half of a line unread, as you saw in lesson 3, and most of a square:
# **gridding**. What does that mean for the *whole* answer? Take a network of five layers, all of
# rate four. Run it; and run the same weights at rate 1 on every fourth pixel of the picture, from
# each of the 4 × 4 beginnings. **Predict:** how do the two compare?

# %%
def stack(rates, classes=10, seed=0, width=16):
    torch.manual_seed(seed)                       # the same weights, whatever the rates
    found = []
    for channels, r in zip((3,) + (len(rates) - 1) * (width,), rates, strict=True):
        conv = nn.Conv2d(channels, width, 3, padding=r, dilation=r)
        nn.init.kaiming_normal_(conv.weight)
        found += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*found, nn.Conv2d(width, classes, 1))

# %%
gridded, plain = stack([4] * 5).eval(), stack([1] * 5).eval()
picture = images[:1]
with torch.no_grad():
    whole = gridded(picture)
    for down in range(4):
        for right in range(4):
            part = plain(picture[..., down::4, right::4])
            assert torch.allclose(whole[..., down::4, right::4], part, atol=1e-4)
tuple(whole.shape[2:]), "is 16 maps of", tuple(part.shape[2:])

# %% [markdown]
# The same numbers. A network of rate 4 throughout *is* an ordinary one, run on sixteen thumbnails
# and woven together. Neighbouring answers never share one pixel. Can one see that in a trained
# network? Beside it, one of the same field (41), the same weights, and rates that leave no holes.
# **Predict** how the two masks differ.

# %%
small, small_val = Toytown("train", size=64, length=400), Toytown("val", size=64, length=80)
small_images, small_masks = small_val.tensors()
grid_settings = {"steps": 120, "batch_size": 8, "lr": 1e-2}

# %%
grids = {"4, 4, 4, 4, 4": stack((4, 4, 4, 4, 4)), "1, 2, 4, 6, 7": stack((1, 2, 4, 6, 7))}
for name, net in grids.items():
    fit(net, small, **grid_settings, title=f"rates {name}")

# %%
figure, axes = draw.panels(4, size=2.6, titles=("scene", *grids, "truth"))
draw.image(axes[0], small_images[46])
for ax, net in zip(axes[1:], grids.values(), strict=False):
    draw.labels(ax, predict(net, small_images[46]))
draw.labels(axes[3], small_masks[46]);

# %% [markdown]
# The gridded one is grainy. A number for it: **lonely** pixels, which have another label than all
# four neighbours.

# %%
def lonely(labels):
    """Which pixels differ from the ones above, below, left and right of them: (B, H, W)."""
    around = F.pad(labels[:, None].float(), [1] * 4, mode="replicate")[:, 0]
    views = (around[:, :-2, 1:-1], around[:, 2:, 1:-1],
             around[:, 1:-1, :-2], around[:, 1:-1, 2:])
    return torch.stack([labels != view for view in views]).all(0)

# %%
grain, small_scores = {}, {}
for name, net in grids.items():
    with torch.no_grad():
        labels = net.eval()(small_images).argmax(1)
    small_scores[name] = evaluate(net, small_val, classes=names)
    grain[name] = lonely(labels).float().mean().item()
    print(f"{row(name, small_scores[name])}    lonely {grain[name]:.2%}")

(gap, no_gap), (one, other) = grain.values(), (s.mean_iou for s in small_scores.values())
assert gap > 2 * no_gap and abs(one - other) < 0.06

# %% [markdown]
# Four times the grain, and the *same* mean IoU. In three runs lonely pixels were 1.0 to 1.2 % with
# rate 4 and 0.2 to 0.3 % without holes; mean IoU went either way. Gridding can be seen, and proved,
# and on these scenes costs nothing: sixteen thumbnails of one scene mostly agree. (Keep that in
# mind until the meadow, below.)
#
# Which rates are safe? Wang and others (2018) have two rules. One: no common factor. The other
# walks from the last rate back to the second and keeps the largest gap between two places that are
# read, $M \leftarrow \max(M - 2r,\; 2r - M,\; r)$; it begins with $M$ the last rate, and ends well
# if $M$ is no more than the kernel, 3. **Predict:** for which of these rates do both rules tell the
# truth?

# %%
from itertools import product
from math import gcd

def gap_behind_second(rates):
    gap = rates[-1]
    for r in reversed(rates[1:-1]):
        gap = max(gap - 2 * r, 2 * r - gap, r)
    return gap

def hole_free(rates):
    return 0 not in ways(rates)

tried = ((1, 2, 5), (1, 3, 9), (1, 2, 9), (2, 2, 2), (2, 3, 5), (1, 2, 5, 1, 2, 5))
says = {rates: (gap_behind_second(rates) <= 3, gcd(*rates) == 1, hole_free(rates))
        for rates in tried}
for rates, answers in says.items():
    marks = ("yes" if answer else "no" for answer in answers)
    print("{:<20} gap rule {:<4} no common factor {:<4} no holes {}".format(str(rates), *marks))

# %%
assert says[2, 2, 2] == (True, False, False) and says[2, 3, 5] == (True, True, False)
assert says[1, 2, 9] == (False, True, False) and says[1, 3, 9] == (True, True, True)
assert says[1, 2, 5, 1, 2, 5] == (False, True, True)
begin_with_1 = [(1, *rest) for n in (1, 2, 3) for rest in product(range(1, 14), repeat=n)]
passed = [rates for rates in begin_with_1 if gap_behind_second(rates) <= 3]
assert all(hole_free(rates) for rates in passed)
f"of {len(begin_with_1)} stacks that begin with rate 1, {len(passed)} pass: none has a hole"

# %% [markdown]
# > **Myth or measured?** *"If the gap rule holds (or: without a common factor), nothing is left
# > out."* Rates 2, 2, 2 pass the gap rule, 2, 3, 5 pass both, and both leave holes. If the *first*
# > rate is 1, what passes is safe; but 1, 2, 5, 1, 2, 5 fails, and is safe too. To be sure, count
# > the ways: it is three lines.
#
# ## At the border
#
# Here are the places of a 12 × 12 map (a scene of 96 × 96 at stride 8), and how many of the nine
# weights read the *map*; the others read padding. At rate 1 nine do, but for the outermost rows and
# columns. **Predict** the pictures for rates 4, 6 and 12.

# %%
def weights_in_the_map(size, rate):
    ones = torch.ones(1, 1, size, size)
    return F.conv2d(ones, torch.ones(1, 1, 3, 3), padding=rate, dilation=rate)[0, 0]

figure, axes = draw.panels(4, size=2.2)
for ax, rate in zip(axes, (1, 4, 6, 12), strict=True):
    count = weights_in_the_map(12, rate)
    draw.heat(ax, count, f"rate {rate}: {count.min():.0f} to {count.max():.0f}", vmax=9)
assert weights_in_the_map(12, 6).unique().tolist() == [4]

# %% [markdown]
# **Exercise 4.** In the mean over all places?

# %%
def at_work(size, rate):
    """A 3 x 3 convolution of this rate, padded by as much, on a map of size x size: how
    many of its nine weights read the map and not its padding, in the mean over places."""
    ...

# %%
exercises.at_work.check(at_work)

# %% [markdown]
# The authors of DeepLab v3 asked the same of a map of 65 × 65 (section 3.3; a picture of 513 × 513
# at stride 8), where they take rates 12, 24 and 36. There 6.9, 5.1 and 3.6 weights read the map. On
# ours rates from 12 up leave one: a 1 × 1 convolution, at the price of a 3 × 3. **Predict:** do the
# eight others learn? And what if a network trained so is then shown a larger picture?

# %%
found = [exercises.at_work.reference(65, rate) for rate in (12, 24, 36)]
assert [round(count, 1) for count in found] == [6.9, 5.1, 3.6]
assert exercises.at_work.reference(12, 12) == 1

torch.manual_seed(0)
branch = nn.Conv2d(4, 4, 3, padding=12, dilation=12)
small_map, large_map = torch.randn(1, 4, 12, 12), torch.randn(1, 4, 24, 24)
middle = F.conv2d(small_map, branch.weight[:, :, 1:2, 1:2], branch.bias)
assert torch.allclose(branch(small_map), middle, atol=1e-6)
branch(small_map).square().sum().backward()
learned = branch.weight.grad.abs().sum((0, 1)) > 0
assert learned.sum() == 1 and learned[1, 1]
others = (branch(large_map) - F.conv2d(large_map, branch.weight[:, :, 1:2, 1:2], branch.bias))
f"on a larger map the eight others add up to {others.abs().max():.1f}, all of it chance"

# %% [markdown]
# They get no gradient. On a larger map they speak for the first time, and say what they were filled
# with at random. Rates belong to a *size of map*: halve the output stride, double the rates (6, 12,
# 18 at stride 16 are 12, 24, 36 at 8). Who does not falls about a point below stride 16, in one
# report to DeepLab's authors.
#
# ## Holes to play with
#
# Below, up to four 3 × 3 layers, seen from the side and from above. **Predict**, then try:
#
# 1. Rates 2, 2, 2: add the last layer of rate 1. Are there still holes? Take it away, and make the
#    *first* rate 1 instead.
# 2. Rates 1, 2 and then the largest that leaves no holes.
# 3. One layer of rate 9, at a corner: how many of its weights read the map?
# 4. Choose "output stride 8" among the layers, then 4, 2, 1. What grows, what stays?

# %%
from segviz.widgets import AtrousExplorer

explorer = AtrousExplorer(rates=(2, 2, 2), size=33)
explorer

# %% [markdown]
# 1: rate 1 bridges the gaps of 2, at either end. (Along a line the order does not matter: ways are
# sums.) 2: 7. 3: four. 4: cost grows; parameters and field stay, and so does each place that was
# there before. The first three as numbers:

# %%
assert hole_free((2, 2, 2, 1)) and hole_free((1, 2, 2)) and not hole_free((2, 2, 2))
assert hole_free((1, 2, 7)) and not hole_free((1, 2, 8)) and weights_in_the_map(33, 9)[0, 0] == 4

# %% [markdown]
# ## Trained at one rate, run at another
#
# A rate is no weight: one can turn it on a network that is trained. Take the one with rates 1, 2,
# 4, 6, 7. **Predict:** how well does it do with 8 as its last rate? With 1 throughout? At twice its
# own? And at twice its own, on a picture made twice as large?

# %%
from copy import deepcopy

def at_rates(net, rates):
    """A copy of a stack, with its weights, at other rates."""
    other = deepcopy(net).eval()
    convs = [layer for layer in other if isinstance(layer, nn.Conv2d)]      # the last is 1 × 1
    for conv, r in zip(convs, (*rates, 1), strict=True):
        conv.dilation, conv.padding = (r, r), (r * (conv.kernel_size[0] // 2),) * 2
    return other

# %%
own = (1, 2, 4, 6, 7)
seen_at = {rates: evaluate(at_rates(grids["1, 2, 4, 6, 7"], rates), small_val, classes=names)
           for rates in (own, (1, 2, 4, 6, 8), (1, 1, 1, 1, 1), (2, 4, 8, 12, 14))}
for rates, scores in seen_at.items():
    print(row(f"run at {rates}", scores))

# %%
usual, close, ones, twice = (scores.mean_iou for scores in seen_at.values())
assert max(ones, twice) < usual - 0.03 and abs(close - usual) < 0.05
large = small_images[:4].repeat_interleave(2, -1).repeat_interleave(2, -2)
with torch.no_grad():
    doubled = at_rates(grids["1, 2, 4, 6, 7"], [2 * r for r in own])(large)
    as_trained = grids["1, 2, 4, 6, 7"](small_images[:4])
assert torch.allclose(doubled[..., ::2, ::2], as_trained, atol=1e-3)

# %% [markdown]
# It runs at any rate, but its weights were learned for their distances: one step off costs little,
# rate 1 throughout, or twice its own, costs much. A picture twice as large wants twice the rates,
# and gets the same numbers, as in the trade of strides: a rate is a *scale*.
#
# Turn each layer's rate yourself. **Predict:** doubled, which layer's rate changes the mask most,
# the first or the last?

# %%
from segviz.widgets import AtrousRatesExplorer

AtrousRatesExplorer(grids["1, 2, 4, 6, 7"], small_images[:12], small_masks[:12],
                    layers=("0", "3", "6", "9", "12"), scene=3)

# %%
@torch.no_grad()
def labels_at(rates):
    return at_rates(grids["1, 2, 4, 6, 7"], rates)(small_images[:40]).argmax(1)

as_it_is, shares = labels_at(own), {}
for name, change in (("doubled", lambda r: 2 * r), ("at 16", lambda r: 16)):
    changed = (labels_at([change(r) if k == layer else r for k, r in enumerate(own)])
               for layer in range(5))
    shares[name] = [torch.ne(as_it_is, each).float().mean().item() for each in changed]
    print(f"{name:<8}", *(f"{share:4.0%}" for share in shares[name]))
assert shares["doubled"][4] > 1.2 * shares["doubled"][0]
assert shares["at 16"][0] == max(shares["at 16"])

# %% [markdown]
# Doubled, the last ones. At rate 16 the first, by far: but that is 16 times its own, and little
# more than twice the last one's. Ask what an equal change is, before you compare.
#
# ## The same weights, more of the world
#
# Does it help? Back to the meadow of lessons 3 and 9: one sprite, a car beside a petrol pump and a
# boat beside a buoy. The beacon now stands 1 to 20 pixels away, and the sprite's far end up to 35.
# Three networks of five layers with *as many weights*: ordinary, with one large rate, and doubling.
# **Predict** which share of pixels more than 5 pixels from the beacon each gets right.

# %%
from torch.utils.data import TensorDataset

RATES = {"plain": (1, 1, 1, 1, 1), "rate 6": (6, 6, 6, 6, 6), "doubling": (1, 2, 4, 8, 16)}
CAR, BOAT, BEACON = (toytown.CLASSES.index(name) for name in ("car", "boat", "pole"))

def example(index, label, size=64):
    """Image, targets (H, W) and each pixel's distance from the beacon."""
    pair = toytown.pair(index, size, distance=1 + index % 20, label=label)
    target = torch.full_like(pair.mask, 255)
    for kind, of_class in enumerate((CAR, BOAT)):
        target[pair.mask == of_class] = kind
    target[pair.mask == BEACON] = 2 if label == "car" else 3
    x0, y0, x1, y1 = next(thing for thing in pair.objects if thing.name == "pole").box
    line = torch.arange(size)
    across, down = (torch.maximum(a - line, line - b + 1) for a, b in ((x0, x1), (y0, y1)))
    return pair.image, target, torch.maximum(down[:, None], across[None])

# %%
def stacked(made):
    return [torch.stack(parts) for parts in zip(*made, strict=True)]

*pictures, _ = stacked(example(i, ("car", "boat")[i // 20 % 2]) for i in range(500))
pairs, pair_settings = TensorDataset(*pictures), {"steps": 80, "batch_size": 12, "lr": 1e-2}
twins = stacked(example(i, label) for i in range(10_000, 10_060) for label in ("car", "boat"))

# %%
contestants = {name: stack(rates, classes=4) for name, rates in RATES.items()}
assert len({sum(p.numel() for p in net.parameters()) for net in contestants.values()}) == 1
for name, net in contestants.items():
    fit(net, pairs, **pair_settings, title=name)

# %%
BANDS = ((0, 5), (5, 30))

@torch.no_grad()
def rightness(network):
    """For each band of distances from the beacon, low < d <= high, the share right of the
    sprites' pixels in it."""
    pictures, targets, away = twins
    right = network.eval()(pictures)[:, :2].argmax(1) == targets
    bands = ((targets < 2) & (away > low) & (away <= high) for low, high in BANDS)
    return [right[band].float().mean().item() for band in bands]

# %%
far_scores = {}
for name, net in contestants.items():
    near, far_scores[name] = rightness(net)
    print(f"{name:<9} field {field(RATES[name]):2}   "
          f"to 5 pixels {near:.3f}   farther {far_scores[name]:.3f}")
assert far_scores["plain"] == 0.5 and far_scores["doubling"] > 0.95
assert 0.7 < far_scores["rate 6"] < far_scores["doubling"]

# %% [markdown]
# With the same weights: a coin, and nearly always. To see 31 pixels to each side plain layers would
# need to be 31. (Within 5 pixels the plain network could know. But it can tell so few pixels at all
# that it has not learned to.)
#
# Rate 6 sees as far, and errs once in five. But a beacon is 5 pixels wide, and so are its holes.
# **Predict:** how many of its 36 thumbnails have no pixel of the beacon, and what does it say
# there?

# %%
pictures, targets, away = twins
columns = (pictures[::2] != pictures[1::2]).any(1).any(1).nonzero()   # where twins differ
thumbnails = torch.zeros(len(pictures) // 2, 6, dtype=torch.bool)
thumbnails[columns[:, 0], columns[:, 1] % 6] = True                   # with the beacon
blind = ~thumbnails[:, torch.arange(64) % 6].repeat_interleave(2, 0)[:, None]
with torch.no_grad():
    right = contestants["rate 6"].eval()(pictures)[:, :2].argmax(1) == targets
asked = (targets < 2) & (away > 5) & (away <= 30)
assert right[asked & blind].float().mean() == 0.5 and (thumbnails.sum(1) == 5).all()
for name, where in (("has not", asked & blind), ("has", asked & ~blind)):
    print(f"the thumbnail {name} the beacon: {where.sum() / asked.sum():.0%} of the pixels, "
          f"right {right[where].float().mean():.3f}")

# %% [markdown]
# Six of 36: those of every sixth column. To them the twins are the same picture, so they say a
# coin. Half of 16 % makes eight of the nineteen points that rate 6 lacks. (The others: perhaps
# because a thumbnail has but a few pixels of each thing.) In three runs the plain network had 0.500
# each time, rate 6 0.81 to 0.85, doubling 1.00 (`benchmarks/seeds.py`).
#
# ## DeepLab
#
# Now the network that made all this known: **DeepLab** (Chen, Papandreou, Kokkinos, Murphy, Yuille
# 2015), in the form *LargeFOV*, for "large field of view". VGG16 at stride 8: pool4 and pool5
# stride no more, the fifth stage has rate 2. And then fc6, which in FCN was 7 × 7 and held three
# quarters of all weights. **Predict** what could be done about it. (Those last three lines of the
# table far above.)

# %%
from segviz.models import DeepLabV1, FCN32s

with torch.device("meta"):
    large_fov = DeepLabV1(21)

# %%
def size_of(module):
    return sum(p.numel() for p in module.parameters())

for k, r, width in ((7, 4, 4096), (4, 8, 4096), (3, 12, 1024)):
    n = 512 * width * k * k + width
    print(f"fc6 {k} × {k}, rate {r:2}: covers {covers(k, r)} places   {n:>11,} weights")
assert size_of(large_fov) == 20_505_429 and size_of(large_fov.fc6) == n == 4_719_616

# %% [markdown]
# Three kernels that cover the same 25 × 25 places, 200 pixels. The first is fc6 itself, with holes.
# The last has a 3 × 3 and a quarter of the channels: of 134 million weights 20.5 are left. What did
# that cost? (Table 1 of DeepLab v2: mean IoU on VOC's validation images, before and after the CRF
# of lesson 11, and images a second in training.)
#
# | fc6 | rate | weights | before | after | images/s |
# |---|---|---|---|---|---|
# | 7 × 7 | 4 | 134.3 M | 64.38 | 67.64 | 1.44 |
# | 4 × 4 | 8 | 65.1 M | 63.41 | 67.14 | 2.90 |
# | 4 × 4 | 4 | 65.1 M | 59.80 | 63.74 | 2.90 |
# | 3 × 3 | 12 | 20.5 M | 62.25 | 67.64 | 4.84 |
#
# > **Myth or measured?** *"LargeFOV is as good with a sixth of the weights."* After the CRF, to the
# > digit. Before it, two points worse. And the third row, whose fc6 covers 13 places, is the one
# > that really loses.
#
# Train it, small: an eighth of the channels, beside FCN-32s of the same width, with the same steps
# and batches. The authors of both begin with ImageNet's weights; ours begin with nothing, and get
# batch normalisation instead. On a map of 13 × 13 rate 12 would leave 1.3 weights of 9; we take 3.
# **Predict:** mean IoU, boundary IoU, and whose work is greater?

# %%
def deeplab_or_fcn(model, seed=0, **options):
    torch.manual_seed(seed)
    net = model(10, width=8, **options)
    for part in [part for part in net.modules() if isinstance(part, nn.Sequential)]:
        for k, layer in enumerate(part):
            if isinstance(layer, nn.ReLU):
                part[k] = nn.Sequential(nn.BatchNorm2d(part[k - 1].out_channels), layer)
    return net

lab_settings = settings | {"steps": 120}

# %%
labs = {"FCN-32s": deeplab_or_fcn(FCN32s, padding=1),
        "DeepLab v1": deeplab_or_fcn(DeepLabV1, rate=3)}
for name, net in labs.items():
    fit(net, train, **lab_settings, title=name)

# %%
results = {name: evaluate(net, val, classes=names) for name, net in labs.items()}
work = {name: multiply_adds(lambda net=net: net.eval()(images[:1])) for name, net in labs.items()}
for name, scores in results.items():
    print(f"{row(name, scores)}   {size_of(labs[name]):>9,} weights   "
          f"{work[name] / 1e6:.0f} M multiply-adds")

fcn, lab = results.values()
assert lab.mean_iou > fcn.mean_iou and lab.boundary_iou > fcn.boundary_iou
assert 6 * size_of(labs["DeepLab v1"]) < size_of(labs["FCN-32s"])
assert 1.1 < work["DeepLab v1"] / work["FCN-32s"] < 1.3

# %% [markdown]
# Better, with an eighth of the weights, and for a fifth more work a scene: what the dense stages
# add, the small fc6 mostly saves. In three runs mean IoU was 0.27 to 0.29 for FCN-32s and 0.31 to
# 0.33 for DeepLab; with a rate as large as the map, 13, it was 0.32 to 0.35
# (`benchmarks/seeds.py`). So on these small scenes it is not fc6's large field that helps. (120
# steps are few for so many layers: compare the two with each other, not with the networks above.)

# %%
figure, axes = draw.panels(4, rows=2, size=2.4, titles=("scene", *labs, "truth"))
for k, scene in enumerate((1, 4)):
    draw.image(axes[4 * k], images[scene])
    for ax, net in zip(axes[4 * k + 1:], labs.values(), strict=False):
        draw.labels(ax, predict(net, images[scene]))
    draw.labels(axes[4 * k + 3], masks[scene])

# %% [markdown]
# ## The failure to take along
#
# Look at the outlines. A score every 8 pixels, and straight lines between: soft blobs. To the
# authors that was an argument: scores so smooth can be *enlarged* without learning how. But smooth
# they are. **Predict** how the best network of this lesson scores within ever narrower bands along
# outlines.

# %%
with torch.no_grad():
    labels = torch.cat([fine_from_the_start.eval()(x).argmax(1) for x in images.split(20)])
bands = {}
for width in (1, 2, 4, 8):
    bands[width] = metrics.boundary_iou(labels, masks, 10, width=width).nanmean().item()
    print(f"within {width} pixels of the outline: {bands[width]:.3f}")
print(f"everywhere: {at_8.mean_iou:.3f}")
assert bands[1] < bands[2] < bands[4] < bands[8] and bands[1] < 0.6 * at_8.mean_iou

# %% [markdown]
# Where an outline runs, to the pixel, nobody here knows: 8 pixels are the map's grid. And yet the
# picture shows it: the sky ends where the roof begins, and everybody can see the line. The network
# has looked at that picture, once, at the beginning. What if one asked the *pixels*, afterwards:
# you two look the same and stand side by side, why have you different labels? **Lesson 11: the
# dense CRF**, the other half of DeepLab.
#
# ## What was shown
#
# - A rate spreads a kernel over k + (k − 1)(r − 1) places, at the same weights and work a place.
# - Take a stride away, multiply the rates behind it: the same weights give the same numbers where
#   the old map had places. Weights cost nothing more, places do; and the network must be trained
#   there.
# - The field grows as the rates do; tripling is the fastest without holes. Of two well-known rules
#   about holes neither is enough.
# - A network of one rate is many networks on thumbnails. It shows as grain, hardly in mean IoU, and
#   where a thing fits into a hole, as a coin.
# - A rate as large as the map is a 1 × 1 convolution.
# - With equal weights, doubling rates answer what plain layers cannot. DeepLab v1 beats FCN-32s
#   with an eighth of its weights.

# %%
print("Scoreboard: car or boat, more than 5 pixels from the evidence, five 3 × 3 layers")
for name, score in far_scores.items():
    print(f"{name:<10} {score:.3f}")
print("Scoreboard: Toytown at 96 × 96, 60 scenes, width 8")
results = {"VGG16 at stride 32": same_weights[32], "VGG16 at stride 8": at_8, **results}
for name, scores in results.items():
    print(row(name, scores))

# %% [markdown]
# **Sources.** Chen, Papandreou, Kokkinos, Murphy, Yuille: *Semantic Image Segmentation with Deep
# Convolutional Nets and Fully Connected CRFs*, ICLR 2015, sections 3.1 (holes, bilinear enlarging),
# 3.2 (fc6); the published Caffe model (poolings, rates). The same: *DeepLab: Semantic Image
# Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs*, PAMI
# 2018, section 3.1 (what a kernel covers), table 1. Chen, Papandreou, Schroff, Adam: *Rethinking
# Atrous Convolution for Semantic Image Segmentation*, 2017, sections 3.1 (output stride), 3.3 and
# figure 4 (the border), 4 (rates, strides). Chen, Zhu, Papandreou, Schroff, Adam: *Encoder-Decoder
# with Atrous Separable Convolution for Semantic Image Segmentation*, ECCV 2018, table 3
# (multiply-adds). Yu, Koltun: *Multi-Scale Context Aggregation by Dilated Convolutions*, ICLR 2016,
# abstract and section 2 (doubling rates; the word). Yu, Koltun, Funkhouser: *Dilated Residual
# Networks*, CVPR 2017 (gridding). Wang and others: *Understanding Convolution for Semantic
# Segmentation*, WACV 2018 (two rules, as others state them). Words: atrous convolution 아트러스 컨볼루션,
# dilated convolution 팽창 합성곱, dilation rate 팽창률, output stride 출력 스트라이드.
