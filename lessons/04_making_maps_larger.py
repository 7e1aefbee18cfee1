# %% [markdown]
# # 4 · Making maps larger
#
# *50 minutes. You will make a small map large in four ways: nearest, bilinear, unpooling,
# transposed convolution. You will see the last one as three things that are one, find out which
# sizes it cannot make, and let a network learn its weights. Builds on lesson 3.*

# %%
from segviz import course
course.banner("04")

# %% [markdown]
# Lesson 3 ended with a network that makes no mistake at all, answers once for many pixels, and has
# lost the picture. Let us be kinder to it. For each 8 × 8 pixels it may tell the *shares* of all
# classes: half road, half grass. That is as much as a small map of scores can hold.

# %%
import copy

import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, layers, metrics
from segviz.data import Toytown

images, masks = Toytown("val", size=64, length=60).tensors()

def shares(masks, block=8):
    """Label maps (B, H, W) -> the share of each class in each block, (B, 10, H/8, W/8)."""
    one_hot = F.one_hot(masks.clamp(max=10), 11)[..., :10]   # void (255) counts for none
    return F.avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), block)

coarse = shares(masks)
tuple(coarse.shape)

# %% [markdown]
# Now 8 × 8 numbers must become 64 × 64. What lies between two numbers that we know?
#
# ## Nearest: nothing lies between
#
# Every new pixel takes the number of the old one that it lies in.

# %%
nearest = coarse.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
assert torch.equal(nearest, F.interpolate(coarse, scale_factor=8, mode="nearest"))
tuple(nearest.shape)

# %% [markdown]
# ## Bilinear: a straight line lies between
#
# On a line: if I am a third of the way from 10 to 40, I take 20.

# %%
def between(a, b, t):
    """The number t of the way from a to b, 0 <= t <= 1."""
    return a + t * (b - a)

between(10, 40, 1 / 3)

# %% [markdown]
# On a map there are four neighbours. **Predict** how many straight lines one needs to find the
# number a quarter of the way across and halfway down.

# %%
four = torch.tensor([[0., 40.],
                     [20., 100.]])
above = between(four[0, 0], four[0, 1], 0.25)
below = between(four[1, 0], four[1, 1], 0.25)
above.item(), below.item(), between(above, below, 0.5).item()

# %% [markdown]
# Three: one across above, one across below, one down between the two. That is *bi*linear: linear in
# each of two directions. (Down first and then across gives the same.)
#
# **Exercise 1.** At any place of any map.

# %%
from segviz.exercises import lesson_04 as exercises

# %%
def bilinear_at(values, row, column):
    """The number at a place of a map (H, W), which may lie between the entries:
    0 <= row <= H - 1 and 0 <= column <= W - 1, whole or not."""
    ...

# %%
exercises.bilinear_at.check(bilinear_at)

# %% [markdown]
# ## But where is a pixel?
#
# To make 8 pixels of 4 we must say where the 8 lie among the 4. There are two customs, and they are
# the source of many silent mistakes. A trick shows them: enlarge a map that says *where it is*. Its
# entries are 0, 1, 2, 3; what comes out are places. **Predict** both lines.

# %%
places = torch.arange(4.).view(1, 1, 1, 4)

def places_of(align_corners):
    return F.interpolate(places, size=(1, 8), mode="bilinear",
                         align_corners=align_corners)[0, 0, 0]

for align_corners in (False, True):
    print(f"align_corners={align_corners!s:<6}", places_of(align_corners).numpy().round(2))

# %% [markdown]
# - `align_corners=False`: a pixel is an *area*. The 8 small areas fill the same length as the 4
#   large ones, so new pixel $i$ lies at $(i + \tfrac12) \cdot \tfrac48 - \tfrac12$. At both ends
#   that would be outside, and the last number is kept.
# - `align_corners=True`: a pixel is a *point*. The first and the last points are laid on each
#   other, so new pixel $i$ lies at $i \cdot \tfrac{4 - 1}{8 - 1}$.

# %%
i = torch.arange(8)
assert torch.allclose(places_of(False), ((i + 0.5) * 4 / 8 - 0.5).clamp(0, 3))
assert torch.allclose(places_of(True), i * (4 - 1) / (8 - 1))

