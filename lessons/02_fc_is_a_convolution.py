# %% [markdown]
# # 2 · A fully connected layer is a convolution
#
# *30 minutes. You will train a classifier that can only look at crops of 40 × 40 pixels. Then,
# without training it again, you will make it answer everywhere in a scene of any size. Builds on
# lesson 1.*

# %%
from segviz import course

course.banner("02")

# %% [markdown]
# Lesson 1 ended with a perfect classifier and a worthless map. It knew *what* was in the scene. It
# could not say *where*. Where did the "where" go?
#
# ## A classifier of crops
#
# Here is a small one, of the kind that led image recognition from AlexNet (2012) to VGG (2014). It
# looks at a crop of 40 × 40 pixels and says what is in the middle: a car, a boat, a tree, or
# something other.

# %%
import torch
from torch import nn
from torch.utils.data import TensorDataset

from segviz import draw, metrics
from segviz.data import Toytown, toytown

NAMES = ("other", "car", "boat", "tree")
LABELS = [None] + [toytown.CLASSES.index(name) for name in NAMES[1:]]
WINDOW, SIZE = 40, 128

# %% [markdown]
# Toytown knows where its things are, so it can cut crops around them. "Other" is any place with
# none of the three near.

# %%
def places(scene, random):
    """(class, row, column) of what is worth a crop, off its middle by up to 4 pixels."""
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        if thing.name in NAMES and thing.visible >= 60 and max(x1 - x0, y1 - y0) <= 44:
            for down, right in torch.randint(-4, 5, (4, 2), generator=random).tolist():
                yield NAMES.index(thing.name), (y0 + y1) // 2 + down, (x0 + x1) // 2 + right
    occupied = torch.isin(scene.mask, torch.tensor(LABELS[1:]))
    for row, column in torch.randint(20, SIZE - 19, (8, 2), generator=random).tolist():
        if not occupied[row - 10:row + 10, column - 10:column + 10].any():
            yield 0, row, column

# %%
def crops(split, scenes, per_class):
    """A data set of (crop, class), as many of each class as of the others."""
    data, random = Toytown(split, length=scenes), torch.Generator().manual_seed(0)
    found = [[] for _ in NAMES]
    for item in range(scenes):
        scene = toytown.scene(data.scene_index(item), SIZE)
        for name, row, column in places(scene, random):
            if 20 <= row <= SIZE - 20 and 20 <= column <= SIZE - 20:
                rows, columns = slice(row - 20, row + 20), slice(column - 20, column + 20)
                found[name].append(scene.image[:, rows, columns])
    images = [kind[i] for kind in found
              for i in torch.randint(len(kind), (per_class,), generator=random)]
    labels = torch.arange(len(NAMES)).repeat_interleave(per_class)
    return TensorDataset(torch.stack(images), labels)

# %%
train = crops("train", scenes=300, per_class=700)
val = crops("val", scenes=100, per_class=100)
figure, axes = draw.panels(8, size=1.2)
for ax, i in zip(axes, range(0, 2800, 350), strict=True):
    draw.image(ax, train[i][0], NAMES[train[i][1]])

# %% [markdown]
# The classifier: convolutions and poolings, then `Flatten` and two fully connected layers (FC,
# `nn.Linear`). The comments give the size of the map after each line. None of its convolutions pads
# with zeros; you will see why.

# %%
torch.manual_seed(0)
classifier = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.ReLU(),                     # 38 x 38
    nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2),   # 36, then 18 x 18
    nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),   # 16, then 8 x 8
    nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),   # 6, then 3 x 3
    nn.Flatten(),                                       # 64 * 3 * 3 = 576 numbers in a row
    nn.Linear(576, 64), nn.ReLU(),
    nn.Linear(64, len(NAMES)),
)

# %%
from segviz.training import fit

history = fit(classifier, train, val, steps=400, batch_size=64, lr=2e-3,
              title="crop classifier")
scores = history.val[-1][1]
scores.pixel_accuracy                      # here one "pixel" is one crop

# %%
assert scores.pixel_accuracy > 0.65        # guessing would give 0.25
figure, (ax,) = draw.panels(1, size=2.8)
draw.confusion(ax, scores.counts, NAMES)

# %% [markdown]
# It is good at its job. But show it a whole scene:

# %%
scene = toytown.scene(601, SIZE)           # of the validation split: new to the classifier
try:
    classifier(scene.image[None])
except RuntimeError as error:
    print(error)

# %% [markdown]
# ## The layer that forgets
#
# The convolutions did not mind. The first `Linear` did: it multiplies a row of exactly 576 numbers,
# and the scene gave 12,544. Its **size is fixed**.
#
# It also forgets **place**. `Flatten` makes a plain list; number 17 is some channel at some place,
# and nothing in the layer knows which.
#
# **Predict:** shuffle the 576 numbers, in the same way for all crops, and the columns of the matrix
# likewise. How much does the answer change?

