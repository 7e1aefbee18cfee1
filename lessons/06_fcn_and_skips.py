# %% [markdown]
# # 6 · FCN and skips
#
# *60 minutes. You will turn VGG16 into a fully convolutional network, measure what it says in steps
# of 32 pixels, and see what two skips from earlier layers add, and what they do not. Builds on
# lessons 2, 4 and 5.*

# %%
from segviz import course
course.banner("06")

# %% [markdown]
# Lesson 5 ended with a loss. Take the true shares of every class in blocks of 8 × 8 pixels, make
# them large again by straight lines, and the poles are gone: thinner than what a block can say.
# VGG16 pools five times, so its blocks are 32 × 32. How much of the truth comes through those?
#
# **Predict** the mean IoU of scenes of 64 × 64 after blocks of 32, of 16, of 8.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, losses, metrics
from segviz.data import Toytown, toytown
from segviz.training import evaluate, fit, predict

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another
train, val = Toytown("train", size=64, length=600), Toytown("val", size=64, length=80)
images, masks = val.tensors()

# %%
def through_blocks(masks, block):
    """Label maps (B, H, W), after they have passed through shares of block x block."""
    one_hot = F.one_hot(masks.clamp(max=10), 11)[..., :10]   # void (255) counts for none
    shares = F.avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), block)
    return F.interpolate(shares, size=masks.shape[1:], mode="bilinear").argmax(1)

kept = {block: metrics.confusion_matrix(through_blocks(masks, block), masks, 10)
          for block in (32, 16, 8)}
{block: round(metrics.mean_iou(counts), 3) for block, counts in kept.items()}

# %%
figure, axes = draw.panels(5, size=2.1, titles=("scene", "through 32", "16", "8", "truth"))
draw.image(axes[0], images[4])
for ax, block in zip(axes[1:], kept, strict=False):
    draw.labels(ax, through_blocks(masks[4:5], block)[0])
draw.labels(axes[4], masks[4])
through = [metrics.mean_iou(counts) for counts in kept.values()]
assert through[0] < 0.3 < through[1] < 0.45 < through[2] < 0.65

# %% [markdown]
# (The colours, as in every lesson: sky light blue, building sand, tree dark green, grass olive,
# road grey, marking purple, water teal, pole dark blue, car rose, boat wine red; void black.)
#
# It is no limit: kernels that learn can draw more than straight lines do, and with blocks of 32
# much more. But it says what is hard. The authors of FCN asked the same of the photographs of VOC:
# 86.1, 92.8 and 96.4 percent (appendix A). Objects there are large, some hundred pixels across.
# Ours are small: what these three networks differ in will show much more here. Keep that in mind
# for the end.

# %% [markdown]
# ## A classifier becomes a map
#
# VGG16 is thirteen 3 × 3 convolutions in five stages, each closed by a pooling (pool1 to pool5),
# then three fully connected layers (fc6, fc7 and the scores). Lesson 2 turned one such layer into a
# convolution. Here is the real network: torchvision's, with random weights, and ours, all
# convolutions. The numbers are carried over.

# %%
import torchvision
from segviz.models import vgg

classifier = torchvision.models.vgg16(init_weights=False).eval()
convolutional = vgg.VGG16().eval()
vgg.copy_classifier(convolutional, classifier.state_dict())
parameters = sum(p.numel() for p in convolutional.parameters())
assert parameters == 138_357_544 == sum(p.numel() for p in classifier.parameters())
f"{parameters:,} parameters"

# %% [markdown]
# **Predict:** what shape does each answer with for a photograph of 224 × 224? Are the numbers the
# same? And what does ours say to 256 × 320?

# %%
torch.manual_seed(0)
with torch.no_grad():
    photograph = torch.randn(1, 3, 224, 224)
    one, same = classifier(photograph), convolutional(photograph)
    wide = convolutional(torch.randn(1, 3, 256, 320))
