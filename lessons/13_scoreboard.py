# %% [markdown]
# # 13 · The scoreboard, and your own pictures
#
# *75 minutes. You will compare all networks of the course as they should be compared, find out
# which differences mean something, where each network fails and which to take when; and then you
# will do all of it with pictures of your own. Builds on all lessons.*

# %%
from segviz import course
course.banner("13")

# %% [markdown]
# Lesson 12 ended with a question: which network is the best? You have seen many scores by now.
# **Predict**: how far apart are the mean IoUs that *one* network, FCN-8s, had in this course? Here
# is what was written down when the lessons were run (`benchmarks/lessons.py`).

# %%
import json

kept = json.loads((course.ROOT / "data/results/lessons.json").read_text(encoding="utf-8"))
lines = [(lesson[:2], line) for lesson, result in kept["lessons"].items()
         for line in result["scoreboard"]]
seen = []
for lesson, line in lines:
    if line.startswith(("FCN-8s", "U-Net, concatenate", "v3+ ")) and "mean IoU" in line:
        print(f"lesson {lesson}   {line}")
        seen += [float(line.split("mean IoU")[1].split()[0])] * line.startswith("FCN-8s")

# %%
assert max(seen) - min(seen) > 0.08
f"FCN-8s: {min(seen)} to {max(seen)}"

# %% [markdown]
# The same network. What differs is the size of the scenes, how many there are, for how long it was
# trained, how wide it is. So that U-Net had 0.543 in lesson 8, and v3+ 0.439 in lesson 12, says
# *nothing* about the two. Papers' tables are often no better.
#
# ## A rule
#
# To compare architectures, keep all else alike: the same 2,000 scenes to learn from, 2,500 steps of
# 12, flipped by chance; the same test scenes. And how large may each be? One could give all the
# same *width*, 64 as in the papers, or 8 as in our lessons. **Predict:** which is the largest then,
# and how many times as large as U-Net?

# %%
import itertools
import statistics
import time
from copy import deepcopy

import torch

from segviz import checkpoint, draw, metrics, models
from segviz.data import Toytown, toytown
from segviz.exercises import lesson_13 as exercises
from segviz.training import evaluate, predict

torch.set_num_threads(1)      # small maps: several threads would mostly wait for another

# %%
FILES = {"FCN-32s": "fcn32s", "FCN-16s": "fcn16s", "FCN-8s": "fcn8s",
         "hypercolumns": "hypercolumn", "DeconvNet": "deconvnet", "U-Net": "unet",
         "PSPNet": "pspnet", "DeepLab v1": "deeplabv1", "DeepLab v2": "deeplabv2",
         "DeepLab v3": "deeplabv3", "DeepLab v3+": "deeplabv3plus"}
KINDS = dict(zip(FILES, (models.FCN32s, models.FCN16s, models.FCN8s, models.Hypercolumn,
                         models.DeconvNet, models.UNet, models.PSPNet, models.DeepLabV1,
                         models.DeepLabV2, models.DeepLabV3, models.DeepLabV3Plus), strict=True))

def size_of(module):
    return sum(p.numel() for p in module.parameters())

# %%
with torch.device("meta"):                                    # shapes alone, no numbers
    sizes = {width: {name: size_of(kind(10, width=width)) for name, kind in KINDS.items()}
             for width in (64, 8)}
print("width                  64           8")
for name in FILES:
    print(f"{name:<13} {sizes[64][name]:>12,} {sizes[8][name]:>11,}")
assert sizes[64]["FCN-8s"] > 4 * sizes[64]["U-Net"] and sizes[8]["FCN-8s"] > 4 * sizes[8]["U-Net"]

# %% [markdown]
# At equal width DeconvNet and the FCNs have four to eight times as many weights as U-Net. If they
# won, would it be the architecture? So our rule is **equal weights**, about half a million for
# each, and each gets the width that this leaves it. They are kept in `data/checkpoints/` (one run
# of each, `benchmarks/checkpoints.py`).

# %%
FOLDER = course.ROOT / "data/checkpoints/half_million"
files = {name: checkpoint.read(FOLDER / f"{file}.safetensors") for name, file in FILES.items()}
nets = {name: checkpoint.load(file) for name, file in files.items()}
for name, net in nets.items():
    how = files[name].config["trained"]
    print(f"{name:<13} width {net.width:2}   {size_of(net):>7,} weights   {how['steps']} steps "
          f"of {how['batch_size']}   lr {how['lr']}")

# %% [markdown]
# One stands out. Where are FCN-32s' weights? **Predict:** in which two layers are most of them?

# %%
one = nets["FCN-32s"]
enlarging = {name: sum(size_of(layer) for layer in nets[name].upsamplings)
             for name in ("FCN-32s", "FCN-16s", "FCN-8s")}
print(f"FCN-32s: fc6 {size_of(one.fc6):,}   enlarging {enlarging['FCN-32s']:,}")
assert size_of(one.fc6) + enlarging["FCN-32s"] > 0.8 * size_of(one)
assert size_of(one.fc6) > 0.7 * size_of(nets["FCN-8s"])
alike = {name: size_of(net) - enlarging.get(name, 0) for name, net in nets.items()}
assert max(alike.values()) < 1.3 * min(alike.values())

