# %% [markdown]
# # 0 · Start here
#
# *15 minutes. In this lesson you will train a network that says, for every pixel of a picture, what
# it shows. You will also find out how the course works, and whether your machine is ready for it.*
#
# Click on the next cell and press **Shift + Enter**. It runs, its result appears below it, and the
# next cell is selected.

# %%
from segviz import course
course.banner("00")

# %% [markdown]
# That line stands at the top of every lesson and remembers what you have solved, also tomorrow.
#
# ## Is everything here?
#
# The doctor looks at your machine and says what it finds. Nothing has to be perfect: the whole
# course runs without a GPU.

# %%
from segviz import doctor
doctor.check()

# %% [markdown]
# ## A picture, and a question
#
# This is Toytown, a small world that is drawn by the course itself. It has one great advantage over
# photographs: we know the truth about every pixel, because we drew it.

# %%
import torch

from segviz import draw
from segviz.data import Toytown, toytown

torch.manual_seed(0)
scene = toytown.scene(37, size=192)
titles = ("what you see", "what is there")
figure, (left, right, key) = draw.panels(3, size=3.6, titles=titles)
draw.image(left, scene.image)
draw.labels(right, scene.mask)
draw.legend(key, toytown.CLASSES);

# %% [markdown]
# The right picture is a **label map**: one whole number for each pixel, the number of its class.
# The colours are only there for our eyes. (255 is *void*: a pixel on a border that nobody could
# name. Wires count as *pole*.)
#
# **Predict** before you run the next cell: which shapes and types do the image and the label map
# have?

# %%
tuple(scene.image.shape), scene.image.dtype, tuple(scene.mask.shape), scene.mask.dtype

# %%
scene.mask[118:124, 84:96]     # a piece of it: look the numbers up in the legend

# %% [markdown]
# An image is a stack of three maps of brightness (red, green, blue), each value between 0 and 1. A
# label map is one map of class numbers. Going from the first to the second is **semantic
# segmentation**, and it is what this course is about.
#
# ## Train a network to do it
#
# Here are scenes to learn from, and others, which the network never sees while it trains, to test
# it on.

# %%
train, val = Toytown("train", length=600), Toytown("val", length=100)
figure, axes = draw.panels(6, size=1.6)
for i, ax in enumerate(axes):
    draw.image(ax, train[i][0])

# %% [markdown]
# The network is **FCN-8s**, from the paper that set the course of this field (Long, Shelhamer and
# Darrell, 2015). You will take it apart in lesson 6. Today it is a box: an image goes in, and one
# *score* for each class at each pixel comes out.
#
# `width=8` gives each layer an eighth of the paper's channels (it has `width=64`), so that it
# learns while you watch. `padding=1` leaves out a wide border of zeros that only large pictures
# need.

# %%
from segviz.models import FCN8s

network = FCN8s(num_classes=10, width=8, padding=1)
images = torch.stack([val[0][0], val[1][0]])      # a batch of two
scores = network(images)
tuple(images.shape), tuple(scores.shape)          # (B, C, H, W) in, (B, classes, H, W) out

# %% [markdown]
# Its last layers start at zero, so now it says nothing at all: every score is 0. To learn, it
# guesses, is told the truth, and moves each of its weights a little in the direction that would
# have made the guess better. Then again, with other scenes. The **loss** says how wrong the guesses
# were; it should fall.
#
# **Predict**: which things will appear first in its answer, and which last? Run the cell, and
# watch. It takes less than a minute on two cores. The square **■** in the toolbar stops it early:
# the network keeps what it has learned, and the lesson goes on, though what the text says may then
# not hold.

# %%
from segviz.training import fit

watched = val[7][0]
history = fit(network, train, steps=500, batch_size=8, lr=2e-3, watch=watched,
              title="FCN-8s")

# %% [markdown]
# Its first thoughts, one after the other:

# %%
figure, axes = draw.panels(6, size=1.9)
for ax, wanted in zip(axes, (1, 16, 64, 200, 500), strict=False):
    step, label_map = min(history.pictures, key=lambda picture: abs(picture[0] - wanted))
    draw.labels(ax, label_map, f"step {step}")
draw.labels(axes[5], val[7][1], "truth");

# %% [markdown]
# First bands: sky above, ground below. Then the road, houses, water, a tree. Small and thin things
# come last, if they come at all.
#
# ## Ask it about scenes it has never seen

# %%
from segviz.training import predict

figure, axes = draw.panels(7, rows=3, size=1.5)
for column in range(6):
    image, mask = val[column + 10]
    draw.image(axes[column], image)
    draw.labels(axes[column + 7], predict(network, image))
    draw.labels(axes[column + 14], mask)
for ax, words in zip(axes[6::7], ("the image", "the network", "the truth"), strict=True):
    ax.text(0, 0.5, words, transform=ax.transAxes, va="center")

# %% [markdown]
# Not bad for so short a time. How good is it, in one number? **Pixel accuracy** is the share of
# pixels that are right, over all 100 scenes.

# %%
from segviz.training import evaluate

result = evaluate(network, val)
result.pixel_accuracy

