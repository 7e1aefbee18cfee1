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
# Toytown knows where its things are, so it can cut crops. `places` lists what is worth one: each
# car, boat or tree that fits into a crop and is large enough to see, four times, off the crop's
# middle by up to 4 pixels; and a few places with none of the three near, as "other".

# %%
def places(scene, random):
    """(class, row, column) of what is worth a crop."""
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        if thing.name in NAMES and thing.visible >= 60 and max(x1 - x0, y1 - y0) <= WINDOW:
            for down, right in torch.randint(-4, 5, (4, 2), generator=random).tolist():
                yield NAMES.index(thing.name), (y0 + y1) // 2 + down, (x0 + x1) // 2 + right
    occupied = torch.isin(scene.mask, torch.tensor(LABELS[1:]))
    for row, column in torch.randint(20, SIZE - 19, (8, 2), generator=random).tolist():
        if not occupied[row - 10:row + 10, column - 10:column + 10].any():
            yield 0, row, column

# %% [markdown]
# `crops` cuts them out, and takes as many of each class as of the others.

# %%
def crops(split, scenes, per_class):
    """A data set of (crop, class)."""
    data, random = Toytown(split, length=scenes), torch.Generator().manual_seed(0)
    found = [[] for _ in NAMES]
    for item in range(scenes):
        scene = toytown.scene(data.scene_index(item), SIZE)
        for kind, row, column in places(scene, random):
            if 20 <= row <= SIZE - 20 and 20 <= column <= SIZE - 20:
                rows, columns = slice(row - 20, row + 20), slice(column - 20, column + 20)
                found[kind].append(scene.image[:, rows, columns])
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
from segviz.training import evaluate, fit

history = fit(classifier, train, steps=400, batch_size=64, lr=2e-3,
              title="crop classifier")
result = evaluate(classifier, val)
print(f"{result.pixel_accuracy:.0%} of the crops are right; a guess would be right on 25 %")

# %%
assert result.pixel_accuracy > 0.65
figure, (ax,) = draw.panels(1, size=2.8)
draw.confusion(ax, result.counts, NAMES);

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
# and the scene gave 64 · 14 · 14 = 12,544, because its last map has 14 × 14 places. Its **size is
# fixed**.
#
# And it throws **place** away. Whatever stood at the left of the map or at the right, above or
# below, is added into one number; the 64 sums that come out have no place any more. It does not
# even know which of its inputs are neighbours.
#
# **Predict:** shuffle the 576 inputs, in one and the same way for every crop, and the columns of
# the matrix likewise. How much does the answer change?

# %%
first = classifier[12]
features = classifier[:12](val[0][0][None])            # (1, 576), behind Flatten
shuffle = torch.randperm(576)
shuffled = nn.functional.linear(features[:, shuffle], first.weight[:, shuffle], first.bias)
assert torch.allclose(shuffled, first(features), atol=1e-5)
(shuffled - first(features)).abs().max().item()

# %% [markdown]
# Only in the last bits: the same products are added in another order. To a fully connected layer
# one order of the inputs is as good as any other. To a convolution neighbours are neighbours.
#
# ## The same numbers, held differently
#
# One row of the matrix multiplies all 576 numbers of a 64 × 3 × 3 map and adds up. That is what
# *one filter* of a 3 × 3 convolution does at *one place*. There are 64 rows, so there are 64
# filters.
#
# **Exercise 1.** Fold the rows back into filters, for any matrix. Which number goes where?
# `Flatten` lays out channel after channel, and each channel row by row.

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
# Here it is done for our layer (a spoiler, if you have not solved it yet).
#
# **Predict:** fed the same 3 × 3 map, which shape comes out of the convolution, and how far are its
# numbers from the FC layer's?

# %%
filters = first.weight.view(64, 64, 3, 3)              # (outputs, channels, height, width)
conv = nn.Conv2d(64, 64, kernel_size=3)
conv.weight.data, conv.bias.data = filters.detach().clone(), first.bias.detach().clone()
feature_map = classifier[:11](val[0][0][None])         # (1, 64, 3, 3), before Flatten
difference = (conv(feature_map).flatten() - first(features).flatten()).abs().max().item()
assert difference < 1e-5
tuple(conv(feature_map).shape), difference