# %% [markdown]
# 0.4 million are in the kernel of 64 × 64 that enlarges 32 times, for each pair of classes. The
# authors do not train it (lesson 6); we leave it out of the count, too, and all are alike to a
# fifth. And three quarters of the rest are in fc6, the fully connected layer of lesson 2, 7 × 7
# from 32 to 256 channels. So this rule is *hard on FCN*: its eyes are four channels wide, half as
# many as U-Net's.
#
# Every rule favours somebody. Equal multiply-adds would be hard on U-Net, which works on large
# maps; equal training time on whatever is slow to learn. We shall measure those, too. And one thing
# is not alike: the networks with batch normalisation learn with lr 0.005, the others, which would
# diverge, with 0.003. No network's settings were searched for.
#
# **Predict** the order, best first. Write it down here; below it will be compared.

# %%
MINE = None      # such as ["U-Net", "DeepLab v3+", ...], best first; all or some of them

# %% [markdown]
# ## The same scenes
#
# 200 scenes that none has seen. Every network labels all of them, once; everything below is counted
# from these labels. (A minute's work for the networks: get up and look out of the window.)

# %%
names = toytown.CLASSES
test = Toytown("test", size=96, length=200)
images, masks = test.tensors()

@torch.no_grad()
def labels_of(network, images=images):
    return torch.cat([network(part).argmax(1) for part in images.split(20)])

found = {name: labels_of(net) for name, net in nets.items()}

# %%
def by_scene(labels):
    """A confusion matrix for each scene, rows: truth, all in one count: (N, 10, 10)."""
    scene = torch.arange(len(masks))[:, None, None].expand_as(masks)
    known = masks != 255
    pairs = (scene * 100 + masks * 10 + labels)[known]
    return torch.bincount(pairs, minlength=100 * len(masks)).view(-1, 10, 10)

counts = {name: by_scene(labels) for name, labels in found.items()}
score = {name: metrics.mean_iou(each.sum(0)) for name, each in counts.items()}
outline = {name: metrics.boundary_iou(labels, masks, 10).nanmean().item()
           for name, labels in found.items()}
order = sorted(score, key=score.get, reverse=True)
for name in order:
    print(f"{name:<13} mean IoU {score[name]:.3f}   boundary IoU {outline[name]:.3f}")

# %% [markdown]
# These are the scores that the files record, and that `segviz evaluate` gives:

# %%
assert all(abs(score[name] - files[name].config["score"]) < 0.005 for name in nets)
few = evaluate(nets["U-Net"], [test[k] for k in range(20)])
assert torch.equal(few.counts, counts["U-Net"][:20].sum(0))
if MINE:
    pairs = [(a, b) for k, a in enumerate(MINE) for b in MINE[k + 1:]]
    print(f"{sum(score[a] > score[b] for a, b in pairs)} of your {len(pairs)} pairs are right")

# %% [markdown]
# ## Before you rank
#
# A table like this wants to be read from top to bottom. Wait. With 200 *other* scenes, would the
# order be the same? We have no others. But from these 200 one can draw 200 *with replacement*, some
# of them twice, some not at all: a test set that might have been. Draw a thousand of them and see
# how far the score moves. This is the **bootstrap** (Efron 1979).
#
# **Predict:** how far, up and down? 0.001, 0.01, 0.1?
#
# **Exercise 1.** Mind in which order one sums, divides and averages.

# %%
def interval(counts, draws):
    """counts (N, C, C): a confusion matrix (rows: target) for each of N scenes; draws
    (D, N): D times N numbers of scenes, drawn with replacement -> (low, high): between them
    lie 95 % of the D mean IoUs (quantiles 0.025, 0.975)."""
    ...

# %%
exercises.interval.check(interval)

# %%
torch.manual_seed(0)
draws = torch.randint(200, (400, 200))
bounds = {name: exercises.interval.reference(each, draws) for name, each in counts.items()}
for name in order:
    low, high = bounds[name]
    print(f"{name:<13} {score[name]:.3f}   from {low:.3f} to {high:.3f}")
wide = statistics.median(high - low for low, high in bounds.values())
assert 0.005 < wide < 0.08
f"median width {wide:.3f}"

# %% [markdown]
# So the third decimal of all these scores, here and in papers, is hardly worth its ink. Where two
# intervals overlap, is nothing known? Not quite: both networks were asked about the *same* scenes,
# and what is a hard scene for one is hard for the other. So ask for the *difference*, draw by draw:

# %%
def scores_of(counts, draws=draws):
    """The mean IoU of each draw, all at once."""
    times = torch.stack([draw.bincount(minlength=len(counts)) for draw in draws]).double()
    total = torch.einsum("dn,nij->dij", times, counts.double())
    hits = total.diagonal(dim1=1, dim2=2)
    return (hits / (total.sum(1) + total.sum(2) - hits)).nanmean(1)

drawn = {name: scores_of(each) for name, each in counts.items()}
ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
low, high = drawn["U-Net"].quantile(ends).tolist()
assert abs(low - bounds["U-Net"][0]) < 1e-6 and abs(high - bounds["U-Net"][1]) < 1e-6

# %%
together, apart = [], []
for better, worse in itertools.pairwise(order):
    gap = (drawn[better] - drawn[worse]).quantile(ends).tolist()
    together.append(gap[1] - gap[0])
    apart.append(gap[0] > 0)
    print(f"{better:>13} before {worse:<13} by {gap[0]:+.3f} to {gap[1]:+.3f}   "
          f"{'told apart' if apart[-1] else 'not told apart'}")
assert statistics.median(together) < wide

# %%
figure, (ax,) = draw.panels(1)
figure.set_size_inches(7, 3.4)
ax.axis("on")
for at, name in enumerate(reversed(order)):
    ax.plot(bounds[name], [at, at], color="#332288", linewidth=5, alpha=0.35)
    ax.plot(score[name], at, "o", color="#332288")
