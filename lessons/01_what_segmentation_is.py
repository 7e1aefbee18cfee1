# %% [markdown]
# # 1 · What segmentation is
#
# *30 minutes. You will tell apart five questions that one picture can be asked, build the field's
# main scores by hand, and learn which of them to believe. Builds on lesson 0.*

# %%
from segviz import course
course.banner("01")

# %% [markdown]
# Lesson 0 ended with a number that looked good beside pictures that were wrong. Here is that
# network again: trained anew, a little shorter. Let it run while you read on.

# %%
import torch
import torch.nn.functional as F

from segviz import draw, metrics
from segviz.data import Toytown, toytown
from segviz.models import FCN8s
from segviz.training import evaluate, fit, predict

CLASSES = toytown.CLASSES
torch.manual_seed(0)
train, val = Toytown("train", length=600), Toytown("val", length=100)
network = FCN8s(num_classes=10, width=8, padding=1)
history = fit(network, train, steps=300, batch_size=8, lr=2e-3,
              watch=val[7][0], title="FCN-8s")

# %% [markdown]
# ## One scene, five questions
#
# Here is one scene. Toytown drew it, so it can answer every question about it without error.

# %%
scene = toytown.scene(25, size=192)
figure, (ax,) = draw.panels(1, size=4)
draw.image(ax, scene.image);

# %% [markdown]
# **Classification:** *what is in the picture?* The answer is a list of names. It has no places.

# %%
present = [CLASSES[i] for i in scene.mask.unique().tolist() if i != toytown.VOID]
print(", ".join(present))

# %% [markdown]
# **Localisation:** *where is the one main thing?* One name, one box: left, top, right, bottom.

# %%
things = [thing for thing in scene.objects if thing.visible > 120]    # large enough to see
vehicles = [thing for thing in things if thing.name in ("car", "boat")]
main = max(vehicles, key=lambda thing: thing.visible)
main.name, main.box

# %% [markdown]
# **Detection:** *where is every thing?* As many boxes as there are things. A detector has to find
# out how many.

# %%
[(thing.name, thing.box) for thing in things][:5], len(things)

# %% [markdown]
# **Semantic segmentation:** *what does each pixel show?* One class for each pixel. Sky and water,
# which have no box worth drawing, get their due.
#
# **Instance segmentation:** *which pixels belong to which thing?* Two houses that touch are one
# region of the semantic map and two instances. Sky is no instance at all.
#
# **Predict:** on which of the two maps could you count the houses on the left of the street?

# %%
titles = ("classification", "localisation", "detection", "semantic", "instance")
figure, axes = draw.panels(3, rows=2, size=3, titles=titles)
for ax in axes[:3]:
    draw.image(ax, scene.image)
frame = {"facecolor": "black", "alpha": 0.65}
axes[0].text(4, 8, "\n".join(present), color="white", va="top", fontsize=8, bbox=frame)
draw.boxes(axes[1], [main])
draw.boxes(axes[2], things, names=False)
draw.labels(axes[3], scene.mask)
draw.instances(axes[4], scene.image, scene.instances)
draw.legend(axes[5], CLASSES);

# %% [markdown]
# Only on the instance map: in the semantic map the row of houses is one sandy region.
#
# Countable **things** (cars, houses) differ from shapeless **stuff** (sky, water). Asking for both
# at once, a class everywhere and an instance for each thing, is called *panoptic* segmentation
# (Kirillov et al. 2019).
#
# In this course the fourth question is ours. Where it is asked:
#
# - **Medicine**: outline cells, organs, tumours. U-Net was made for cells under a microscope
#   (lesson 8).
# - **Driving**: where is road, where is pavement, where is somebody? The benchmark Cityscapes
#   defines 30 such classes and scores 19 of them.
# - **Photography**: blur what is behind a person, replace a sky, cut something out.
# - **Interfaces**: a video call shows another room behind you; a virtual sofa stands on the real
#   floor.

# %% [markdown]
# ## Label maps, palettes, void
#
# A label map is a picture of *names*, not of brightness. The palette, which paints class 6 in a
# bluish green, can be changed at will. The numbers cannot.

# %%
corner = toytown.scene(25, size=96).mask[40:60, 30:60]
figure, axes = draw.panels(2, size=3, titles=("our palette", "another one, the same map"))
draw.labels(axes[0], corner)
draw.labels(axes[1], corner, palette=draw.PALETTE[::-1])
corner[:3, :12]