# %% [markdown]
# One answer, at one place, and the same to the last bits. **Nothing was approximated and nothing
# was trained.**
#
# The second FC layer reads 64 numbers at one place. **Predict** the kernel of *its* convolution.
#
# **Exercise 2.** Convert a whole head: `Flatten`, `Linear`, `ReLU`, `Linear`.

# %%
def fully_convolutional(head, channels, k):
    """head: nn.Sequential(Flatten, Linear, ReLU, Linear) that read (channels, k, k) maps
    -> a network of convolutions with the same weights, which maps (B, channels, H, W)
    to scores (B, classes, H - k + 1, W - k + 1)."""
    ...

# %%
exercises.fully_convolutional.check(fully_convolutional)

# %% [markdown]
# The package has a line for it. The second layer's kernel is 1 × 1.

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
# × 40 pixels. **Predict** how far apart neighbouring windows are. (Count the poolings.)

# %%
def in_place(cells):
    """A map of cells, each drawn over the 8 x 8 pixels at the middle of its window."""
    blocks = cells.repeat_interleave(8, -2).repeat_interleave(8, -1)
    border = (WINDOW - 8) // 2               # no window's middle is nearer to the edge
    return nn.functional.pad(blocks, [border] * 4)

chances = answers.softmax(1)[0]                        # (4, 12, 12)
figure, axes = draw.panels(4, size=2.3, titles=("the scene", "car?", "boat?", "tree?"))
draw.image(axes[0], scene.image)
for ax, kind in zip(axes[1:], (1, 2, 3), strict=True):
    draw.heat(ax, in_place(chances[kind]))

# %% [markdown]
# There is the *where*: bright cells on the car, the boats, the trees. The classifier was told what
# is in the middle of a crop, never where the crop came from. (It is fooled, too. Where? We come
# back to that.)
#
# Three poolings each keep every second place: 2 · 2 · 2 = **8 pixels** from one window to the next.
# That is the network's **stride**.
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
# Are these really the old classifier's answers? Cut out all 144 windows, and ask it about each.

# %%
def slide(network, image):
    """The answer to each window of an image, cut out: (classes, rows, columns)."""
    windows = image.unfold(1, WINDOW, 8).unfold(2, WINDOW, 8)      # (3, 12, 12, 40, 40)
    rows, columns = windows.shape[1:3]
    batch = windows.permute(1, 2, 0, 3, 4).reshape(-1, 3, WINDOW, WINDOW)
    return network(batch).T.reshape(-1, rows, columns)

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
    return counter.get_total_flops() / 2     # it counts a multiplication and an addition as two

windows = multiply_adds(lambda: slide(classifier, scene.image))
at_once = multiply_adds(lambda: everywhere(scene.image[None]))
assert windows > 8 * at_once
print(f"{windows / 1e6:.0f} million against {at_once / 1e6:.0f} million: "
      f"{windows / at_once:.1f} times as many")

# %% [markdown]
# Neighbouring windows overlap. An inner pixel lies in 40 / 8 = 5 of them down and 5 across, 25 in
# all, and window by window its first features are computed 25 times. The convolution computes them
# once and shares them. (Less than 25 is saved in all: pixels near the border lie in fewer windows,
# and the last layers share nothing.) And on the clock?

# %%
from time import perf_counter

def seconds(run, repeats=5):
    with torch.no_grad():
        run()                                # once to warm up
        start = perf_counter()
        for _ in range(repeats):
            run()
    return (perf_counter() - start) / repeats

ratio = (seconds(lambda: slide(classifier, scene.image))
         / seconds(lambda: everywhere(scene.image[None])))
assert ratio > 3
print(f"{ratio:.0f} times as long, on this machine")

# %% [markdown]
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
    at_once = padded_everywhere(scene.image[None])[0]
same = (one_by_one.argmax(0) == at_once.argmax(0)).float().mean()
print(f"largest difference {(one_by_one - at_once).abs().max():.3f}; "
      f"the best class agrees in {same:.0%} of the cells")
assert (one_by_one - at_once).abs().max() > 1e-3