# %% [markdown]
# Our shares were counted over *areas*. **Predict:** which of the three maps is best, and does the
# custom matter?

# %%
def score(enlarged):
    counts = metrics.confusion_matrix(enlarged.argmax(1), masks, 10)
    return metrics.mean_iou(counts)

def bilinear(align_corners):
    return F.interpolate(coarse, scale_factor=8, mode="bilinear",
                         align_corners=align_corners)

enlarged = {"nearest": nearest, "bilinear": bilinear(False),
            "corners aligned": bilinear(True)}
scores = {name: score(maps) for name, maps in enlarged.items()}
assert scores["nearest"] < scores["corners aligned"] < scores["bilinear"]
{name: round(float(value), 3) for name, value in scores.items()}

# %%
figure, axes = draw.panels(5, size=2.1, titles=("scene", "truth", *enlarged))
draw.image(axes[0], images[11])
draw.labels(axes[1], masks[11])
for ax, maps in zip(axes[2:], enlarged.values(), strict=True):
    draw.labels(ax, maps[11].argmax(0))

# %% [markdown]
# > **Myth or measured?** *"`align_corners` is a detail."* The same numbers, laid elsewhere by
# > almost half a block, and much of what bilinear had gained over nearest is gone. Neither custom
# > is wrong. Mixing them is: a mask resized by one and logits by the other do not meet.
#
# Bilinear rounds the stairs. The poles are gone all the same: no line between two numbers brings
# back what both have forgotten.
#
# ## Unpooling: remember where it was
#
# Max-pooling keeps the largest of four numbers and forgets which of the four it was. It need not.
# It can note the place, the **switch**, and unpooling can put the number back there. **Predict:**
# what stands in the other three places?

# %%
picture = torch.tensor([[1., 9, 2, 3],
                        [4, 2, 8, 1],
                        [5, 1, 0, 2],
                        [0, 6, 7, 3]])[None, None]
pooled, switches = F.max_pool2d(picture, 2, return_indices=True)
pooled[0, 0], F.max_unpool2d(pooled, switches, 2)[0, 0]

# %% [markdown]
# Zeros: three of four places are empty. But each of the four that are filled is *exactly* where it
# was. Here with a scene: pooled to an eighth, and back with and without its switches.

# %%
grey = images[11].mean(0)[None, None]
small, memory = grey, []
for _ in range(3):
    small, switches = F.max_pool2d(small, 2, return_indices=True)
    memory.append(switches)
back = small
for switches in reversed(memory):
    back = F.max_unpool2d(back, switches, 2)
filled = back != 0
assert filled.float().mean() <= 1 / 64 and torch.equal(back[filled], grey[filled])
f"{filled.float().mean():.1%} of the pixels are filled"

# %%
titles = ("before", "without switches: nearest", "with switches: unpooled")
figure, axes = draw.panels(3, size=2.6, titles=titles)
pictures = (grey, small.repeat_interleave(8, -1).repeat_interleave(8, -2), back)
for ax, values in zip(axes, pictures, strict=True):
    draw.heat(ax, values[0, 0])

# %% [markdown]
# One pixel of 64, and each in its place: one dot a block, where the block was brightest. DeconvNet
# (lesson 7) puts transposed convolutions between the unpoolings, to fill the space between the
# dots.
#
# ## The transposed convolution: let weights decide
#
# So far nothing could be learned. Here is a layer that makes maps larger with *weights*. A
# convolution looks at three pixels and makes one. Turn that round: take one, and write into three.
# Each input value **stamps** the kernel, times itself, into the output. The stamps lie `stride`
# apart, and where they overlap they add.
#
# The input is 1, 10, 100, the kernel 1, 2, 3, the stride 2. **Predict** the seven outputs.

# %%
values, kernel, stride = [1, 10, 100], [1, 2, 3], 2
output = [0] * 7
for i, value in enumerate(values):
    for j, weight in enumerate(kernel):
        output[i * stride + j] += value * weight
output

