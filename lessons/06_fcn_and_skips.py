# %% [markdown]
# # 6 · FCN and skips
#
# *45 minutes. You will turn VGG16 into the first fully convolutional networks, measure what the
# coarsest of them loses, and bring it back from layers that still have it. Builds on lessons 2, 4
# and 5.*

# %%
from segviz import course
course.banner("06")

# %% [markdown]
# Lesson 5 ended with a loss. Take the true shares of every class in blocks of 8 × 8 pixels, make
# them large again, and the poles are gone: thinner than what a block can say. VGG16 pools five
# times, so its blocks are 32 × 32. How much can a network know that speaks in such blocks?
#
# **Predict** the best mean IoU on scenes of 64 × 64 with blocks of 32, of 16, of 8.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from segviz import draw, losses, metrics
from segviz.data import Toytown, toytown
from segviz.training import evaluate, fit, predict

train, val = Toytown("train", size=64, length=600), Toytown("val", size=64, length=80)
images, masks = val.tensors()

# %%
def through_blocks(masks, block):
    """Label maps (B, H, W), after they have passed through shares of block x block."""
    one_hot = F.one_hot(masks.clamp(max=10), 11)[..., :10]   # void (255) counts for none
    shares = F.avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), block)
    return F.interpolate(shares, size=masks.shape[1:], mode="bilinear").argmax(1)

limits = {block: metrics.confusion_matrix(through_blocks(masks, block), masks, 10)
          for block in (32, 16, 8)}
{block: round(metrics.mean_iou(counts), 3) for block, counts in limits.items()}

# %%
figure, axes = draw.panels(5, size=2.1, titles=("scene", "through 32", "16", "8", "truth"))
draw.image(axes[0], images[4])
for ax, block in zip(axes[1:], limits, strict=False):
    draw.labels(ax, through_blocks(masks[4:5], block)[0])
draw.labels(axes[4], masks[4])
best = [metrics.mean_iou(counts) for counts in limits.values()]
assert best[0] < 0.3 < best[1] < 0.45 < best[2] < 0.65

# %% [markdown]
# The authors of FCN asked the same of the photographs of VOC: 86.1, 92.8 and 96.4 percent (appendix
# A). Objects there are large, some hundred pixels across. Ours are small: what these three networks
# differ in will show much more here. Keep that in mind for the end.

# %% [markdown]
# ## A classifier becomes a map
#
# VGG16 is thirteen 3 × 3 convolutions in five stages, each closed by a pooling, then three fully
# connected layers. Lesson 2 turned one such layer into a convolution. Here is the real network:
# torchvision's, with random weights, and ours, all convolutions. The numbers are carried over.

# %%
import torchvision
from segviz.models import vgg

classifier = torchvision.models.vgg16().eval()
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
# pixels apart. With a network, `vgg.imagenet_weights()` fetches weights that a million photographs
# have trained. Here we train from nothing, and thinner: `width=8` instead of 64.

# %%
del classifier, convolutional, photograph, wide         # a gigabyte

# %% [markdown]
# ## FCN-32s
#
# Now replace the last layer by one that scores our ten classes, and enlarge its map 32 times, as in
# lesson 4: a transposed convolution with kernel 64 and stride 32, bilinear to begin with, and free
# to learn. That is FCN-32s.
#
# FCN-16s and FCN-8s, further down, go back to 16 and 8 pixels, and need smaller kernels for it: 32
# and 16. **Predict:** which of the three has the most parameters?

# %%
from segviz.models import FCN8s, FCN16s, FCN32s

with torch.device("meta"):                              # shapes without numbers
    sizes = {model.__name__: sum(p.numel() for p in model(21).parameters())
             for model in (FCN32s, FCN16s, FCN8s)}
assert list(sizes.values()) == [136_152_917, 134_815_994, 134_489_759]
sizes

# %% [markdown]
# The coarsest. Its last kernel alone has 64 × 64 weights for each of 21 × 21 pairs of classes: 1.8
# million. (Nearly all of the rest, 119.5 million, is fc6 and fc7.)
#
# ## Rare classes
#
# Before we train: poles and markings are thin, so they have few pixels, and the loss is a mean over
# pixels. A network that never says "pole" loses next to nothing. One remedy is to weigh classes.

# %%
masks_seen = train.tensors()[1]
counts = torch.stack([torch.bincount(mask[mask < 10], minlength=10) for mask in masks_seen])
names = toytown.CLASSES
for name, share in zip(names, counts.sum(0) / counts.sum(), strict=True):
    print(f"{name:<10}{share:.1%}")

# %% [markdown]
# **Median frequency balancing** (Eigen, Fergus 2015): the frequency of a class is its share of the
# pixels *in those images that hold it*; its weight is the median of all frequencies over its own.
# So the median class weighs 1, a rare one more, a common one less.
#
# **Exercise 1.** Write it. `counts` (N, C) has the pixels of each class in each of N images.