# %%
first = classifier[12]
features = classifier[:12](val[0][0][None])            # (1, 576), behind Flatten
shuffle = torch.randperm(576)
shuffled = nn.functional.linear(features[:, shuffle], first.weight[:, shuffle], first.bias)
assert torch.allclose(shuffled, first(features), atol=1e-5)
(shuffled - first(features)).abs().max().item()

# %% [markdown]
# Not at all. To a fully connected layer left, right, above and below are no different from any
# other order. A convolution with shuffled pixels would be lost.
#
# ## The same numbers, held differently
#
# One row of the matrix multiplies all 576 numbers of a 64 × 3 × 3 map and adds up. That is what
# *one filter* of a 3 × 3 convolution does at *one place*. There are 64 rows, so there are 64
# filters. Fold each row back:

# %%
filters = first.weight.view(64, 64, 3, 3)              # (outputs, channels, height, width)
figure, axes = draw.panels(8, size=1.1)
for n, ax in enumerate(axes):
    draw.heat(ax, filters[n, 0].detach(), f"row {n}", vmin=-0.1, vmax=0.1)

# %% [markdown]
# **Exercise 1.** Fold it yourself, for any matrix. Which number goes where? (`Flatten` lays out
# channel after channel, and each channel row by row.)

# %%
from segviz.exercises import lesson_02 as exercises


# %%
def fold_matrix(matrix, channels, k):
    """matrix (N, channels * k * k), which read a flattened (channels, k, k) map
    -> filters (N, channels, k, k)."""
    ...

# %%
exercises.fold_matrix.check(fold_matrix)

# %% [markdown]
# **Predict:** fed the same 3 × 3 map, which shape comes out of this convolution, and how far are
# its numbers from the FC layer's?

# %%
conv = nn.Conv2d(64, 64, kernel_size=3)
conv.weight.data, conv.bias.data = filters.detach().clone(), first.bias.detach().clone()
feature_map = classifier[:11](val[0][0][None])         # (1, 64, 3, 3), before Flatten
difference = (conv(feature_map).flatten() - first(features).flatten()).abs().max().item()
assert difference < 1e-5
tuple(conv(feature_map).shape), difference

# %% [markdown]
# One answer, at one place, and the same to the last few bits: only the order of the additions
# differs. **Nothing was approximated and nothing was trained.**
#
# The second FC layer reads 64 numbers at one place. That is a convolution with a kernel of 1 × 1.
# The package does the same in one line each:

# %%
from segviz.layers import linear_to_conv

everywhere = nn.Sequential(*classifier[:11], linear_to_conv(first, 3), nn.ReLU(),
                           linear_to_conv(classifier[14], 1)).eval()
assert torch.equal(everywhere[11].weight, filters)
crop = val[0][0][None]
assert torch.allclose(everywhere(crop).flatten(), classifier(crop).flatten(), atol=1e-4)
tuple(classifier(crop).shape), tuple(everywhere(crop).shape)

# %% [markdown]
# > **Myth or measured?** *"FCN replaces the fully connected layers by 1 × 1 convolutions."* The
# > later ones, yes. The **first** one became a 3 × 3 here, because it read a 3 × 3 map (in VGG16 it
# > reads 7 × 7). A 1 × 1 in its place would see one ninth of what the matrix saw.
#
# **Exercise 2.** Do it for a whole head: `Flatten`, `Linear`, `ReLU`, `Linear`.

# %%
def fully_convolutional(head, channels, k):
    """head: nn.Sequential(Flatten, Linear, ReLU, Linear) that read (channels, k, k) maps
    -> a network of convolutions with the same weights, which maps (B, channels, H, W)
    to scores (B, classes, H - k + 1, W - k + 1)."""
    ...

# %%
exercises.fully_convolutional.check(fully_convolutional)

# %% [markdown]
# ## Everywhere at once
#
# Now the scene that was refused:

# %%
with torch.no_grad():
    answers = everywhere(scene.image[None])
tuple(answers.shape)

# %% [markdown]
# 12 × 12 answers instead of one. Each is the old classifier's, looking through its own window of 40
# × 40 pixels. **Predict** how far apart neighbouring windows are. Three poolings, each of which
# keeps every second place: 2 · 2 · 2 = **8 pixels**. That is the network's **stride**.

# %%
assert answers.shape[-1] == (SIZE - WINDOW) // 8 + 1 == 12
chances = answers.softmax(1)[0]                        # (4, 12, 12)
figure, axes = draw.panels(4, size=2.3, titles=("the scene", "car?", "boat?", "tree?"))
draw.image(axes[0], scene.image)
for ax, name in zip(axes[1:], (1, 2, 3), strict=True):
    draw.heat(ax, chances[name])