# %% [markdown]
# The digits show who wrote what: 13 is 3 · 1 and 1 · 10.
#
# **Exercise 2.** The same in two dimensions.

# %%
def stamps(values, kernel, stride):
    """values (H, W), kernel (k, k) -> ((H - 1) * stride + k, (W - 1) * stride + k)."""
    ...

# %%
exercises.stamps.check(stamps)

# %% [markdown]
# **The second view.** Hold the output still, and ask where its numbers come from. Write the inputs
# `stride` apart with zeros between, and slide the *turned* kernel over that. An ordinary
# convolution.

# %%
spread = torch.tensor([[[1., 0, 10, 0, 100]]])
turned = torch.tensor([[[3., 2, 1]]])
F.conv1d(spread, turned, padding=2)

# %% [markdown]
# The same seven numbers. The kernel moves by one over the spread map, which is half a step over the
# input: so this layer is also called *fractionally strided*.
#
# **The third view.** An ordinary convolution of stride 2 takes seven numbers to three. Each of the
# three is a weighted sum of the seven, so the layer is a matrix. **Predict** its rows.

# %%
weight = torch.tensor([1., 2, 3]).view(1, 1, 1, 3)
matrix = layers.convolution_matrix(weight, height=1, width=7, stride=2)
matrix.int()

# %% [markdown]
# Each row is the kernel, moved on by 2. Now *transpose* it: it takes three numbers to seven.

# %%
three = torch.tensor([1., 10, 100])
(matrix.T @ three).int().tolist()

# %% [markdown]
# The same again, and there is the name: **transposed convolution**. Column $i$ of the transposed
# matrix is the stamp of input $i$.
#
# You have run this layer many times without knowing. When a network learns, the error of each
# convolution's output is carried back to its input: by the transposed matrix.

# %%
seven = torch.rand(1, 1, 1, 7, requires_grad=True)
error = three.view(1, 1, 1, 3)
(carried_back,) = torch.autograd.grad(F.conv2d(seven, weight, stride=2), seven, error)
carried_back.flatten().int().tolist()

# %% [markdown]
# So some call it *deconvolution*. **Predict:** does it undo the convolution?

# %%
forth = F.conv2d(seven, weight, stride=2)
back = F.conv_transpose2d(forth, weight, stride=2)
assert back.shape == seven.shape and not torch.allclose(back, seven, atol=0.1)
seven.detach().numpy().round(2), back.detach().numpy().round(2)

# %% [markdown]
# > **Myth or measured?** *"Deconvolution reverses a convolution."* It brings back the **size**, not
# > the numbers. Three numbers cannot hold seven. (In mathematics deconvolution does mean undoing a
# > convolution. This layer does not, so this course says *transposed convolution*.)
#
# All three views are in `segviz.layers`, a few lines each. On a map with channels, padding and all:

# %%
torch.manual_seed(0)
maps, weight = torch.randn(2, 3, 5, 4), torch.randn(3, 6, 3, 3)
settings = {"stride": 2, "padding": 1, "output_padding": 1}
expected = F.conv_transpose2d(maps, weight, **settings)
for view in (layers.scatter_and_add, layers.zeros_then_convolution,
             layers.by_transposed_matrix):
    assert torch.allclose(view(maps, weight, **settings), expected, atol=1e-4)
tuple(expected.shape)

# %% [markdown]
# ## Step by step
#
# Watch it: pull the step to the left end and slowly back, and see the stamps fall. Point at a cell
# of the output and see who has written there. **Predict**, then try:
#
# 1. Stride 3 with a kernel of 3, padding 0: does any cell get more than one stamp? And stride 3
#    with a kernel of 2?
# 2. The view with the zeros, stride 2: how many of the nine products are not zero? Point at
#    neighbouring cells: does the number change?
# 3. Turn the padding up. Does the output grow or shrink?
# 4. Weights "bilinear", kernel 4, stride 2, padding 1. Compare with the method "bilinear".

# %%
from segviz.widgets import UpsamplingExplorer

explorer = UpsamplingExplorer()
explorer