# %%
def class_weights(counts):
    """counts (N, C), pixels of each class in each image -> weights (C,). Every class is in
    some image, and C is odd, so that one class is in the middle."""
    ...

# %%
from segviz.exercises import lesson_06 as exercises
exercises.class_weights.check(class_weights)

# %%
full = losses.class_weights(counts)
weights = full.sqrt()
for name, one, root in zip(names, full, weights, strict=True):
    print(f"{name:<10}{one:5.2f}    square root {root:.2f}")

# %% [markdown]
# The authors of FCN tried balancing and found it unnecessary: their rarest classes are not that
# rare. SegNet's found that it raises the mean over classes and lowers pixel accuracy. We take the
# square root: half the way.
#
# Now train, and read on meanwhile.

# %%
def network(model, seed=0):
    torch.manual_seed(seed)
    return model(num_classes=10, width=8, padding=1)      # padding: see below

settings = {"steps": 600, "batch_size": 6, "lr": 3e-3, "class_weights": weights}

# %%
fcn32 = network(FCN32s)
fit(fcn32, train, **settings, watch=images[4], title="FCN-32s")

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
# It knows *what* is there, about, and not *where*. Outlines are waves, and what is thin or small is
# gone or a cloud. Mean IoU says it, and boundary IoU says it more loudly.

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
# enlarging by 32. So one can train the coarse network first, give it a skip, and go on: nothing
# breaks at the start. The authors did so, in three stages, with ever smaller learning rates (and in
# their code the enlarging stays bilinear). Ours are small, and each is trained by itself from
# nothing, with equal steps: a fair comparison.

# %%
fcn16, fcn8 = network(FCN16s), network(FCN8s)
fit(fcn16, train, **settings, title="FCN-16s")
fit(fcn8, train, **settings, title="FCN-8s", watch=images[4])

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
# Each skip brings a good deal. Look at the outlines, and at the cars: FCN-32s has none. What is
# thin or small gains by the larger factor, and by the second skip as much as all classes do. But a
# factor of little is little: the poles are still clouds.
#
# Is that one lucky run? In three (`network(..., seed)` and `fit(..., seed=)`, 0 to 2) FCN-32s had a
# mean IoU of 0.21 to 0.25, FCN-16s of 0.30 to 0.39, FCN-8s of 0.42 to 0.45, and what is thin or
# small gained by the larger factor every time (`benchmarks/seeds.py`).

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
# 3. Choose *of the wrong pixels*. Which of the three is to blame most often?
# 4. Is there any setting that is better than 1, 1, 1?

# %%
from segviz.widgets import SkipsExplorer

explorer = SkipsExplorer(fcn8, images[:24], masks[:24], scene=4)
explorer

# %% [markdown]
# What you should have seen, as numbers:

# %%
def mean_iou(*weights):
    scores = sum(w * part for w, part in zip(weights, parts, strict=True))
    return metrics.mean_iou(metrics.confusion_matrix(scores.argmax(1), masks, 10))

without = {"all": mean_iou(1, 1, 1), "no fc7": mean_iou(0, 1, 1),
           "no pool4": mean_iou(1, 0, 1), "no pool3": mean_iou(1, 1, 0)}
print("   ".join(f"{name} {iou:.3f}" for name, iou in without.items()))
assert without["all"] == max(without.values())

# %% [markdown]
# All three are needed, and pool3 most, here. fc7 alone is blurred; the others alone see detail and
# mistake what it belongs to. What has the highest score in the sum is seldom the best in each part.
#
# ## Was it there all along?
#
# So did FCN-32s have all this in its pool3, and just not use it? Ask. Freeze a network, put a 1 × 1
# convolution on one of its layers, and train that alone to tell the classes. Such a layer is called
# a **probe**.

# %%
def maps_of(network, images):
    """pool3, pool4 and fc7: (B, 32, 8, 8), (B, 64, 4, 4) and (B, 512, 2, 2)."""
    maps, x = [], images
    with torch.no_grad():
        for stage in network.eval().stages:
            x = stage(x)
            maps.append(x)
        return maps[2], maps[3], network.fc7(network.fc6(x))

some, their_masks = (tensor[:200] for tensor in train.tensors())

# %%
def probe(known, asked, steps=200):
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
# stages, trained on the same scenes.

# %%
probed = {}
for name in ("FCN-32s", "FCN-8s"):
    pairs = zip(maps_of(nets[name], some), maps_of(nets[name], images), strict=True)
    for layer, (known, asked) in zip(("pool3", "pool4", "fc7"), pairs, strict=True):
        iou = metrics.class_iou(metrics.confusion_matrix(probe(known, asked), masks, 10))
        probed[name, layer] = iou.nanmean().item()
        each = ("sky", "road", "tree", "car")
        shown = "   ".join(f"{c} {iou[names.index(c)]:.2f}" for c in each)
        print(f"{name:<8} {layer:<6} mean IoU {probed[name, layer]:.3f}    {shown}")