# %% [markdown]
# There is the *where*. Nobody has ever told the classifier about places: it was trained on crops
# with one label each.
#
# **Exercise 3.** How many answers does one side give?

# %%
def window_count(size, window, stride):
    """How many windows of `window` pixels, `stride` apart, fit whole into `size` pixels."""
    ...

# %%
exercises.window_count.check(window_count)

# %% [markdown]
# **Exercise 4.** And which pixels has one answer seen?

# %%
def window_of(row, column, window, stride):
    """(top, left, bottom, right) of the pixels that answer (row, column) has looked at;
    bottom and right are one past the last."""
    ...

# %%
exercises.window_of.check(window_of)

# %% [markdown]
# ## The same as sliding, and far cheaper
#
# Are these really the old classifier's answers? Cut out all 144 windows, one by one, and ask it.

# %%
def slide(network, image):
    """One answer for each window, window by window: (classes, rows, columns)."""
    count = (image.shape[-1] - WINDOW) // 8 + 1
    corners = range(0, 8 * count, 8)
    rows = [torch.cat([network(image[None, :, r:r + WINDOW, c:c + WINDOW]) for c in corners])
            for r in corners]
    return torch.stack(rows).permute(2, 0, 1)

# %%
with torch.no_grad():
    one_by_one = slide(classifier.eval(), scene.image)
difference = (one_by_one - answers[0]).abs().max().item()
assert difference < 1e-3
difference

# %% [markdown]
# The same numbers. **Predict** the price of each: 144 windows of 40 × 40, or one pass over 128 ×
# 128?

# %%
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(run):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2     # the counter takes the two as two operations

windows = multiply_adds(lambda: slide(classifier, scene.image))
at_once = multiply_adds(lambda: everywhere(scene.image[None]))
assert windows > 8 * at_once
print(f"{windows / 1e6:.0f} million against {at_once / 1e6:.0f} million: "
      f"{windows / at_once:.1f} times as many")

# %%
from time import perf_counter


def seconds(run, repeats=5):
    with torch.no_grad():
        run()                                          # once to warm up
        start = perf_counter()
        for _ in range(repeats):
            run()
    return (perf_counter() - start) / repeats

one_by_one = seconds(lambda: slide(classifier, scene.image))
ratio = one_by_one / seconds(lambda: everywhere(scene.image[None]))
assert ratio > 3
f"{ratio:.0f} times as long, measured"

# %% [markdown]
# (More than the multiplications alone explain: 144 small calls also have 144 times the overhead.)
#
# Neighbouring windows overlap: an inner pixel lies in 5 · 5 = 25 of them, and window by window its
# first features are computed 25 times. The convolution computes them once and shares them. (Less
# than 25 is saved in all, because pixels near the border lie in fewer windows, and the last layers
# share nothing.)
#
# ## Why no padding
#
# Most networks pad each convolution with zeros, to keep maps from shrinking. **Predict:** the same
# test with padding. Are the answers still those of the sliding classifier?