assert torch.allclose(one, same[:, :, 0, 0], atol=1e-5)
tuple(one.shape), tuple(same.shape), tuple(wide.shape)

# %% [markdown]
# The same thousand scores, and on a larger picture a thousand scores at each of 2 × 4 places, 32
# pixels apart. With an internet connection, `vgg.imagenet_weights()` fetches weights that a million
# photographs have trained. Here we train from nothing, and thinner: `width=8` instead of 64.

# %%
del classifier, convolutional, photograph, wide         # a gigabyte

# %% [markdown]
# ## Rare classes
#
# Before we train: a class with few pixels counts for little in a loss that is a mean over pixels.
# How few are they?

# %%
masks_seen = train.tensors()[1]
counts = torch.stack([torch.bincount(mask[mask < 10], minlength=10) for mask in masks_seen])
names = toytown.CLASSES
for name, share in zip(names, counts.sum(0) / counts.sum(), strict=True):
    print(f"{name:<10}{share:.1%}")

# %% [markdown]
# **Median frequency balancing** (Eigen, Fergus 2015): the frequency of a class is its share of the
# pixels *in those images that hold it*; its weight is the median of all frequencies over its own.
# So a class in the middle weighs 1, a rare one more, a common one less.
#
# **Exercise 1.** Write it. `counts` (N, C) has the pixels of each class in each of N images.

# %%
def class_weights(counts):
    """counts (N, C), pixels of each class in each image -> weights (C,). Every class is in
    some image, and C is odd, so that one class is in the middle."""
    ...

# %%
from segviz.exercises import lesson_06 as exercises

# %%
exercises.class_weights.check(class_weights)

# %%
full = losses.class_weights(counts)
weights = full.sqrt()
for name, one, root in zip(names, full, weights, strict=True):
    print(f"{name:<10}{one:5.2f}    square root {root:.2f}")

# %% [markdown]
# With ten classes the median lies between two of them, water and tree. The authors of FCN tried
# balancing and found it unnecessary, though three quarters of VOC is background. SegNet's authors
# found that it raises the classes' mean accuracy and lowers that of all pixels. We take the square
# root: half the way.

# %% [markdown]
# ## FCN-32s
#
# Now replace the last layer by one that scores our ten classes, and enlarge its map 32 times, as in
# lesson 4: a transposed convolution with kernel 64 and stride 32, bilinear to begin with, and free
# to learn. That is FCN-32s. (In the paper this last enlarging stays bilinear; ours learns.)
#
# FCN-16s and FCN-8s, which come later in this lesson, enlarge their last map 16 and 8 times.
# **Predict:** which of the three has the most parameters? (21 classes, as VOC has.)

# %%
from segviz.models import FCN8s, FCN16s, FCN32s

with torch.device("meta"):                              # shapes without numbers
    sizes = {model.__name__: sum(p.numel() for p in model(21).parameters())
             for model in (FCN32s, FCN16s, FCN8s)}
assert list(sizes.values()) == [136_152_917, 134_815_994, 134_489_759]
sizes

# %% [markdown]
# The coarsest. To enlarge 32 times it needs a kernel of 64 × 64, for each of 21 × 21 pairs of
# classes: 1.8 million weights. FCN-8s does with 16 × 16. (Nearly all of the rest, 119.5 million, is
# fc6 and fc7.)
#
# Now train, and read on meanwhile.

# %%
def network(model, seed=0):
    torch.manual_seed(seed)
    return model(num_classes=10, width=8, padding=1)      # padding: see below

settings = {"steps": 600, "batch_size": 6, "lr": 3e-3, "class_weights": weights}

# %%
fcn32 = network(FCN32s)
fit(fcn32, train, **settings, title="FCN-32s")

# %% [markdown]
# **Predict:** what will its masks look like? Which class will have the best IoU, which the worst?

# %%
few = ("pole", "marking", "car", "boat")                           # thin or small
few_of = [names.index(name) for name in few]