ax.set_yticks(range(len(order)), list(reversed(order)), fontsize=9)
ax.set_xlabel("mean IoU, and where it lies in 95 % of the draws")
ax.spines[["top", "right"]].set_visible(False)
ax.grid(axis="x", alpha=0.3)

# %% [markdown]
# ### What no drawing of scenes can tell
#
# Each was trained *once*. Trained again from another seed, the same network has another score. The
# comparisons of lessons 6 to 12 were run three times (`benchmarks/seeds.py`); how far did the same
# network's mean IoU move?

# %%
seeds = json.loads((course.ROOT / "data/results/seeds.json").read_text(encoding="utf-8"))
moves = {}
for lesson, runs_of in seeds["lessons"].items():
    for network in runs_of["0"]:
        values = [run[network].get("mean_iou") for run in runs_of.values()]
        if len(values) > 2 and None not in values:
            moves[f"{lesson}: {network}"] = max(values) - min(values)
middle = statistics.median(moves.values())
most = max(moves, key=moves.get)
assert len(moves) > 10 and moves[most] > 2 * middle
f"{len(moves)} networks, three seeds: median {middle:.3f}, most {moves[most]:.3f} ({most})"

# %% [markdown]
# As much as the choice of scenes, and at times several times as much. (Those trainings were
# shorter, and scored on fewer scenes.) So of the table above believe the large gaps: neighbours
# that lie closer than some 0.03 might change places with another seed, whatever the scenes say. To
# rank *architectures*, train each several times. Here it would take hours; in papers it is seldom
# done.

# %% [markdown]
# > **Myth or measured?** *"0.6 points better: state of the art."* Ask how many test pictures, how
# > many seeds, and whether both were trained and tuned alike. Mostly none of the three is said.

# %% [markdown]
# ## What it costs
#
# Weights are one price. There are three more: the work, the time, and the memory. Work first.
# torch counts operations as a network runs; a **multiply-add** is two of them, a multiplication and
# an addition. **Predict** for one convolution:

# %%
from torch.utils.flop_counter import FlopCounterMode

@torch.no_grad()
def work_of(network, image):
    """Multiply-adds of one image: of convolutions and products, all else is left out."""
    with FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() / 2

one = torch.nn.Conv2d(8, 16, 3, padding=1)
assert work_of(one, torch.zeros(1, 8, 20, 30)) == 8 * 9 * 16 * 20 * 30
work = {name: work_of(net, images[:1]) for name, net in nets.items()}

# %% [markdown]
# **Time** is harder to measure than it looks. Ask for one picture, twenty times:

# %%
@torch.no_grad()
def milliseconds(network, image=images[:1]):
    start = time.perf_counter()
    network(image)
    return 1000 * (time.perf_counter() - start)

asked = [milliseconds(nets["U-Net"]) for _ in range(20)]
print(f"first {asked[0]:.1f}   median {statistics.median(asked):.1f}   "
      f"mean {statistics.mean(asked):.1f}   slowest {max(asked):.1f} ms")

# %% [markdown]
# Your machine does other things, too. So: some runs before one counts (the first sets up memory);
# the *median* of many, which one slow run does not move; one thread, said aloud; and all networks
# **in turns**, so that if the machine is busy for a second it is so for all. (On a GPU also wait
# for it to finish before you stop the clock: `torch.cuda.synchronize()`.)

# %%
turns = {name: [] for name in nets}
for turn in range(18):
    for name, net in nets.items():
        turns[name] += [milliseconds(net)] if turn >= 3 else []
latency = {name: statistics.median(each) for name, each in turns.items()}

# %% [markdown]
# **Memory.** To run a network needs little: two maps at a time. To *train* it, what the forward
# pass made must be kept until the backward pass has used it, and that is what runs out first.
# Autograd tells of every tensor that it keeps, by a hook:

# %%
def kept_bytes(network):
    """What autograd keeps of one image in a training step, weights left out."""
    network = deepcopy(network).train()                 # batch norm keeps averages: of a copy
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(images[:2])
    assert logits.requires_grad
    return sum(held.values()) / 2

memory = {name: kept_bytes(net) for name, net in nets.items()}

# %%
print(" " * 14 + "mean IoU   boundary   weights   multiply-adds      time    memory")
for name in order:
    print(f"{name:<13} {score[name]:9.3f} {outline[name]:10.3f} {alike[name] / 1e6:8.2f} M"
          f"{work[name] / 1e6:13.1f} M {latency[name]:6.1f} ms {memory[name] / 1e6:6.1f} MB")
assert max(work.values()) > 5 * min(work.values())
assert max(memory.values()) > 5 * min(memory.values())

# %% [markdown]
# Equal weights, and yet the dearest takes many times the work of the cheapest: a weight that is
# used at stride 1 multiplies at every pixel, one at stride 16 at every 256th.
#
# Who is worth it? A network is of no use if another is at least as good for no more work. Those
# that nobody beats in this way are the **Pareto front**.
#
# **Exercise 2.** Find it.

# %%
def front(points):
    """points: a list of (cost, score) -> the numbers (from 0) of those that no other point
    beats, by rising cost. One beats another where it costs no more and scores no less, and
    is better in at least one of the two."""
    ...

# %%
exercises.front.check(front)

# %% [markdown]
# And all of it on one plot. Areas are the memory that training keeps.