# %%
torch.manual_seed(0)
body = [layer for channels in ((3, 16), (16, 32), (32, 64))
        for layer in (nn.Conv2d(*channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
head = nn.Linear(64 * 5 * 5, 4)                        # 40 -> 20 -> 10 -> 5
padded_classifier = nn.Sequential(*body, nn.Flatten(), head)
padded_everywhere = nn.Sequential(*body, linear_to_conv(head, 5))
with torch.no_grad():
    one_by_one = slide(padded_classifier, scene.image)
    difference = (one_by_one - padded_everywhere(scene.image[None])[0]).abs().mean()
spread = (one_by_one - one_by_one.mean((1, 2), keepdim=True)).abs().mean()
assert difference > 0.01 * spread
print(f"they differ by {difference / spread:.0%} of the scores' own variation over the scene")

# %% [markdown]
# > **Myth or measured?** *"A fully convolutional network gives exactly what sliding the classifier
# > would."* Only **without padding**. A crop that is cut out has zeros at its edge; the same place
# > inside the scene has its neighbours there. The network sees something else, often something
# > better. But it is not the same, and now you know by how much.
#
# ## Move it yourself
#
# Below is the trained classifier, everywhere at once. Move the car with the mouse or the arrow
# keys, change the size of the input, and point at a cell of the map to see the window behind it.
#
# **Predict**, then try: (1) Make the input 40 × 40: how many cells are left? (2) Move the car by
# four pixels: does the map change? By eight? (3) How small can the input be before a car at its
# edge is missed?

# %%
backdrop = toytown.scene(23, 160).image
donor = toytown.scene(601, SIZE)
cars = [i for i, thing in enumerate(donor.objects) if thing.name == "car"]
car = max(cars, key=lambda i: donor.objects[i].visible)
x0, y0, x1, y1 = donor.objects[car].box
sprite, shape = donor.image[:, y0:y1, x0:x1], donor.instances[y0:y1, x0:x1] == car + 1

def place(height, width, row, column):
    """A piece of the scene with the car's centre at (row, column)."""
    image = backdrop[:, -height:, :width].clone()
    rows, columns = torch.nonzero(shape, as_tuple=True)
    to_row = rows + row - shape.shape[0] // 2
    to_column = columns + column - shape.shape[1] // 2
    inside = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
    image[:, to_row[inside], to_column[inside]] = sprite[:, rows[inside], columns[inside]]
    return image

# %%
from segviz.widgets import SlidingExplorer

explorer = SlidingExplorer(everywhere, place, NAMES, window=WINDOW, stride=8,
                           largest=SIZE, shown="car")
explorer

# %% [markdown]
# Move the car by eight pixels and the *pattern* moves by one cell. Move it by four and the pattern
# changes shape: half-way between two cells there is no cell. The network's answers lie on a grid of
# 8 pixels.
#
# ## The failure to take along
#
# Is this a segmentation? Give each answer to the 8 × 8 pixels around its window's centre, and score
# the three things against the truth, over 50 scenes.

# %%
def coarse_map(image):
    """Each answer repeated over the 8 x 8 pixels at the middle of its window."""
    with torch.no_grad():
        best = everywhere(image[None]).argmax(1)[0]
    blocks = best.repeat_interleave(8, 0).repeat_interleave(8, 1)
    border = (WINDOW - 8) // 2              # no window's middle is nearer to the edge
    return nn.functional.pad(blocks, [border] * 4, value=0)

# %%
def truth_of(mask):
    """Toytown's label map in this lesson's four classes; void stays void."""
    result = torch.zeros_like(mask)
    for name, label in enumerate(LABELS):
        result[mask == label] = name
    return result.masked_fill(mask == 255, 255)

pictures = [toytown.scene(3 * i + 1, SIZE) for i in range(50)]      # the validation split
counts = sum(metrics.confusion_matrix(coarse_map(s.image), truth_of(s.mask), 4)
             for s in pictures)
for name, iou in zip(NAMES, metrics.class_iou(counts), strict=True):
    print(f"{name:<6}{iou:.2f}")

# %%
assert metrics.class_iou(counts)[1:].max() < 0.6
figure, axes = draw.panels(6, size=1.8)
palette = draw.PALETTE[[4, 8, 9, 2]]
for k, s in enumerate((pictures[7], pictures[12])):
    draw.image(axes[3 * k], s.image)
    draw.labels(axes[3 * k + 1], coarse_map(s.image), "its answers", palette)
    draw.labels(axes[3 * k + 2], truth_of(s.mask), "truth", palette)

# %% [markdown]
# The cars are there, as heaps of bricks. The classifier that is right on four crops of five draws a
# map that is wrong nearly everywhere it matters. Two things are wrong with it, and each has a
# lesson of its own:
#
# - An answer looks through a window of 40 pixels and does not know *which* of them hold the car.
#   How far does an answer look, and at what? **Lesson 3: receptive fields.**
# - There is one answer for 8 × 8 pixels. How does a small map become a large one again? **Lesson 4:
#   making maps larger.**
#
# ## What was shown
#
# - A fully connected layer on a k × k map is a k × k convolution; the ones after it are 1 × 1. The
#   numbers are the same.
# - So a classifier runs on a scene of any size, and gives a coarse map of scores: (size − window) /
#   stride + 1 on each side.
# - Without padding that equals sliding it window by window, at a fraction of the cost.
# - The map is coarse, because of the stride, and blurred, because of the window.

# %%
accuracy, mean_iou = metrics.pixel_accuracy(counts), metrics.mean_iou(counts)
print("Scoreboard: Toytown at 128 x 128, 50 scenes, classes other, car, boat, tree")
print(f"crop classifier, everywhere   pixel accuracy {accuracy:.3f}    mean IoU {mean_iou:.3f}")

# %% [markdown]
# **Sources.** Long, Shelhamer, Darrell: *Fully Convolutional Networks for Semantic Segmentation*,
# CVPR 2015, section 3.1 (classifiers as fully convolutional networks). Sermanet et al.: *OverFeat*,
# ICLR 2014, section 3.5 (a classifier's layers as convolutions, and why sliding them is cheap).
# Ciresan et al.: *Deep Neural Networks Segment Neuronal Membranes in Electron Microscopy Images*,
# NIPS 2012 (segmentation by sliding a classifier). Words: fully connected layer 완전 연결 계층, stride
# 스트라이드, sliding window 슬라이딩 윈도.