def line(name, scores):
    return (f"{name:<12} mean IoU {scores.mean_iou:.3f}"
            f"    boundary IoU {scores.boundary_iou:.3f}"
            f"    thin and small {scores.class_iou[few_of].mean():.3f}")

results = {"FCN-32s": evaluate(fcn32, val, classes=names)}
print(line("FCN-32s", results["FCN-32s"]))
results["FCN-32s"]

# %%
def row(axes, scene, networks):
    draw.image(axes[0], images[scene])
    for ax, net in zip(axes[1:], networks, strict=False):
        draw.labels(ax, predict(net, images[scene]))
    draw.labels(axes[len(networks) + 1], masks[scene])

figure, axes = draw.panels(3, rows=2, size=2.3, titles=("scene", "FCN-32s", "truth"))
for k, scene in enumerate((4, 6)):
    row(axes[3 * k:], scene, [fcn32])

# %% [markdown]
# Waves, and nothing thin or small. But look again: the two masks are much alike, and the scenes are
# not. How much of this has it seen in the picture? **Predict** what mean IoU one and the same mask
# gets, for all scenes: at each pixel the class that is there most often, counted by its weight.

# %%
seen = F.one_hot(masks_seen.clamp(max=10), 11)[..., :10].float().mean(0) * weights
layout = seen.argmax(-1)                  # (64, 64), from the training scenes alone
usual = metrics.confusion_matrix(layout.expand(80, -1, -1), masks, 10)
assert 0.15 < metrics.mean_iou(usual) < results["FCN-32s"].mean_iou + 0.05
print(f"the same mask for all   mean IoU {metrics.mean_iou(usual):.3f}")

# %% [markdown]
# Nearly as much. In 600 steps FCN-32s has learned little more than where things usually are. Always
# have such a baseline beside a score.

# %% [markdown]
# ## Add what other layers know
#
# fc7 speaks every 32 pixels. On the way there the same network had a map at every 16th pixel,
# pool4, and one at every 8th, pool3. FCN's answer is as simple as can be. Score pool4 too, with a 1
# × 1 convolution. Its map is twice as large as fc7's: enlarge fc7's scores twice, and **add**. That
# is a **skip connection**: what pool4 knows skips the layers above it.
#
# **Exercise 2.** Write it.

# %%
def fuse(coarse, fine):
    """coarse (B, C, H, W), fine (B, C, 2 H, 2 W), both scores of C classes -> their sum
    (B, C, 2 H, 2 W): the coarse map enlarged bilinearly (corners not aligned), plus the
    fine one."""
    ...

# %%
exercises.fuse.check(fuse)

# %% [markdown]
# FCN-16s enlarges the sum by 16. FCN-8s enlarges it by 2, adds the scores of pool3, and enlarges by
# 8. The enlarging begins bilinear and learns. The new score layers begin at **zero**.
#
# **Predict:** take the trained FCN-32s, with bilinear enlarging, and put its weights into an
# FCN-16s. How do their masks differ before any training?

# %%
def taken_from(trained, fresh):
    """`fresh` with all weights of `trained` but its upsampling: that begins bilinear."""
    kept = {name: x for name, x in trained.state_dict().items() if "upsampl" not in name}
    print("new:", *fresh.load_state_dict(kept, strict=False).missing_keys)
    return fresh.eval()

before, after = taken_from(fcn32, network(FCN32s)), taken_from(fcn32, network(FCN16s))
with torch.no_grad():
    coarse, fine = after.score_maps(images)
    same = (after(images).argmax(1) == before(images).argmax(1)).float().mean().item()
    assert torch.equal(coarse, before.score_maps(images)[0])
assert fine.abs().max() == 0 and same > 0.8
f"{same:.1%} of the pixels have the same label"

# %% [markdown]
# fc7's scores are the same, pool4 adds nothing yet, and enlarging by 2 and by 16 is nearly
# enlarging by 32 (but for the borders). So with bilinear enlarging, as it stays in the authors'
# code, one can train the coarse network first, give it a skip, and go on: nothing breaks at the
# start. They did so, in three stages, with ever smaller learning rates. Ours would lose the kernel
# that it has learned; so each is trained by itself, from nothing, with equal steps.