# %%
NUDGE = {}
def on_one_plot(ax, scores, ylabel, small=1.0):
    points = [(work[name] / 1e6, scores[name]) for name in nets]
    best = exercises.front.reference(points)
    ax.plot(*zip(*(points[k] for k in best), strict=True), color="#CC6677", zorder=0)
    for k, (name, (x, y)) in enumerate(zip(nets, points, strict=True)):
        ax.scatter(x, y, s=small * memory[name] / 3e4, alpha=0.6, linewidths=0,
                   color="#CC6677" if k in best else "#88CCEE")
        ax.plot(x, y, ".", color="#222222", markersize=3)
        dx, dy = NUDGE.get(name, (0, 12))
        ax.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha="center",
                    va="center", fontsize=9 if small == 1 else 7)
    ax.set(xscale="log", xlabel="million multiply-adds, one scene", ylabel=ylabel)
    ax.axis("on")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(0.15)
    return [list(nets)[k] for k in best]

# %%
figure, (large, side) = draw.panels(2)
figure.set_size_inches(11.5, 5)
large.get_gridspec().set_width_ratios([1.7, 1])
on_front = on_one_plot(large, score, "mean IoU")
fine_front = on_one_plot(side, outline, "boundary IoU", small=0.5)
large.set_title("the line: nobody is as good for less", fontsize=10)
print("front of mean IoU:    ", ", ".join(on_front))
print("front of boundary IoU:", ", ".join(fine_front))

# %% [markdown]
# **Predict:** if you sort the networks by multiply-adds, by time, and by memory, are these the same
# orders? A **rank correlation** is 1 for the same order, -1 for the opposite one, about 0 for
# unrelated ones.

# %%
def rank_correlation(a, b):
    """Spearman's: the correlation of the ranks."""
    ranks = torch.tensor([[each[name] for name in nets] for each in (a, b)]).argsort().argsort()
    return torch.corrcoef(ranks.double())[0, 1].item()

prices = {"multiply-adds": work, "time": latency, "memory": memory}
for name, price in prices.items():
    print(f"{name:<14}", *(f"{other} {rank_correlation(price, prices[other]):5.2f}  "
                           for other in prices), f"mean IoU {rank_correlation(price, score):5.2f}")
assert rank_correlation(work, memory) < 0.999

# %% [markdown]
# > **Myth or measured?** *"Fewer multiply-adds, so it is faster."* As a rule of thumb, as far as
# > the first row says; network by network, no. What a layer must fetch and store counts, too
# > (lesson 12), and the number of its layers, and what the library is good at. Time is measured on
# > the machine that it is for.
#
# ## Where each fails
#
# One number for each network hides *where* it fails. First by class. **Predict:** in which columns
# do the networks differ most?

# %%
table = torch.stack([metrics.class_iou(counts[name].sum(0)) for name in order])
figure, (ax,) = draw.panels(1)
figure.set_size_inches(8, 4.4)
ax.axis("on")
ax.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
for (row, column), iou in [((r, c), table[r, c].item()) for r in range(len(order))
                           for c in range(10)]:
    ax.text(column, row, f"{iou:.2f}".removeprefix("0"), ha="center", va="center", fontsize=8,
            color="black" if iou > 0.55 else "white")
ax.set_xticks(range(10), names, fontsize=9)
ax.set_yticks(range(len(order)), order, fontsize=9)
ax.xaxis.tick_top()

# %%
spread = dict(zip(names, (table.max(0).values - table.min(0).values).tolist(), strict=True))
print(*(f"{name} {each:.2f}" for name, each in sorted(spread.items(), key=lambda x: -x[1])),
      sep="   ")
assert min(spread["pole"], spread["car"]) > 2 * spread["sky"]

# %% [markdown]
# On sky and road nearly all agree. What ranks them are the thin and the small things, as in lesson
# 6. **Predict:** and what do two networks *take* poles and boats for?

# %%
best, worst = order[0], order[-1]
figure, axes = draw.panels(2)
figure.set_size_inches(11, 5)
for ax, name in zip(axes, (worst, best), strict=True):
    draw.confusion(ax, counts[name].sum(0), names, name)

# %% [markdown]
# Next by size. For every car, boat, tree and pole: which share of its pixels is right, by how many
# pixels of it are seen?

# %%
SIZES = {"to 20": (1, 20), "21 to 80": (21, 80), "81 to 320": (81, 320), "more": (321, 10**6)}
KINDS_OF = [names.index(name) for name in ("car", "boat", "tree", "pole")]

numbers = torch.stack([toytown.scene(test.scene_index(k), 96).instances for k in range(200)])
numbers += (numbers > 0) * 200 * torch.arange(200)[:, None, None]           # one for each thing
numbers *= torch.isin(masks, torch.tensor(KINDS_OF))
pixels = numbers.flatten().bincount()[1:]

def by_size(labels):
    right = numbers.flatten().bincount((labels == masks).flatten().double())[1:]
    return [(right / pixels)[(pixels >= low) & (pixels <= high)].mean().item()
            for low, high in SIZES.values()]

# %%
by_sizes = {name: by_size(labels) for name, labels in found.items()}
print(f"{'pixels':<13}", *(f"{size:>10}" for size in SIZES))
for name in order:
    print(f"{name:<13}", *(f"{share:10.2f}" for share in by_sizes[name]))
assert all(shares[0] < shares[2] for shares in by_sizes.values())

# %% [markdown]
# And by the distance from the nearest border between two classes:

# %%
import torch.nn.functional as F