# %%
assert probed["FCN-8s", "pool3"] > probed["FCN-32s", "pool3"] + 0.1
assert probed["FCN-32s", "pool3"] < probed["FCN-32s", "fc7"]

# %% [markdown]
# It was not there. FCN-32s's pool3 has learned little that a probe could use: the loss speaks to it
# through ten more layers, from answers 32 pixels wide. In FCN-8s the same stages know far more,
# also what is *not* fine at all, such as road and sky.
#
# > **Myth or measured?** *"A skip brings back detail that the network has anyway."* Half of it. The
# > skip is also a short way for the gradient: it teaches the layer what to know. (How much of
# > either depends on the start. A VGG16 that has seen a million photographs knows a lot before.)

# %% [markdown]
# ## Why pad by 100, why crop by 19?
#
# The authors' network begins with a strange convolution: it pads the image by **100** zeros on
# every side. And each enlarged map is **cropped**: by 19 rows at the top in FCN-32s, by 5 and 27 in
# FCN-16s, by 5, 9 and 31 in FCN-8s. These numbers have been copied many times.
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
# place on each map; it need not be whole. Padding by 100, then a 3 × 3 kernel: row 99. A pooling
# makes one row of rows 0 and 1, so their middle, 1/2, becomes 0: x becomes (x - 1/2) / 2.
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
# are the same, the crops are others (a negative one is cut from the enlarged map).
#
# > **Myth or measured?** *"Crop the middle."* Many rebuilt FCNs do. The output is larger than the
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
# an error of 8 pixels costs: mean IoU, boundary IoU?

# %%
with torch.no_grad():
    shifted = F.pad(whole, (8, 0, 8, 0), mode="replicate")[..., :64, :64].argmax(1)
off = metrics.mean_iou(metrics.confusion_matrix(shifted, masks, 10))
edge = metrics.boundary_score(metrics.boundary_counts(shifted, masks, 10)).nanmean().item()
print(f"mean IoU     {three.mean_iou:.3f} -> {off:.3f}")
print(f"boundary IoU {three.boundary_iou:.3f} -> {edge:.3f}")
assert off < 0.7 * three.mean_iou and edge < 0.7 * three.boundary_iou

# %% [markdown]
# About all that the skips have brought. (If such a network is *trained* with the wrong crop, it
# learns to move its answers, as far as its field and its kernels let it. It should not have to.)

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
    """maps: a list of (B, C_i, H_i, W_i), each of another size -> (B, sum of the C_i, height,
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
# with kernels that learn. So let a hypercolumn network take what FCN-8s has learned below, freeze
# it, and train the three score layers alone.

# %%
columns.stages, columns.fc6, columns.fc7 = fcn8.stages, fcn8.fc6, fcn8.fc7
for part in (columns.stages, columns.fc6, columns.fc7):
    part.requires_grad_(False)
fit(columns, train, **settings | {"steps": 200, "lr": 1e-2}, title="hypercolumns")
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
# | | VOC 2011 val, as published | trained again by the authors | ours, Toytown |
# |---|---|---|---|
# | FCN-32s | 59.4 | 63.6 | see above |
# | FCN-16s | 62.4 | 65.0 | |
# | FCN-8s | 62.7 | 65.5 | |
#
# There the skips bring 3.3 points of mean IU, or 1.9; here far more. **Why?** You have measured one
# reason at the start: with blocks of 32, VOC's labels keep 86.1 percent and ours 22. VOC's objects
# are large and its pictures have 500 pixels, so coarse answers cost little. Another: their VGG16
# had learned from a million photographs before, and ours learns all from 600 scenes. There the skip
# adds detail alone; here it is also a shorter way for the gradient down to the early layers.
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
# FCN-8s gets cars and boats back, in part. And the poles and markings? **Predict** their IoU.

# %%
limit = metrics.class_iou(limits[8])
for name in few:
    c = names.index(name)
    found = "   ".join(f"{key} {each.class_iou[c]:.2f}" for key, each in results.items())
    print(f"{name:<8} {found}   truth through 8: {limit[c]:.2f}")

# %%
iou = results["FCN-8s"].class_iou
assert max(iou[names.index("pole")], iou[names.index("marking")]) < 0.3
assert iou[names.index("sky")] > 0.8

# %% [markdown]
# Hardly more than the truth itself keeps, through blocks of 8. They are one or two pixels wide, and
# pool3 has been pooled three times. One could go on, to pool2 and pool1; the authors stopped, for
# the gains became small. But look at what a pooling throws away: of four values it keeps the
# largest, and forgets *which one it was*. Two bits. What if it did not forget? **Lesson 7:
# deconvolution networks.**
#
# ## What was shown
#
# - A classifier's layers, held as convolutions, give the same numbers, and a map on larger images.
# - FCN-32s knows what, not where. Blocks of 32 pixels can say no more.
# - Layers further down can say where. A skip scores them, and adds: mean IoU rises step by step,
#   and for thin and small things by a larger factor.
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