# %%
fcn16, fcn8 = network(FCN16s), network(FCN8s)
fit(fcn16, train, **settings, title="FCN-16s")
fit(fcn8, train, **settings, title="FCN-8s")

# %% [markdown]
# **Predict** before you run on: what does each skip bring? More for large things, or for small
# ones?

# %%
for name, net in (("FCN-16s", fcn16), ("FCN-8s", fcn8)):
    results[name] = evaluate(net, val, classes=names)
for name, scores in results.items():
    print(line(name, scores))

# %%
nets = {"FCN-32s": fcn32, "FCN-16s": fcn16, "FCN-8s": fcn8}
figure, axes = draw.panels(5, rows=3, size=2.1, titles=("scene", *nets, "truth"))
for k, scene in enumerate((4, 6, 9)):
    row(axes[5 * k:], scene, nets.values())

# %%
one, two, three = results.values()
assert two.mean_iou > one.mean_iou + 0.05 and three.mean_iou > two.mean_iou + 0.02
assert three.boundary_iou > two.boundary_iou > one.boundary_iou
thin = [scores.class_iou[few_of].mean().item() for scores in results.values()]
both = [scores.mean_iou for scores in results.values()]
for what, (a, b, c) in (("thin and small", thin), ("all classes", both)):
    print(f"{what:<15} first skip x {b / a:.1f}    second skip x {c / b:.1f}")
assert thin[1] / thin[0] > both[1] / both[0] and thin[2] / thin[1] > both[2] / both[1]

# %% [markdown]
# At equal steps each skip brings a good deal. There are trees and houses now, and outlines; some
# cars and boats. What is thin or small gains by the larger factor. But a factor of little is
# little: the poles are still clouds.
#
# Is that one lucky run? In three (`network(..., seed)` and `fit(..., seed=)`, 0 to 2) FCN-32s had a
# mean IoU of 0.21 to 0.25, FCN-16s of 0.30 to 0.39, FCN-8s of 0.42 to 0.45, and what is thin or
# small gained by the larger factor every time (`benchmarks/seeds.py`).
#
# Is it what the networks *can* say, or how fast they learn? Both. With 1800 steps instead of 600
# they had 0.37, 0.46 and 0.53 (`--steps 1800`). FCN-32s was far from done; the others were not done
# either, and the gaps have not closed.

# %% [markdown]
# ## Which layer said it?
#
# Behind the score maps there are only enlarging and adding: all of it is linear. So the scores of a
# pixel are a sum of three parts, fc7's, pool4's and pool3's, each brought to full size by itself.

# %%
with torch.no_grad():
    parts, whole = fcn8.contributions(images), fcn8(images)
assert torch.allclose(sum(parts), whole, atol=1e-4)
titles = ("scene", "fc7 alone", "pool4 alone", "pool3 alone", "the sum", "truth")
figure, axes = draw.panels(6, size=1.9, titles=titles)
draw.image(axes[0], images[4])
for ax, scores in zip(axes[1:], [*parts, whole], strict=False):
    draw.labels(ax, scores[4].argmax(0))
draw.labels(axes[5], masks[4]);

# %% [markdown]
# In the explorer each part has a weight from 0 to 1. Point at a pixel to see who gave how much to
# the winner's lead.
#
# **Predict**, then try:
#
# 1. Take pool3 away (weight 0). Which classes suffer? Then fc7 instead: what does the network still
#    know, and what does it confuse?
# 2. Point at the middle of the road, then at its edge, then at a car. Who decides where?
# 3. Who decides most pixels? And most of the *wrong* ones?
# 4. Is there a setting that is better than 1, 1, 1?

# %%
from segviz.widgets import SkipsExplorer

explorer = SkipsExplorer(fcn8, images[:24], masks[:24], scene=6)
explorer