def distance_from_border(masks, most=12):
    """For each pixel how far the nearest pixel of another class (or void) is, 1 up to `most`."""
    maps = F.pad(masks[:, None].float(), [1] * 4, mode="replicate")
    reached = (F.max_pool2d(maps, 3, 1) != -F.max_pool2d(-maps, 3, 1)).float()
    away = torch.full(masks.shape, most)
    for distance in range(1, most):
        away[(reached[:, 0] > 0) & (away == most)] = distance
        reached = F.max_pool2d(reached, 3, 1, padding=1)
    return away

away = distance_from_border(masks)
wrong = {name: [(labels != masks)[(away == d) & (masks != 255)].float().mean().item()
                for d in range(1, 13)] for name, labels in found.items()}

# %%
LINES = ("FCN-32s", "FCN-8s", "DeconvNet", "U-Net", "DeepLab v3", "DeepLab v3+")
COLOURS = ("#CC6677", "#DDAA33", "#999933", "#332288", "#44AA99", "#882255")
figure, (ax,) = draw.panels(1)
figure.set_size_inches(7.5, 3.4)
ax.axis("on")
for name, colour in zip(LINES, COLOURS, strict=True):
    ax.plot(range(1, 13), wrong[name], color=colour, marker="o", ms=3, label=name)
ax.set(xlabel="pixels from the nearest border (12: or more)", ylabel="share wrong", ylim=(0, None))
ax.legend(frameon=False, fontsize=8);

# %%
assert all(each[0] > 2 * each[-1] for each in wrong.values())
near = {name: each[0] - each[-1] for name, each in wrong.items()}
assert near["FCN-32s"] > near["U-Net"]
print(*(f"{name}: {wrong[name][0]:.2f} at the border, {wrong[name][-1]:.2f} far from it"
        for name in LINES), sep="\n")

# %% [markdown]
# Last, scene by scene. **Predict:** do the networks fail on the same scenes?

# %%
accuracy = {name: each.diagonal(dim1=1, dim2=2).sum(1) / each.sum((1, 2))
            for name, each in counts.items()}
alike_scenes = torch.corrcoef(torch.stack(list(accuracy.values())))
off = alike_scenes[~torch.eye(len(nets), dtype=torch.bool)]
assert off.median() > 0.5
f"correlation of two networks' accuracies over the scenes: median {off.median():.2f}"

# %%
shown = (worst, "DeepLab v3", best)
figure, axes = draw.panels(4, rows=3, size=2.0)
for row, name in enumerate(shown):
    scene = accuracy[name].argmin().item()
    draw.image(axes[4 * row], images[scene], f"scene {scene}")
    draw.labels(axes[4 * row + 1], found[name][scene], f"{name}: {accuracy[name][scene]:.2f}")
    other = best if name != best else order[1]
    draw.labels(axes[4 * row + 2], found[other][scene], other)
    draw.labels(axes[4 * row + 3], masks[scene], "truth")

# %% [markdown]
# Largely on the same: hard scenes are hard for all. That is why the differences above were surer
# than the scores. And what follows from how each is built?
#
# | network | what it does badly here | because |
# |---|---|---|
# | FCN-32s, DeepLab v3 | everything thin; outlines | one map at stride 32 or 16, then straight lines |
# | FCN-16s, 8s, hypercolumns | the thin, less and less | scores of earlier maps, and few channels left for them |
# | DeconvNet | small things | it has only what passes the bottleneck, and places |
# | PSPNet, DeepLab v1, v2 | outlines | stride 8 to the end |
# | U-Net | large areas far from borders | detail everywhere, view that ends |
# | DeepLab v3+ | what is finer than stride 4 | its early map has that stride |

# %% [markdown]
# ## Two at a time
#
# Scores say *how many* pixels; two networks with equal scores may be wrong on quite different ones.
#
# **Exercise 3.** Count.

# %%
def who_is_right(first, second, truth):
    """Label maps (H, W) of two networks, and the truth, 255 for void -> four counts of
    labelled pixels: on which the two differ; and of these, on which the first is right, the
    second is right, neither is."""
    ...

# %%
exercises.who_is_right.check(who_is_right)

# %% [markdown]
# In the explorer choose any two networks and any scene; wipe from one to the other; where they
# disagree is lit. The second twelve scenes are the first twelve at *dusk*, with a third of their
# light, which no network has ever seen. **Predict**, then try:
#
# 1. FCN-32s and FCN-8s: where do they disagree, and who is right there?
# 2. U-Net and DeepLab v3+: on how many pixels? Is the better one right on nearly all of them?
# 3. FCN-8s and hypercolumns, nearly the same information: do they agree more?
# 4. At dusk: do all lose alike?

# %%
from segviz.widgets import CompareExplorer

dusk = images[:12] / 3
pictures, truths = torch.cat([images[:12], dusk]), masks[:12].repeat(2, 1, 1)
explorer = CompareExplorer(nets, pictures, truths, names, draw.PALETTE)
explorer

# %%
def disputed(a, b):
    each = [exercises.who_is_right.reference(*three)
            for three in zip(found[a], found[b], masks, strict=True)]
    return torch.tensor(each).sum(0)

labelled = (masks != 255).sum()
for a, b in (("FCN-32s", "FCN-8s"), ("U-Net", "DeepLab v3+"), ("FCN-8s", "hypercolumns")):
    differ, first, second, neither = disputed(a, b).tolist()
    print(f"{a} and {b}: {differ / labelled:.1%} of the pixels; right are the first on "
          f"{first / differ:.0%}, the second on {second / differ:.0%}")