# %% [markdown]
# The dark pixels hold **255: void**. There the border between two things runs through a pixel, and
# neither has a clear majority in it. The benchmark PASCAL VOC draws such a rim around every object.
# Void pixels are left out of the loss and of every score.
#
# Names cannot be averaged. **Predict:** we shrink a label map as one shrinks a photograph, by
# mixing neighbours. What lies half-way between *road* (4) and *car* (8)?

# %%
x0, y0, x1, y1 = next(thing.box for thing in things if thing.name == "car")
piece = scene.mask[y0 - 6:y1 + 6, x0 - 6:x1 + 6]
piece = piece.masked_fill(piece == 255, CLASSES.index("road"))     # no void, for this test
nearest = piece[::2, ::2]
halved = F.interpolate(piece[None, None].float(), scale_factor=0.5, mode="bilinear")
mixed = halved[0, 0].round().long()

# %%
titles = ("the car", "half the size: every other pixel", "half the size: mixed")
figure, axes = draw.panels(3, size=2.8, titles=titles)
for ax, label_map in zip(axes, (piece, nearest, mixed), strict=True):
    draw.labels(ax, label_map)

# %%
water = CLASSES.index("water")
invented = (mixed == water).sum().item()
assert (4 + 8) / 2 == water and (piece == water).sum() == 0 and invented > 0
print(f"{invented} pixels around the car have become water")

# %% [markdown]
# Half-way between 4 and 8 lies 6: **water**, where there is none. So masks are resized by *nearest
# neighbour*: a pixel takes one neighbour's name and never a mixture.

# %% [markdown]
# ## Counting: the confusion matrix
#
# How good is a prediction? Take twelve pixels and three classes. 0 is sky, 1 is house, 2 is pole.

# %%
truth = torch.tensor([[0, 0, 0, 2], [1, 1, 0, 2], [1, 1, 1, 255]])
guess = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 2], [1, 1, 1, 1]])
figure, axes = draw.panels(2, size=2, titles=("truth", "guess"))
draw.labels(axes[0], truth, palette=draw.PALETTE[[0, 1, 7]])
draw.labels(axes[1], guess, palette=draw.PALETTE[[0, 1, 7]]);

# %% [markdown]
# **Predict**, with your finger on the screen: how many pixels are truly house, and called sky?
#
# Make a table. Row: what it *is*. Column: what it was *called*. Add one for each pixel, and none
# for void.

# %%
counts = torch.zeros(3, 3, dtype=torch.long)
for is_, called in zip(truth.flatten(), guess.flatten(), strict=True):
    if is_ != 255:
        counts[is_, called] += 1
counts

# %% [markdown]
# This is the **confusion matrix**. What is right lies on the diagonal. The package counts in the
# same way, only faster:

# %%
assert torch.equal(metrics.confusion_matrix(guess, truth, num_classes=3), counts)

# %% [markdown]
# **Pixel accuracy** is the share of the diagonal: what fraction of the pixels is right?

# %%
accuracy = counts.diagonal().sum() / counts.sum()
assert accuracy == 9 / 11 and metrics.pixel_accuracy(counts) == 9 / 11
accuracy

# %% [markdown]
# **Intersection over union** looks at one class. Here it is the pole. It truly covers two pixels,
# it was found on one, and nothing else was called pole. The two maps agree on 1 pixel (the
# intersection), and cover 2 together (the union).

# %%
pole_true, pole_guess = truth == 2, guess == 2
intersection = (pole_true & pole_guess).sum()
union = (pole_true | pole_guess).sum()
intersection / union

# %% [markdown]
# The same number stands in the table. Intersection: the diagonal. Union: the row and the column,
# less what was counted twice.

# %%
hits, row, column = counts[2, 2], counts[2].sum(), counts[:, 2].sum()
assert hits / (row + column - hits) == intersection / union

# %% [markdown]
# **Mean IoU** is the plain mean over the classes: each *class* has one vote, however few pixels it
# has. That is the field's main score. (Two relatives you may meet: **Dice**, 2 hits / (row +
# column), and **frequency-weighted IoU**, where each class weighs as much as it has pixels.)
#
# **Predict:** what is the IoU of a class that occurs neither in the truth nor in the prediction?
#
# **Exercise 1.** Write the IoU of all classes at once, for any confusion matrix. A class that
# occurs nowhere was neither found nor missed: it gets NaN, *not a number*, and is left out of the
# mean.