# %% [markdown]
# What you should have seen, as numbers:

# %%
def mean_iou(*weights):
    scores = sum(w * part for w, part in zip(weights, parts, strict=True))
    return metrics.mean_iou(metrics.confusion_matrix(scores.argmax(1), masks, 10))

sources = ("fc7", "pool4", "pool3")
alone = [mean_iou(*(float(k == at) for k in range(3))) for at in range(3)]
without = [mean_iou(*(float(k != at) for k in range(3))) for at in range(3)]
for name, one_of, rest in zip(sources, alone, without, strict=True):
    print(f"{name:<6} alone {one_of:.3f}    the sum without it {rest:.3f}")
print(f"the sum      {mean_iou(1, 1, 1):.3f}")

# %%
from itertools import product

settings_tried = [w for w in product((0.5, 0.75, 1), repeat=3) if max(w) == 1]
grid = {w: mean_iou(*w) for w in settings_tried}       # equal weights change no label
top = max(grid, key=grid.get)
print(f"best of {len(grid)} settings: {top}, mean IoU {grid[top]:.3f}")
assert grid[top] < mean_iou(1, 1, 1) + 0.02 and max(alone) < min(grid.values())

# %% [markdown]
# Alone, none of the three is a segmentation: they were trained as a sum, and only the sum was ever
# asked to be right. All are needed, here fc7 least and pool3 most. "fc7 knows what, pool3 knows
# where" is a good story; from these parts one cannot tell it.
#
# ## Was it there all along?
#
# So did FCN-32s have all this in its pool3, and just not use it? Ask. Freeze a network, put a 1 × 1
# convolution on one of its layers, and train that alone to tell the classes. Such a layer is called
# a **probe**.

# %%
def pool3(network, images):
    """(B, 32, 8, 8), each channel brought to mean 0 and spread 1, so that one learning rate
    suits all networks."""
    x = images
    with torch.no_grad():
        for stage in network.eval().stages[:3]:
            x = stage(x)
    return F.batch_norm(x, None, None, training=True)

some, their_masks = (tensor[:200] for tensor in train.tensors())