# %% [markdown]
# This network is not trained, so the differences are small; but they are not rounding.
#
# > **Myth or measured?** *"A fully convolutional network gives exactly what sliding the classifier
# > would."* Only **without padding**. A crop that is cut out has zeros at its edge; the same place
# > inside the scene has its neighbours there.
#
# ## Move it yourself
#
# Below is the trained classifier, everywhere at once. Move the car with the mouse or the arrow
# keys, change the size of the input, and point at a cell of the map to see the window behind it.
#
# **Predict**, then try:
#
# 1. Make the input 40 × 40. How many cells are left?
# 2. Move the car by four presses of an arrow key. Does its bright patch keep its shape? By eight?
# 3. At 128 × 128, push the car against the right edge. Where is it lost, and why?

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
# Eight pixels move the car's patch by one cell, as it is. Four change its shape: half-way between
# two cells there is no cell. The network's answers lie on a grid of 8 pixels.
#
# At the edge the car is lost because no window has it in the middle: the last window ends at the
# edge, and its middle is 20 pixels away. The classifier has only learned things in the middle.
#
# ## The failure to take along
#
# Is this a segmentation? Give each answer to the 8 × 8 pixels at the middle of its window, and
# score it against the truth, over 50 scenes.

# %%
def truth_of(mask):
    """Toytown's label map in this lesson's four classes; void stays void."""
    result = torch.zeros_like(mask)
    for kind, label in enumerate(LABELS[1:], start=1):
        result[mask == label] = kind
    return result.masked_fill(mask == 255, 255)

def coarse_map(image):
    with torch.no_grad():
        return in_place(everywhere(image[None]).argmax(1)[0])      # the border: 0, other

pictures = [toytown.scene(3 * i + 1, SIZE) for i in range(50)]      # the validation split
counts = sum(metrics.confusion_matrix(coarse_map(s.image), truth_of(s.mask), 4)
             for s in pictures)
for name, iou in zip(NAMES, metrics.class_iou(counts), strict=True):
    print(f"{name:<6}{iou:.2f}")

# %% [markdown]
# **Predict:** the pixel accuracy of this map, and that of a map that says "other" everywhere.

# %%
accuracy = metrics.pixel_accuracy(counts)
blind = (counts.sum(1).max() / counts.sum()).item()
print(f"its pixel accuracy {accuracy:.3f}    \"other\" everywhere {blind:.3f}")
called, true = counts[:, 2].sum().item(), counts[2].sum().item()
print(f"{called} pixels are called boat, and {true} are")
assert accuracy < blind and called > 2 * true

# %%
assert metrics.class_iou(counts)[1:].max() < 0.6
figure, axes = draw.panels(6, size=1.8)
palette = draw.PALETTE[[4, 8, 9, 2]]
for k, s in enumerate((pictures[7], pictures[12])):
    draw.image(axes[3 * k], s.image)
    draw.labels(axes[3 * k + 1], coarse_map(s.image), "its answers", palette)
    draw.labels(axes[3 * k + 2], truth_of(s.mask), "truth", palette)

# %% [markdown]
# Pink is car, wine boat, green tree; black is void. The cars are there, as heaps of bricks.
# Measured by accuracy the map is worse than no map at all. Three things are wrong with it:
#
# - It raises **false alarms**: it sees boats and trees where there are none. In its training a
#   quarter of the crops were "other"; in a scene nearly everything is. A network that is to label
#   pixels should be *trained* on whole scenes, pixel by pixel, as in lesson 0.
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
#   stride + 1 on each side, rounded down.
# - Without padding that equals sliding it window by window, at a fraction of the cost.
# - The map is coarse, because of the stride, and blurred, because of the window.

# %%
mean_iou = metrics.mean_iou(counts)
print("Scoreboard: Toytown at 128 x 128, 50 scenes, classes other, car, boat, tree")
print(f"crop classifier, everywhere   pixel accuracy {accuracy:.3f}    mean IoU {mean_iou:.3f}")

# %% [markdown]
# **Sources.** Long, Shelhamer, Darrell: *Fully Convolutional Networks for Semantic Segmentation*,
# CVPR 2015, section 3.1 (classifiers as fully convolutional networks). Sermanet et al.: *OverFeat*,
# ICLR 2014, section 3.5 (a classifier's layers as convolutions, and why sliding them is cheap).
# Ciresan et al.: *Deep Neural Networks Segment Neuronal Membranes in Electron Microscopy Images*,
# NIPS 2012 (segmentation by sliding a classifier). Words: fully connected layer 완전 연결 계층, stride
# 스트라이드, sliding window 슬라이딩 윈도.