# %%
at_dusk = {}
for name, net in nets.items():
    there = metrics.confusion_matrix(labels_of(net, images[:20] / 3), masks[:20], 10)
    at_dusk[name] = metrics.pixel_accuracy(there)
    by_day = metrics.pixel_accuracy(counts[name][:20].sum(0))
    print(f"{name:<13} pixel accuracy by day {by_day:.2f}   at dusk {at_dusk[name]:.2f}")
assert max(at_dusk.values()) < min(metrics.pixel_accuracy(counts[name][:20].sum(0))
                                   for name in nets if name != "FCN-32s")

# %% [markdown]
# ## Which to take
#
# From what was measured, by what you need:

# %%
thin = [names.index(name) for name in ("pole", "marking")]
thin_iou = dict(zip(order, table[:, thin].mean(1).tolist(), strict=True))
good = [name for name in nets if score[name] > score[best] - 0.1]
needs = {
    "best mean IoU": max(score, key=score.get), "outlines": max(outline, key=outline.get),
    "thin things": max(thin_iou, key=thin_iou.get),
    "things of up to 20 pixels": max(by_sizes, key=lambda name: by_sizes[name][0]),
    "least work, within 0.1 of the best": min(good, key=work.get),
    "least memory in training, within 0.1": min(good, key=memory.get),
    "fastest here, within 0.1": min(good, key=latency.get),
}
for need, name in needs.items():
    print(f"{need:<38} {name}")

# %% [markdown]
# Two warnings about that list. It holds for *half a million weights, from scratch, on small drawn
# scenes*, and every entry that is won by less than the intervals above is a coin. And some needs
# are not in it, but were measured in other lessons: evidence at the other end of the picture
# (PSPNet, lesson 9: with a pyramid right wherever the beacon stood, without it a coin beyond its
# field); few pictures (U-Net with turned and bent copies, lesson 8); pictures larger than memory
# (tiles need a field that ends: U-Net, lesson 8; a pyramid's mean over a tile is another one).
#
# On photographs, with a backbone that has learned on ImageNet, the order is another. By the papers'
# own abstracts, on VOC 2012's test set: FCN-8s 62.2, in the journal version 67.2; DeepLab v2 79.7;
# PSPNet 85.4; DeepLab v3+ 89.0. **Predict** how much of these 27 points is architecture. Nobody
# knows: VGG16 became ResNet-101 and Xception, thousands of pictures more were used from v2 on, test
# pictures were shown at several scales. Lesson 12 took one of these steps apart: of 9 points, ASPP
# was 0.8.
#
# > **Myth or measured?** *"DeepLab v3+ is better than U-Net."* On what, with which weights, trained
# > how long? Here, from scratch and at half a million, see above. A backbone that has seen ImageNet
# > has mostly been worth more than any head; and U-Net, as printed, has none.
#
# ## Your own pictures
#
# Now the whole way with a folder of pictures. Set `OWN` to a folder of yours, if you have one; all
# cells below then take it. Without one we make some, small, as people have them: pictures of cells,
# masks that a labelling program wrote, in its own numbers, and a few mistakes.

# %%
OWN = None      # a path: it holds train/images, train/masks, val/images, val/masks (PNG)

# %%
import tempfile
from pathlib import Path

from PIL import Image

from segviz.data import Cells, Folder

place = Path(tempfile.mkdtemp())
made = place / "cells"

def saved(array, *path):
    to = made.joinpath(*path)
    to.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.numpy()).save(to)

# %%
for split, count in (("train", 24), ("val", 8)):
    for k, (image, mask) in enumerate(Cells(split, size=96, length=count)):
        numbers = mask + 1                        # 1 background, 2 cell, 0 not labelled yet
        numbers[:, :4 + k % 9] = 0
        saved((image[0] * 255).round().byte(), split, "images", f"{split}{k:02}.png")
        saved(numbers.byte(), split, "masks", f"{split}{k:02}.png")
for part in ("images", "masks"):                  # somebody copied a training picture
    there = made / "train" / part / "train05.png"
    (made / "val" / part / "best_one.png").write_bytes(there.read_bytes())
(made / "classes.txt").write_text("background\ncell\n");

# %% [markdown]
# **Predict** what a network would learn from these masks as they are. Or do not train, but *look*
# first. A `Folder` reads the names of the classes, and refuses what cannot be meant:

# %%
DATA = Path(OWN) if OWN else made
try:
    Folder(DATA, "train")[0]
except ValueError as error:
    print(str(error).replace(str(place), "..."))

# %% [markdown]
# Had there been a third class, it would not have noticed: "not labelled" would have become class 0,
# and everything else its neighbour. Numbers carry no names.
#
# **Exercise 4.** Bring them to labels.

# %%
def relabelled(mask, table):
    """mask (H, W), int64: numbers as a labelling program wrote them; table: {its number:
    label} -> labels (H, W): 255, void, for every number that the table does not name."""
    ...

# %%
exercises.relabelled.check(relabelled)

# %%
import numpy as np

if not OWN:
    for path in made.glob("*/masks/*.png"):
        numbers = torch.from_numpy(np.array(Image.open(path))).long()
        labels = exercises.relabelled.reference(numbers, {1: 0, 2: 1})
        Image.fromarray(labels.byte().numpy()).save(path)

# %% [markdown]
# Now look at all of it. On the command line that is `segviz look --data FOLDER`. **Predict:** what
# will it say of the 33 pictures?