# %%
from segviz.exercises import lesson_01 as exercises


# %%
def class_iou(counts):
    """counts (C, C), rows: truth, columns: prediction -> IoU of each class (C,);
    NaN for a class that occurs in neither."""
    ...

# %%
exercises.class_iou.check(class_iou)

# %% [markdown]
# ## Why accuracy lies
#
# Now the network. It has labelled 100 scenes that it had never seen, and here are its counts: each
# row shows where the pixels of one class went.

# %%
scores = evaluate(network, val)
figure, (ax,) = draw.panels(1, size=4.5)
draw.confusion(ax, scores.counts, CLASSES);

# %%
def show(counts):
    accuracy, mean_iou = metrics.pixel_accuracy(counts), metrics.mean_iou(counts)
    print(f"pixel accuracy {accuracy:.3f}    mean IoU {mean_iou:.3f}")

show(scores.counts)
share = dict(zip(CLASSES, (scores.counts.sum(1) / scores.counts.sum()).tolist(), strict=True))
assert share["sky"] + share["grass"] + share["building"] > 0.5
assert scores.pixel_accuracy > scores.mean_iou + 0.2

# %% [markdown]
# Two scores, one prediction, and they disagree. **Predict** whom to believe: read the rows of
# *pole*, *marking* and *boat*.
#
# Pixel accuracy has one vote for each *pixel*, and most pixels are sky, grass and houses. How far
# would one get with the pole class gone?

# %%
val_mask = val.tensors()[1]
without_poles = val_mask.clone()
without_poles[val_mask == CLASSES.index("pole")] = CLASSES.index("sky")
without_poles[val_mask == 255] = 0                     # void: whatever stands there is not counted
counts = metrics.confusion_matrix(without_poles, val_mask, num_classes=10)
show(counts)
assert metrics.pixel_accuracy(counts) > 0.97 and metrics.mean_iou(counts) < 0.91

# %% [markdown]
# Every pole is gone and the accuracy says: nearly perfect. Mean IoU loses a tenth, the whole vote
# of one class in ten.
#
# > **Myth or measured?** *"Mean IoU is the honest score, accuracy the dishonest one."* Each answers
# > its own question. Mean IoU lets a class with a hundred pixels weigh as much as the sky, so one
# > tiny, noisy class can move it a lot. Look at the classes, not only at the mean.
#
# **Exercise 2.** Before you believe an accuracy, ask how accurate the best prediction is that has
# not looked at all: one class, everywhere.

# %%
def blind_accuracy(counts):
    """counts (C, C), rows: truth -> the best pixel accuracy of a prediction
    that is one class everywhere."""
    ...

# %%
exercises.blind_accuracy.check(blind_accuracy)

# %% [markdown]
# ## Where the errors are: boundary IoU
#
# A large region can have a fine IoU and a ragged edge: its inside is so large that the edge hardly
# counts. **Boundary IoU** (Cheng et al. 2021) looks at the edge alone. From each mask it keeps only
# the band of pixels within `width` of its own contour; then it does IoU as before.
#
# Is something *outside* the mask near a pixel? The largest value around it tells: a max pooling.

# %%
def band(mask, width):
    """The pixels of a mask (H, W) that have something outside it within `width`."""
    outside = F.pad((~mask).float()[None, None], [width] * 4, value=1.0)     # (1, 1, H, W)
    near = F.max_pool2d(outside, 2 * width + 1, stride=1)[0, 0] > 0
    return mask & near

square = torch.zeros(9, 9, dtype=torch.bool)
square[2:7, 2:7] = True
band(square, 1).int()

# %% [markdown]
# Now two large discs, one moved by three pixels. Yellow is in both masks, green in one.

# %%
yy, xx = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
disc = (yy - 32) ** 2 + (xx - 32) ** 2 < 24**2
moved = disc.roll(3, dims=1)

# %%
figure, axes = draw.panels(4, size=2, titles=("truth", "moved by 3", "both", "both bands"))
draw.heat(axes[0], disc.float())
draw.heat(axes[1], moved.float())
draw.heat(axes[2], (disc.float() + moved) / 2)
draw.heat(axes[3], (band(disc, 2).float() + band(moved, 2)) / 2);