# %% [markdown]
# About eight pixels in ten are right. Now look for the poles, the wires and the cars in the middle
# row, and ask about each class alone. (**IoU**, intersection over union, is 1 when a class is found
# exactly and 0 when it is missed. Lesson 1 builds it by hand.)

# %%
for name, iou in zip(toytown.CLASSES, result.class_iou, strict=True):
    print(f"{name:<10}{iou:6.2f}  {'█' * round(30 * iou.item())}")

# %%
iou = dict(zip(toytown.CLASSES, result.class_iou.tolist(), strict=True))
share = (val.tensors()[1] == toytown.CLASSES.index("pole")).float().mean().item()
print(f"poles are {share:.1%} of all pixels")
assert iou["sky"] > 0.8 and iou["pole"] < 0.4 and iou["marking"] < 0.4 and share < 0.03

# %% [markdown]
# (`assert` stops with an error if what follows it is not true. All claims of this course are tested
# so.)
#
# The sky is found. The poles and the lane markings are not, and the accuracy hardly notices: so few
# pixels are theirs. That is the **failure that the next lesson starts from**: a number that looks
# good while the picture is wrong.
#
# > **Myth or measured?** *"To train a segmentation network you need a GPU and thousands of labelled
# > photographs."* Half true. For the real world one usually wants a GPU and often many photographs,
# > though U-Net learned from 30 (lesson 8). But the network, its loss and its training loop are the
# > same here, and you have just run all of them on your own machine.

# %% [markdown]
# ## Your turn
#
# Each lesson has a few exercises. You write a function, run its cell, and then run the check below
# it. A check tries your function on several inputs, tells what it finds, and never breaks anything:
# try it as often as you like. If you are stuck, run `exercises.labels_from_scores.hint()` in a new
# cell (key **B**), once or again. `.solution()` shows one way.

# %%
from segviz.exercises import lesson_00 as exercises

# %% [markdown]
# **Exercise 1.** A network writes one score for each class at each pixel. Turn them into a label
# map.

# %%
def labels_from_scores(scores):
    """scores (C, H, W) -> label map (H, W): the class with the highest score."""
    ...

# %%
exercises.labels_from_scores.check(labels_from_scores)

# %% [markdown]
# **Exercise 2.** How much of a label map does each class cover? Pixels that are 255 are **void**:
# nobody could say what they show. They do not count.

# %%
def class_shares(mask, num_classes):
    """mask (H, W), 255 = void -> num_classes shares of the pixels that are not void;
    together 1."""
    ...

# %%
exercises.class_shares.check(class_shares)

# %% [markdown]
# ## How to study with this course
#
# - **Predict, then run.** Where a cell asks for a prediction, make one, in words. To be wrong is
#   the point: that is where you learn.
# - **Change things.** These notebooks are your own copies. If the course is updated, a notebook
#   that you have edited is kept exactly as it is, and the new one is laid beside it.
# - **Nothing can break.** If a notebook is in a muddle: menu *Kernel*, *Restart Kernel and Run All
#   Cells*. Its figures come back, and your progress stays.
# - If an `assert` fails on your machine, you have found something: please tell us.
#
# ## The map of the course
#
# | | lesson | the question | |
# |---|---|---|---|
# | 0 | **Start here** | can I train one? | *this one* |
# | 1 | **What segmentation is** | what is a good answer, and how is it measured? | ready |
# | 2 | **A fully connected layer is a convolution** | how does a classifier learn to say *where*? | ready |
# | 3 | **Receptive fields** | how far does an answer look? | ready |
# | 4 | **Making maps larger** | how does a small map become a picture again? | ready |
# | 5 | **Checkerboards** | why do learned pictures have a grain? | ready |
# | 6 | **FCN and skips** | what do early layers know that late ones have forgotten? | ready |
# | 7 | **Deconvolution networks** | can pooling be undone? | ready |
# | 8 | **U-Net** | how does detail come back? | ready |
# | 9 | **PSPNet** | what if the evidence is far away? | ready |
# | 10 | Atrous convolution | can one look far without shrinking? | to come |
# | 11 | Dense CRF | can neighbours vote? | to come |
# | 12 | DeepLab v1 to v3+ | all of it together | to come |
# | 13 | The scoreboard | which one, for my own pictures? | to come |
#
# Each lesson begins with something that went wrong, *measured*, in the lesson before.

# %% [markdown]
# ## What was shown
#
# - A segmentation network maps an image (3, H, W) to scores (classes, H, W); the highest score at
#   each pixel is the label map.
# - A real one trains in less than a minute, from nothing, on two cores.
# - It finds large things first. Its accuracy looks good while the thin things are missing.

# %%
print("Scoreboard: Toytown at 96 x 96, 100 scenes")
print(f"FCN-8s, width 8, 500 steps   pixel accuracy {result.pixel_accuracy:.3f}"
      f"    mean IoU {result.mean_iou:.3f}    {history.seconds:.0f} s")

# %% [markdown]
# **Next:** lesson 1, what segmentation is.
#
# **Sources.** Jonathan Long, Evan Shelhamer, Trevor Darrell: *Fully Convolutional Networks for
# Semantic Segmentation*, CVPR 2015. Words: semantic segmentation 의미론적 분할, label map 레이블 맵, pixel
# 픽셀(화소).