# %%
from segviz.data.survey import contact_sheet, survey

digests = {}
surveys = {split: survey(Folder(DATA, split), seen=digests) for split in ("train", "val")}
for split, each in surveys.items():
    print(f"{split}: {each}".replace(str(place), "..."))
if not OWN:
    assert any("twice" in notice for notice in surveys["val"].notices)

# %%
from segviz.runs.pictures import palette

COLOURS = palette(len(surveys["train"].classes))
contact_sheet(Folder(DATA, "train"), surveys["train"], COLOURS, count=6);

# %% [markdown]
# One picture is in both splits. The network would be *tested on what it has learned*, and one of
# nine is enough to move a score. Take it out of val.

# %%
if not OWN:
    for part in ("images", "masks"):
        (made / "val" / part / "best_one.png").unlink()
    assert not survey(Folder(DATA, "val"), seen={}).notices

# %% [markdown]
# Train. What is not said is chosen by the data and the machine, and written down. This run is short
# (leave `steps` out for a real one), and is `segviz train --model unet --data FOLDER --out RUN`.

# %%
from segviz.runs.training import train

run = place / "run"
history = train(run, "unet", str(DATA), steps=80, width=8, size=64, batch_size=6, workers=0,
                device="cpu", say=lambda line: print(line.replace(str(place), "...")))
sorted(path.name for path in run.iterdir())

# %% [markdown]
# Scores, and the worst pictures first: they are where mistakes in the *masks* show, too. (`segviz
# evaluate RUN`.)

# %%
from segviz import runs

network, val = checkpoint.load(runs.file_of(run)), Folder(DATA, "val")
scores = evaluate(network, val, batch_size=4, classes=val.classes)
print(scores)
if not OWN:
    assert scores.class_iou[1] > 0.4

# %%
each = [metrics.pixel_accuracy(metrics.confusion_matrix(predict(network, image), mask,
                                                        len(COLOURS))) for image, mask in val]
figure, axes = draw.panels(3, rows=2, size=2.2, titles=("worst", "prediction", "truth"))
for row, k in enumerate(torch.tensor(each).argsort()[:2].tolist()):
    draw.image(axes[3 * row], val[k][0])
    draw.labels(axes[3 * row + 1], predict(network, val[k][0]), palette=COLOURS)
    draw.labels(axes[3 * row + 2], val[k][1], palette=COLOURS)

# %% [markdown]
# And a new picture, of another size, out of no data set: `segviz predict RUN PICTURE --out DIR`.

# %%
from segviz.runs.prediction import predict as predict_files

if OWN:
    new = val.pairs[0][0]
else:
    new = made / "new.png"
    saved((Cells("test", size=(120, 200), length=1)[0][0][0] * 255).round().byte(), "new.png")
overlay, = predict_files(run, new, place / "out", save=("overlay",), device="cpu",
                         say=lambda line: None)
figure, axes = draw.panels(2, size=3.4)
for ax, path in zip(axes, (new, overlay), strict=True):
    draw.image(ax, np.array(Image.open(path).convert("RGB")))

# %% [markdown]
# For photographs that everybody knows, and for a GPU, in a terminal:
#
#     segviz train --model deeplabv3plus --data pets --download --out runs/pets
#     segviz train --model deeplabv3plus --data voc --download --out runs/voc
#     segviz evaluate runs/voc --data voc --split val
#     torchrun --nproc-per-node 8 -m segviz train --model pspnet --data voc --out runs/psp
#
# (Pets are 0.8 GB, VOC 2.0 GB. On a GPU the width is the paper's 64, and the batch what its memory
# holds.)

# %%
results = course.ROOT / "data/results/gpu.json"
if torch.cuda.is_available():
    print(f"{torch.cuda.get_device_name()}: leave out width, size, steps and device above")
elif results.exists():
    print(results.read_text(encoding="utf-8")[:2000])
else:
    print("no GPU here, and none was measured: benchmarks/gpu.py does it where there is one")

# %% [markdown]
# ### Away from here
#
# A network that is to run in another program leaves as a *graph*. `to_program` needs torch alone,
# `to_onnx` three packages more; both run what they wrote, at several sizes, before they call it
# done. (`segviz export RUN --out FILE.onnx`.)

# %%
from segviz import export

print(str(export.to_program(network, place / "unet.pt2", size=64)).replace(str(place), "..."))
try:
    print(str(export.to_onnx(network, place / "unet.onnx", size=64)).replace(str(place), "..."))
except ImportError as error:
    print(error)

# %%
program = torch.export.load(place / "unet.pt2").module()
picture = torch.rand(1, 3, 96, 64)
with torch.no_grad():
    assert torch.allclose(program(picture), network(picture), atol=1e-4)

# %% [markdown]
# ## What came after, and what stayed
#
# This course ends in 2018. Since then, in five steps, each from its paper's abstract:
#
# - **Transformers** (SETR, 2021): the picture as a row of patches, and every layer hears all of
#   them. Lesson 3's question, how far does it see, is answered in the first layer. Lesson 11's mean
#   field was attention already.
# - **SegFormer** (2021): such an encoder with maps of several sizes, and a decoder so plain that you
#   have built it (below).
# - **Masks instead of pixels** (MaskFormer, 2021; Mask2Former, 2022): a set of masks, each with one
#   class. One model then answers several of lesson 1's five questions.
# - **Segment Anything** (SAM, 2023): over a billion masks on 11 million pictures; asked by a point
#   or a box; masks without names.
# - **Features without labels** (DINOv2, 2023), used frozen; and **names by text** (LSeg, 2022): a
#   pixel's features are compared with those of a word, so that the list of classes is open.
#
# SegFormer's decoder: four maps, each through a linear layer; enlarged; stacked; a 1 × 1
# convolution. **Predict:** which lesson had that?