# %% [markdown]
# **Predict** both scores before you run: IoU of the discs, and of their bands.

# %%
iou = ((disc & moved).sum() / (disc | moved).sum()).item()
a, b = band(disc, 2), band(moved, 2)
band_iou = ((a & b).sum() / (a | b).sum()).item()
print(f"IoU {iou:.2f}    boundary IoU {band_iou:.2f}")
assert iou > 0.8 and band_iou < 0.5

# %%
counted = metrics.boundary_iou(moved.long(), disc.long(), num_classes=2, width=2)[1]
assert abs(counted - band_iou) < 1e-6

# %% [markdown]
# Moved by three, bands that are two pixels wide miss each other nearly everywhere.
#
# **Exercise 3.** Write boundary IoU for any two masks. `band` may help.

# %%
def boundary_iou(truth, guess, width):
    """truth, guess: bool (H, W) -> the IoU of their contour bands, `width` pixels wide."""
    ...

# %%
exercises.boundary_iou.check(boundary_iou)

# %% [markdown]
# ## Play with a prediction
#
# The prediction below is perfect, until you disturb it. Take one class and shift it, grow it,
# shrink it, or drop it.
#
# **Predict**, then try:
#
# 1. Shift *pole* by two pixels. Which score falls, and which hardly notices?
# 2. Do the same with *sky*.
# 3. Shrink *building* by two. Which falls further, its IoU or the mean boundary IoU?
# 4. Keep pixel accuracy above 0.99. How low can you bring mean IoU?

# %%
from segviz.widgets import ScoresExplorer

street = toytown.scene(25, size=96)
explorer = ScoresExplorer(street.image, street.mask, CLASSES, disturb="pole")
explorer

# %% [markdown]
# What you should have seen, as numbers (IoU and boundary IoU are those of the class itself):

# %%
def disturbed(name, **change):
    prediction, c = explorer.predict(name, **change), CLASSES.index(name)
    counts = metrics.confusion_matrix(prediction, street.mask, 10)
    iou = metrics.class_iou(counts)[c].item()
    edge = metrics.boundary_iou(prediction, street.mask, 10)[c].item()
    print(f"{name:<9}{change!s:<15}IoU {iou:.3f}  boundary IoU {edge:.3f}    ", end="")
    show(counts)
    return metrics.pixel_accuracy(counts), iou, edge

pole, sky = disturbed("pole", right=2), disturbed("sky", right=2)
building, car = disturbed("building", grow=-2), disturbed("car", drop=True)

# %%
assert pole[0] > 0.9 and pole[1] < 0.3 and sky[1] > 0.9
assert building[2] < 0.5 * building[1]
assert car[0] > 0.98 and car[1] == 0

# %% [markdown]
# The thinner a thing is, the more a small shift costs it. A network does not have to be "bad at
# poles": to be two pixels off is enough. Shrinking spoils the edge alone, and boundary IoU says so.
# And a class that covers few pixels can be dropped altogether at almost no cost in accuracy.

# %% [markdown]
# ## Add first, divide once
#
# One question is left. You have 100 images. Do you compute the mean IoU of each, and average? Or
# add up all the counts, and divide once? The benchmarks (PASCAL VOC, Cityscapes) add first.
#
# **Exercise 4.** Write the score of a data set, as the benchmarks do.

# %%
def dataset_mean_iou(matrices):
    """matrices: one confusion matrix (C, C) for each image -> the data set's mean IoU,
    one number."""
    ...

# %%
exercises.dataset_mean_iou.check(dataset_mean_iou)

# %% [markdown]
# Does it matter? Here are both, for the network's predictions.

# %%
def both(matrices):
    averaged = sum(metrics.mean_iou(counts) for counts in matrices) / len(matrices)
    return averaged, metrics.mean_iou(sum(matrices))

per_image = [metrics.confusion_matrix(predict(network, image), mask, 10)
             for image, mask in val]
averaged, added = both(per_image)
print(f"averaged over images {averaged:.3f}    from the added counts {added:.3f}")
assert averaged != added

# %% [markdown]
# They differ. To see why, cause it. Two predictions, both perfect but for one weakness:
#
# - the **short-sighted** one misses the boats of every image that shows fewer than 60 pixels of
#   them (it says water);
# - the **careless** one is perfect on nine images of ten, and paints the tenth all boat.
#
# **Predict:** for each of the two, which number is higher, the average over images or the one from
# the added counts?