# %% [markdown]
# ## Which sizes can be had
#
# The last stamp begins at $(n - 1) \cdot s$ and is $k$ long. Padding $p$, which adds to the input
# of a convolution, is cut *off* the output here, at both ends. For $n$ inputs:
#
# $$\text{size} = (n - 1) \cdot s + k - 2p + \text{output\_padding}$$
#
# What is that last term? Go forth first. **Predict:** a convolution with kernel 3, stride 2,
# padding 1 meets maps of 7 and of 8 pixels. How large are its outputs?

# %%
halve = nn.Conv1d(1, 1, 3, stride=2, padding=1)
[halve(torch.zeros(1, 1, n)).shape[-1] for n in (7, 8)]

# %% [markdown]
# Both give 4. So on the way back, from 4, it is open whether to go to 7 or to 8. `output_padding`
# decides.

# %%
def sizes(**settings):
    return [layers.transposed_size(n, **settings) for n in range(1, 9)]

print("without:", sizes(kernel_size=3, stride=2, padding=1))
print("with 1: ", sizes(kernel_size=3, stride=2, padding=1, output_padding=1))

# %% [markdown]
# With stride 2 and no output padding every second size is out of reach: from 4 one can go to 7,
# from 5 to 9, and never to 8. With it all can be had, and 1 is the most that makes sense: 2 would
# be the next input's size.

# %%
try:
    nn.ConvTranspose1d(1, 1, 3, stride=2, padding=1, output_padding=2)(torch.zeros(1, 1, 4))
except RuntimeError as error:
    print(error)
try:
    layers.transposed_size(4, 3, stride=2, padding=1, output_padding=2)
except ValueError as error:
    print(error)

# %% [markdown]
# > **Myth or measured?** *"`output_padding` pads the output with zeros."* Look at the number that
# > it adds to a line:

# %%
ones, kernel = torch.ones(1, 1, 4), torch.tensor([[[1., 2, 3]]])
for extra in (0, 1):
    line = F.conv_transpose1d(ones, kernel, stride=2, padding=1, output_padding=extra)
    print(f"output_padding={extra}:", line[0, 0].int().tolist())
assert line[0, 0, -1] == 3

# %% [markdown]
# The 3 is a real product, of the last input with the last weight. Padding had cut it off, and
# output padding lets it stand. (Only where no stamp reaches is there nothing but the bias.)
#
# **Exercise 3.** The formula, with the rate of an atrous kernel in it, and 0 where there is no such
# layer.

# %%
def transposed_size(size, kernel, stride, padding, output_padding, dilation):
    """How many outputs along one axis; 0 where such a layer cannot exist: output_padding
    not below the larger of stride and dilation, or no output left."""
    ...

# %%
exercises.transposed_size.check(transposed_size)

# %% [markdown]
# ## Bilinear is a transposed convolution
#
# Which kernel makes a straight line of the numbers at the stamps' middles? **Predict:** two inputs
# next to each other, 10 and 40, stride 3. What must each stamp look like, so that 20 and 30 come to
# stand between them?

# %%
stamp = torch.tensor([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]).view(1, 1, 5)
F.conv_transpose1d(torch.tensor([[[10., 40.]]]), stamp, stride=3)

# %% [markdown]
# A tent. From its top it falls to zero over one stride, just where the neighbour's is at its top;
# between them the two add up to one. For an even stride the top lies between two pixels.
#
# **Exercise 4.** The tent for any stride.

# %%
def bilinear_weights(stride):
    """The 1-D kernel, of size 2 * stride - stride % 2, with which a transposed convolution
    of this stride upsamples linearly. 3 -> [1/3, 2/3, 1, 2/3, 1/3]"""
    ...

# %%
exercises.bilinear_weights.check(bilinear_weights)

# %% [markdown]
# In two dimensions it is a pyramid, the tent times the tent. FCN starts its upsampling with these
# weights (lesson 6).

# %%
tent = layers.bilinear_kernel(4)
up = layers.bilinear_upsampling(channels=10, kernel_size=4, stride=2)
up.padding = (1, 1)                                         # cut to exactly twice the size
expected = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
difference = (up(coarse) - expected).abs().detach()
assert difference[..., 1:-1, 1:-1].max() < 1e-6 < difference.max()
tent