# %%
torch.manual_seed(0)
maps = [torch.randn(1, channels, 32 // stride, 32 // stride)
        for channels, stride in ((32, 1), (64, 2), (160, 4), (256, 8))]
linear = [torch.nn.Linear(each.shape[1], 20) for each in maps]
fuse = torch.nn.Conv2d(80, 20, 1, bias=False)

def enlarged(each):
    return F.interpolate(each, size=32, mode="bilinear", align_corners=False)

in_turn = [enlarged(one(each.movedim(1, -1)).movedim(-1, 1))
           for one, each in zip(linear, maps, strict=True)]
segformer = fuse(torch.cat(in_turn, 1))

# %%
columns = torch.cat([enlarged(each) for each in maps], 1)              # lesson 6: hypercolumns
parts = [part[:, :, 0, 0] for part in fuse.weight.split(20, dim=1)]
weight = torch.cat([part @ one.weight for part, one in zip(parts, linear, strict=True)], 1)
bias = sum(part @ one.bias for part, one in zip(parts, linear, strict=True))
by_hand = F.conv2d(columns, weight[..., None, None], bias)
assert torch.allclose(segformer, by_hand, atol=1e-4)
tuple(columns.shape), tuple(weight.shape)

# %% [markdown]
# Hypercolumns, to the last digit, and one 1 × 1 convolution: up to there all is linear. (Then come
# batch norm, a ReLU, the scores.) The encoder is new. What stayed:
#
# - an encoder, a decoder, and **skips**: what is coarse knows *what*, what is fine knows *where*.
#   The networks that remove noise in diffusion models are U-Nets in the main (Ho and others, 2020);
# - **context at several scales**, and the whole scene at once;
# - **upsampling**, with its corners and checkerboards;
# - one **confusion matrix**, summed, divided once; outlines scored apart; **void** that is neither
#   taught nor counted.
#
# Those you can build, measure and doubt.
#
# ## The course on one page
#
# A fully connected layer is a convolution, so a classifier can be asked everywhere. What it answers
# is coarse, for it has pooled: what it gained in knowing *what*, it lost in *where*. All that
# followed gives *where* back: by enlarging, which invents nothing; by earlier maps, as scores, as
# features, as places; by not pooling, and reading with holes instead. Or it brings farther evidence:
# means of regions, several rates. And what is drawn softly can be drawn again along the picture's
# edges, at a price. No step was free, each answered a failure that could be measured, and none of
# its promises was true without a measurement.
#
# **Where to go on.** Your own pictures, with the commands above. The papers, which you can now read
# with a pencil. SegFormer and Mask2Former's code, of which you know most. And whenever somebody
# says that a network is better: on which pictures, how many seeds, at what price?
#
# You have come from one layer of a classifier to here, and have believed nothing on the way that
# you did not see. Keep that.
#
# ## What was shown
#
# - Scores of different lessons, or papers, cannot be compared. A rule can: same scenes, same steps,
#   same weights; and it favours somebody, too.
# - The choice of scenes alone moves a mean IoU; two networks on the same scenes can be told apart
#   better than their intervals suggest; another seed moves it as much again.
# - Multiply-adds, time and memory are three different prices.
# - What ranks the networks are thin and small things, and outlines; they fail on the same scenes.
# - Before training, look: labels that mean something else, pictures in two splits.

# %%
print("Scoreboard: Toytown at 96 x 96, 200 test scenes, half a million weights each")
for name in order:
    print(f"{name:<13} mean IoU {score[name]:.3f}    boundary IoU {outline[name]:.3f}    "
          f"{work[name] / 1e6:6.1f} M multiply-adds    {memory[name] / 1e6:5.1f} MB to train")

# %% [markdown]
# **Sources.** Efron: *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 1979.
# Long, Shelhamer, Darrell, CVPR 2015, and Shelhamer, Long, Darrell, PAMI 2017 (FCN); Chen and
# others, PAMI 2018 (DeepLab v2); Zhao and others, CVPR 2017 (PSPNet); Chen and others, ECCV 2018
# (DeepLab v3+): abstracts, for VOC's test set. Zheng and others: *Rethinking Semantic Segmentation
# from a Sequence-to-Sequence Perspective with Transformers*, CVPR 2021 (SETR). Xie and others:
# *SegFormer*, NeurIPS 2021, and the authors' `segformer_head.py`. Cheng, Schwing, Kirillov:
# *Per-Pixel Classification is Not All You Need for Semantic Segmentation*, NeurIPS 2021
# (MaskFormer). Cheng and others: *Masked-attention Mask Transformer for Universal Image
# Segmentation*, CVPR 2022 (Mask2Former). Kirillov and others: *Segment Anything*, 2023. Oquab and
# others: *DINOv2*, 2023. Li and others: *Language-driven Semantic Segmentation*, ICLR 2022 (LSeg).
# Ho, Jain, Abbeel: *Denoising Diffusion Probabilistic Models*, NeurIPS 2020. Words: bootstrap
# 부트스트랩, confidence interval 신뢰 구간, Pareto front 파레토 프런트, multiply-add 곱셈-덧셈 연산, latency 지연 시간,
# batch 배치, overfitting 과적합.