# %%
def short_sighted(number, mask):
    boats = mask == CLASSES.index("boat")
    return mask.masked_fill(boats, CLASSES.index("water")) if boats.sum() < 60 else mask

def careless(number, mask):
    return torch.full_like(mask, CLASSES.index("boat")) if number % 10 == 0 else mask

# %%
results = {}
for weakness in (short_sighted, careless):
    guesses = [weakness(i, m).masked_fill(m == 255, 0) for i, m in enumerate(val_mask)]
    averaged, added = both([metrics.confusion_matrix(guess, m, 10)
                            for guess, m in zip(guesses, val_mask, strict=True)])
    results[weakness] = averaged, added
    print(f"{weakness.__name__:<14} averaged {averaged:.3f}    added {added:.3f}")

# %%
assert results[short_sighted][0] < results[short_sighted][1] - 0.02
assert results[careless][0] > results[careless][1] + 0.01

# %% [markdown]
# The order can go either way. Averaging over images, five pixels of a far boat weigh as much as
# another image's five hundred, so the short-sighted one is punished hard. The careless one gets off
# lightly: a ruined image costs the average one image's worth. Added up, all those pixels that were
# wrongly called boat count against *boat*, a small class, and sink its IoU.
#
# A paper or a library that averages over images, or over batches, reports a number that cannot be
# compared with the benchmarks'.

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
each = [metrics.mean_iou(counts) for counts in per_image]
ax.hist(each, bins=20, color="#88CCEE", edgecolor="white")
averaged, added = both(per_image)
ax.axvline(averaged, color="#332288", label="mean over images")
ax.axvline(added, color="#CC6677", linestyle="--", label="counts added first")
ax.set(xlabel="mean IoU of one image", ylabel="images")
ax.yaxis.get_major_locator().set_params(integer=True)
ax.legend(frameon=False);

# %% [markdown]
# ## The failure to take along
#
# Suppose we had the best *classifier* in the world: for each scene it names, without error, every
# class that occurs. But no places. Turn its answer into a label map: all it can do is to paint the
# whole picture with the most common of the classes it has named.

# %%
train_mask = train.tensors()[1]
share = torch.bincount(train_mask.flatten(), minlength=256)[:10]
blind = []
for mask in val_mask:
    named = [c for c in mask.unique().tolist() if c != 255]    # a perfect classification
    commonest = max(named, key=lambda c: share[c])
    blind.append(torch.full_like(mask, commonest))
counts = metrics.confusion_matrix(torch.stack(blind), val_mask, num_classes=10)
show(counts)
assert metrics.mean_iou(counts) < 0.1

# %% [markdown]
# Every *what* is right, and the map is worth nothing, because *where* is missing. Yet classifying
# is what networks did best in 2014. How does one get a *where* out of a network that was built to
# forget it? That is lesson 2.
#
# ## What was shown
#
# - One picture can be asked five questions. Semantic segmentation asks for a class at every pixel.
# - A label map holds names: never mix them, never count void.
# - Accuracy and IoU come from one table of counts: accuracy has one vote a pixel, mean IoU one a
#   class. Boundary IoU counts along contours.
# - Over a data set: add first, divide once.

# %%
print("Scoreboard: Toytown at 96 x 96, 100 scenes")
print("classified without error, no places  ", end="")
show(counts)
print("FCN-8s, width 8, 300 steps           ", end="")
show(scores.counts)

# %% [markdown]
# **Sources.** Long, Shelhamer, Darrell: *Fully Convolutional Networks for Semantic Segmentation*,
# CVPR 2015, section 5 (the four scores). Everingham et al.: *The PASCAL Visual Object Classes
# Challenge: A Retrospective*, IJCV 2015 (segmentation accuracy is intersection over union; void).
# Cordts et al.: *The Cityscapes Dataset for Semantic Urban Scene Understanding*, CVPR 2016.
# Kirillov et al.: *Panoptic Segmentation*, CVPR 2019. Cheng et al.: *Boundary IoU*, CVPR 2021.
# Words: confusion matrix 혼동 행렬, intersection over union 합집합 대비 교집합 비율, instance segmentation 인스턴스
# 분할.