# %%
def probe(known, asked, steps=150):
    """Label maps for `asked`, by a 1 x 1 convolution that learns from `known`."""
    torch.manual_seed(0)
    score = nn.Conv2d(known.shape[1], 10, 1)
    def large(maps):
        return F.interpolate(score(maps), size=(64, 64), mode="bilinear")

    optimizer = torch.optim.Adam(score.parameters(), lr=0.02)
    for _ in range(steps):
        batch = torch.randint(len(known), (12,))
        logits = large(known[batch])
        loss = losses.cross_entropy(logits, their_masks[batch], class_weights=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return large(asked).argmax(1)

# %% [markdown]
# **Predict:** whose pool3 knows more, that of FCN-32s or that of FCN-8s? They are the same three
# stages, trained on the same scenes. And one that was never trained?

# %%
probed = {}
for name, net in {"untrained": network(FCN8s), "FCN-32s": fcn32, "FCN-8s": fcn8}.items():
    labels = probe(pool3(net, some), pool3(net, images))
    iou = metrics.class_iou(metrics.confusion_matrix(labels, masks, 10))
    probed[name] = iou.nanmean().item()
    each = ("sky", "road", "tree", "car")
    shown = "   ".join(f"{c} {iou[names.index(c)]:.2f}" for c in each)
    print(f"{name:<9} pool3   mean IoU {probed[name]:.3f}    {shown}")

# %%
assert probed["FCN-8s"] > probed["FCN-32s"] + 0.08
assert probed["FCN-32s"] < probed["untrained"] + 0.05

# %% [markdown]
# It was not there. After 600 steps FCN-32s's pool3 tells a probe no more than one that was never
# trained. In FCN-8s the same stages, after as many steps, know far more, also of what is *not* fine
# at all, such as road and sky.
#
# > **Myth or measured?** *"A skip brings back detail that the network has anyway."* Not here. The
# > layer had to learn it first, and it did so in the network in which the loss reaches it by a
# > skip. (How much depends on the start: a VGG16 that has seen a million photographs knows a lot
# > before.)

# %% [markdown]
# ## Why pad by 100, why crop by 19?
#
# The authors' network begins with a strange convolution: it pads the image by **100** zeros on
# every side. And maps are **cropped** until they lie upon each other: the output of FCN-32s by 19
# rows at the top; in FCN-16s pool4's scores by 5 and the output by 27; in FCN-8s pool4's by 5,
# pool3's by 9, the output by 31. These numbers have been copied many times.
#
# The padding: fc6 has a 7 × 7 kernel without padding, so its input must have 7 × 7 places, 193
# pixels at least. With 100 zeros around, images of any size will do.

# %%
def places_for_fc6(size, padding):
    size = size + 2 * padding - 2                     # the first convolution, 3 x 3
    for _ in range(5):
        size = -(-size // 2)                          # poolings round up
    return size

assert places_for_fc6(192, padding=1) == 6 and places_for_fc6(193, padding=1) == 7
assert places_for_fc6(1, padding=100) == 7
{size: places_for_fc6(size, padding=100) for size in (1, 64, 224, 500)}

# %% [markdown]
# The crop: where does the image's first row come out? Follow the middle of its first pixel, as a
# number on each map; it need not be whole, so do not round on the way.
#
# - Padding by 100 puts it at 100; a 3 × 3 kernel without padding of its own takes one row: 99. All
#   other 3 × 3 convolutions pad by 1, and move nothing.
# - A pooling makes one row, 0, of rows 0 and 1, whose middle is 1/2. So x becomes (x - 1/2) / 2.
# - fc6 makes its first place of seven. Where is their middle?
# - A transposed convolution puts a kernel of 64 down for each place, 32 apart. Where is the middle
#   of the first one?
#
# **Exercise 3.** Follow it to the end.

# %%
def crop_offset(padding, poolings, fc6, kernel):
    """The row of the output that belongs to row 0 of the image: a 3 x 3 convolution that
    pads by `padding`, then so many `poolings` of 2 x 2, a convolution of fc6 x fc6 without
    padding, a transposed convolution with `kernel` and stride 2**poolings."""
    ...

# %%
exercises.crop_offset.check(crop_offset)

# %% [markdown]
# segviz derives its crops like this, also for the skips, where two maps must lie upon each other:

# %%
crops = {model.__name__: model(2, width=1).crops() for model in (FCN32s, FCN16s, FCN8s)}
assert crops == {"FCN32s": [19], "FCN16s": [5, 27], "FCN8s": [5, 9, 31]}
light = FCN8s(2, width=1, padding=1).crops()
crops, light

# %% [markdown]
# For our small pictures 100 zeros would be a waste: `padding=1` pads fc6 by 3 instead. The weights
# are the same, the crops are others (a negative one is cut from the enlarged map, not the skip's).
#
# > **Myth or measured?** *"Crop the middle."* Some rebuilt FCNs do. The output is larger than the
# > image by some amount; half of it on each side, surely?

# %%
def middle(size):
    places = places_for_fc6(size, padding=100) - 6            # what fc6 makes of them
    output = (places - 1) * 32 + 64
    return (output - size) / 2

found = {size: middle(size) for size in range(32, 513)}
assert min(found.values()) == 19 and max(found.values()) == 34.5
{size: found[size] for size in (224, 256, 300, 500)}

# %% [markdown]
# The middle wanders with the size, from 19 to 34.5. The right place is 19 for all. **Predict** what
# an error of 8 pixels, down and to the right, costs in our small scenes: mean IoU, boundary IoU?

# %%
with torch.no_grad():
    shifted = F.pad(whole, (8, 0, 8, 0), mode="replicate")[..., :64, :64].argmax(1)
off = metrics.mean_iou(metrics.confusion_matrix(shifted, masks, 10))
edge = metrics.boundary_score(metrics.boundary_counts(shifted, masks, 10)).nanmean().item()
print(f"mean IoU     {three.mean_iou:.3f} -> {off:.3f}")
print(f"boundary IoU {three.boundary_iou:.3f} -> {edge:.3f}")
assert off < 0.7 * three.mean_iou and edge < 0.7 * three.boundary_iou

# %% [markdown]
# About all that the skips have brought, in scenes of 64 pixels; in larger pictures less. (If such a
# network is *trained* with the wrong crop, it learns to move its answers, as far as its field and
# its kernels let it. It should not have to.)

# %% [markdown]
# ## Hypercolumns
#
# In the same year Hariharan and others had another way to use all layers. Enlarge every map to the
# image's size, lay them one upon the other, and each pixel carries a long vector: its
# **hypercolumn**. A classifier reads that.
#
# **Exercise 4.** Stack the hypercolumns.

# %%
def hypercolumns(maps, height, width):
    """maps: a list of (B, C_i, H_i, W_i), of several sizes -> (B, sum of the C_i, height,
    width): each enlarged bilinearly (corners not aligned), stacked in the list's order."""
    ...

# %%
exercises.hypercolumns.check(hypercolumns)

# %% [markdown]
# In the paper the question is another one: inside the box of a detection, which pixels belong to
# the object? There a grid of classifiers reads the columns, each for its part of the box. Ours is
# an **adaptation**: one classifier for all pixels of the whole image, and all classes.
#
# At full width the columns have 76 × 64 = 4864 channels, for every pixel. That is a lot of memory.
# **Predict:** is there a way around it?

# %%
from segviz.models import Hypercolumn

torch.manual_seed(0)
columns = Hypercolumn(10, width=8).eval()
scores = [columns.score, *columns.skip_scores]           # of fc7, pool4, pool3
with torch.no_grad():
    stacked = columns.columns(images[:4])
    weight = torch.cat([score.weight for score in scores], 1)
    long_way = F.conv2d(stacked, weight, sum(score.bias for score in scores))
    short_way = columns(images[:4])
assert torch.allclose(long_way, short_way, atol=1e-4)
tuple(stacked.shape), tuple(short_way.shape)

# %% [markdown]
# Score each map first, with its part of the weights, then enlarge the ten scores and add: the same
# numbers. A 1 × 1 convolution mixes channels, enlarging mixes places; neither minds the other.
#
# But that is a skip: score, enlarge, add. FCN-8s differs in *how* it enlarges, step by step and
# with kernels that learn. So let a hypercolumn network take the layers of FCN-8s up to fc7, freeze
# them, and train three score layers of its own.

# %%
from copy import deepcopy

columns.stages, columns.fc6, columns.fc7 = map(deepcopy, (fcn8.stages, fcn8.fc6, fcn8.fc7))
for part in (columns.stages, columns.fc6, columns.fc7):
    part.requires_grad_(False)
fit(columns, train, **settings | {"steps": 120, "lr": 1e-2}, title="hypercolumns")
results["hypercolumns"] = evaluate(columns, val, classes=names)
print(line("FCN-8s", results["FCN-8s"]))
print(line("hypercolumns", results["hypercolumns"]))
assert abs(results["hypercolumns"].mean_iou - three.mean_iou) < 0.08

# %% [markdown]
# Nearly the same score. With a linear classifier a hypercolumn network and FCN-8s are one idea, and
# what differs is how the maps are enlarged.

# %% [markdown]
# ## What was published
#
# Mean IU on photographs, 736 of VOC 2011's validation set, in percent:
#
# | | as published | trained again by the authors |
# |---|---|---|
# | FCN-32s | 59.4 | 63.6 |
# | FCN-16s | 62.4 | 65.0 |
# | FCN-8s | 62.7 | 65.5 |
#
# There the skips bring 3.3 points of mean IU, or 1.9; here far more. **Why?** You have measured one
# reason at the start: through blocks of 32, VOC's labels keep 86.1 percent and ours 22. VOC's
# objects are large and its pictures have 500 pixels, so coarse answers cost little. Another: their
# VGG16 had learned from a million photographs before, and 100 000 steps followed. Ours learn all
# from 600 scenes, in 600 steps.
#
# And look across: the same network, trained by another recipe (one image at a time, high momentum),
# gains 2.6 to 4.2 points, as much as the skips do. Comparing two papers' numbers is not comparing
# two ideas.
#
# > **Myth or measured?** *"Mean IoU shows blurred outlines."* Labels that have lost all detail
# > below 8 pixels still have 96.4 percent on VOC (appendix A). The authors say so themselves: it is
# > not a measure of fine detail. That is why boundary IoU stands beside it here.

# %% [markdown]
# ## The failure to take along
#
# FCN-8s gets cars and boats back, in part. And the poles and markings?

# %%
limit = metrics.class_iou(kept[8])
for name in few:
    c = names.index(name)
    found = "   ".join(f"{key} {each.class_iou[c]:.2f}" for key, each in results.items())
    print(f"{name:<8} {found}   truth through 8: {limit[c]:.2f}")

# %%
iou = results["FCN-8s"].class_iou
assert max(iou[names.index("pole")], iou[names.index("marking")]) < 0.3
assert iou[names.index("sky")] > 0.8

# %% [markdown]
# Hardly more than the truth itself keeps, through blocks of 8. (Car and boat would have room.) They
# are one or two pixels wide, and pool3 has been pooled three times. One could go on, to pool2 and
# pool1; the authors stopped, for the gains became small. But look at what a pooling throws away: of
# four values it keeps the largest, and forgets *which one it was*. Two bits. What if it did not
# forget? **Lesson 7: deconvolution networks.**
#
# ## What was shown
#
# - A classifier's layers, held as convolutions, give the same numbers, and a map on larger images.
# - FCN-32s, at equal steps, learns little more than where things usually are. A baseline shows it.
# - A skip scores an earlier layer, and adds. With each, mean IoU rises, and for thin and small
#   things by a larger factor. Poles stay lost.
# - The scores of a pixel are a sum: one can see which layer decided. And a skip does not only use
#   what a layer knows: it teaches the layer.
# - Padding 100 lets images of any size through fc6. The crops, 19, 5, 27, 5, 9 and 31, follow from
#   where the first pixel comes out, and from nothing else.
# - Hypercolumns stack what FCN adds. With a linear classifier the two are the same but for the
#   enlarging.

# %%
print("Scoreboard: Toytown at 64 x 64, 80 scenes, width 8, 600 steps, classes weighed")
for name, scores in results.items():
    print(line(name, scores))

# %% [markdown]
# **Sources.** Long, Shelhamer, Darrell: *Fully Convolutional Networks for Semantic Segmentation*,
# CVPR 2015, sections 3.1 (classifiers as convolutions), 3.3 (upsampling), 4.2 (skips), 4.3
# (training), table 2 (59.4, 62.4, 62.7) and, in the arXiv version, appendix A; the authors' code,
# shelhamer/fcn.berkeleyvision.org (63.6, 65.0, 65.5, padding, crops). Simonyan, Zisserman: *Very
# Deep Convolutional Networks*, ICLR 2015 (VGG16). Hariharan, Arbeláez, Girshick, Malik:
# *Hypercolumns for Object Segmentation and Fine-grained Localization*, CVPR 2015. Eigen, Fergus:
# *Predicting Depth, Surface Normals and Semantic Labels*, ICCV 2015 (median frequency balancing).
# Badrinarayanan, Kendall, Cipolla: *SegNet*, TPAMI 2017 (what balancing costs). Words: fully
# convolutional network 완전 합성곱 신경망, skip connection 스킵 연결, backbone 백본, class weight 클래스 가중치, crop
# 잘라내기.