# %% [markdown]
# Equal but for the border: there the stamps that would come from outside are missing.
#
# ## And it can learn
#
# A bilinear kernel is only where it starts. Here is a task with a right answer: a picture was made
# half as large; make it large again. One kernel of 4 × 4, the same for red, green and blue.
# **Predict:** is there anything better than bilinear? Does it matter where the kernel starts?

# %%
train_images, _ = Toytown("train", size=64, length=200).tensors()

def error_of(up, pictures):
    """Mean squared error of pictures that were halved and made large again (no border)."""
    small = F.avg_pool2d(pictures, 2)
    large = up(small.flatten(0, 1)[:, None]).view_as(pictures)
    return (large - pictures)[..., 8:-8, 8:-8].square().mean()

def learn(up, steps=300):
    optimiser = torch.optim.Adam(up.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = error_of(up, train_images[torch.randint(len(train_images), (8,))])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return up

# %%
def bilinear_start():
    up = layers.bilinear_upsampling(1, 4, 2)
    up.padding = (1, 1)
    return up

torch.manual_seed(0)
fixed, from_bilinear = bilinear_start(), learn(bilinear_start())
random_start = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
from_random = learn(copy.deepcopy(random_start))
errors = {name: error_of(up, images).item() for name, up in
          {"bilinear": fixed, "learned from bilinear": from_bilinear,
           "learned from random": from_random}.items()}
{name: round(value, 5) for name, value in errors.items()}

# %%
assert errors["learned from bilinear"] < 0.97 * errors["bilinear"]
assert errors["learned from random"] > errors["bilinear"]
kernels = {"bilinear": fixed, "learned from it": from_bilinear,
           "random": random_start, "learned from that": from_random}
figure, axes = draw.panels(4, size=2.2, titles=kernels)
for ax, up in zip(axes, kernels.values(), strict=True):
    draw.heat(ax, up.weight[0, 0], vmin=-0.2, vmax=0.8)

# %% [markdown]
# There is something better: a kernel with less at its sides, which keeps edges sharper. And in the
# same 300 steps the random start has not even come as far as bilinear *was*. It is only sixteen
# weights, and still: a good start is worth a lot.
#
# Now the other task, labels from shares, with a layer for ten classes. Its outputs are taken for
# logits (the numbers before a softmax), and cross-entropy is to fall. **Predict** the mean IoU
# after 150 steps from the bilinear start.

# %%
from torch.utils.data import TensorDataset

from segviz.training import fit

_, train_masks = Toytown("train", size=64, length=200).tensors()
pairs = TensorDataset(shares(train_masks), train_masks)

def labeller(loudness=1.):
    """Bilinear upsampling by 8 for ten classes, times a number."""
    up = layers.bilinear_upsampling(10, kernel_size=16, stride=8)
    up.padding = (4, 4)                                  # cut to exactly eight times the size
    up.weight.data *= loudness
    return up

# %%
@torch.no_grad()
def judged(up):
    maps = up(coarse)
    return F.cross_entropy(maps, masks, ignore_index=255).item(), score(maps)

quiet = labeller()
start = judged(quiet)
fit(quiet, pairs, steps=150, lr=1e-2, title="labels from shares")
for name, (entropy, iou) in {"bilinear": start, "learned": judged(quiet)}.items():
    print(f"{name:<9} cross-entropy {entropy:.2f}   mean IoU {iou:.3f}")

# %%
assert judged(quiet)[0] < start[0] and judged(quiet)[1] < start[1]

# %% [markdown]
# The loss fell by more than half, and the map got *worse*. Why? Shares lie between 0 and 1. As
# logits they are so quiet that even a pure pixel gives its class a chance of no more than $e / (e +
# 9) = 0.23$. The layer has spent its 150 steps on getting louder. So make it loud to begin with:
# the bilinear weights times 8. **Predict:** what does that do to the loss, and to the map? And then
# 150 steps from there?

# %%
loud = labeller(loudness=8)
start_loud = judged(loud)
fit(loud, pairs, steps=150, lr=1e-2, title="from a louder start")
for name, (entropy, iou) in {"bilinear × 8": start_loud, "learned": judged(loud)}.items():
    print(f"{name:<13} cross-entropy {entropy:.2f}   mean IoU {iou:.3f}")

# %%
assert abs(start_loud[1] - start[1]) < 1e-3 and start_loud[0] < judged(quiet)[0]
assert judged(loud)[1] > start[1] + 0.01

# %% [markdown]
# Times 8 changes no label and cuts the loss to less than what learning had reached. From there
# learning does improve the map.
#
# > **Myth or measured?** *"Learned upsampling is better than bilinear."* It can be: twice you saw
# > it win by a little. And once it lost, with a falling loss, because it had started badly and was
# > not done. FCN's authors, in their published code, keep these layers fixed at bilinear: they saw
# > no significant difference. A lower loss is not yet a better map. **Measure what you want.**
#
# ## The failure to take along
#
# One more test. A map that is the same everywhere, a clear sky, is made twice as large. **Predict**
# what comes out of each of four kernels.

# %%
threes = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1, bias=False)
nn.init.constant_(threes.weight, 4 / 9)                  # all weights alike, mean output 1
skies = {"bilinear": fixed, "random": random_start, "learned from that": from_random,
         "3 × 3, all weights alike": threes}
spread = {}
figure, axes = draw.panels(4, size=2.4)
for ax, (name, up) in zip(axes, skies.items(), strict=True):
    sky = up(torch.ones(1, 1, 10, 10)).detach()[0, 0, 2:-2, 2:-2]
    spread[name] = sky.std().item()
    draw.heat(ax, sky, f"{name}: ± {spread[name]:.2f}", sky.mean() - 0.8, sky.mean() + 0.8)

# %%
assert spread["bilinear"] < 1e-6 and spread["learned from that"] < 0.05
assert spread["random"] > 0.1 and spread["3 × 3, all weights alike"] > 0.3

# %% [markdown]
# Behind the ± is the standard deviation. Bilinear leaves the sky even. A random kernel prints a
# grid. Training has all but removed it: one layer, a simple task, and a loss that sees every pixel.
#
# But the last one! All its weights are alike, nothing about it is random or badly trained, and it
# prints a grid. Where does that come from? And does a *whole network* train it away? **Lesson 5:
# checkerboards.**
#
# ## What was shown
#
# - Nearest repeats, bilinear draws straight lines (three of them for a pixel), unpooling puts
#   maxima back where they were. None has weights.
# - `align_corners` says whether a pixel is an area or a point. Keep to one of the two.
# - The transposed convolution is stamps that add up, an ordinary convolution over a map with zeros
#   between, and the transposed matrix of a convolution: the same numbers. It restores a size, it
#   undoes nothing.
# - With stride s only every s-th size can be had, unless `output_padding` says which.
# - Bilinear upsampling is one of its kernels, and a good one to start from. Learning can improve on
#   it, where it starts well and is let finish.

# %%
print("Scoreboard: labels from the true shares of 8 x 8 pixels, 60 scenes of 64 x 64")
rows = scores | {"learned transposed convolution": judged(loud)[1]}
for name, value in rows.items():
    print(f"{name:<32} mean IoU {value:.3f}")

# %% [markdown]
# **Sources.** Dumoulin, Visin: *A guide to convolution arithmetic for deep learning*, 2016 (sizes,
# zeros between, the transposed matrix). Zeiler, Taylor, Fergus: *Adaptive Deconvolutional Networks
# for Mid and High Level Feature Learning*, ICCV 2011, and Zeiler, Fergus: *Visualizing and
# Understanding Convolutional Networks*, ECCV 2014 (switches). Long, Shelhamer, Darrell: *Fully
# Convolutional Networks for Semantic Segmentation*, CVPR 2015, section 3.3 (upsampling as backwards
# convolution), and its published code (the bilinear weights, kept fixed). Noh, Hong, Han: *Learning
# Deconvolution Network for Semantic Segmentation*, ICCV 2015 (unpooling in a segmentation network).
# Words: upsampling 업샘플링, bilinear interpolation 쌍선형 보간, unpooling 언풀링, transposed convolution 전치
# 합성곱.
