"""Exercises of lesson 13, the scoreboard."""

import torch

from segviz.exercises.engine import exercise

TITLE = "The scoreboard, and your own pictures"


# -- interval(counts, draws)


def _ious(total):
    """IoU of each class of one confusion matrix."""
    hits = total.double().diagonal()
    return hits / (total.sum(0) + total.sum(1) - hits)


def _spread(values, low=0.025, high=0.975):
    values = torch.stack([torch.as_tensor(value).double() for value in values])
    return values.quantile(torch.tensor([low, high]).double())


def _of_sums(counts, draws, score=lambda total: _ious(total).nanmean()):
    return [score(counts[draw].sum(0)) for draw in draws]


def _mean_of_scenes(counts, draws):
    each = torch.stack([_ious(one).nanmean() for one in counts])
    return _spread([each[draw].mean() for draw in draws])


def _class_means_of_scenes(counts, draws):
    each = torch.stack([_ious(one) for one in counts])
    return _spread([each[draw].nanmean(0).nanmean() for draw in draws])


def _spread_of_scenes(counts, draws):
    return _spread([_ious(one).nanmean() for one in counts])


def _each_scene_once(counts, draws):
    return _spread(_of_sums(counts, [draw.unique() for draw in draws]))


def _from_least_to_most(counts, draws):
    return _spread(_of_sums(counts, draws), 0, 1)


def _five_percent_each(counts, draws):
    return _spread(_of_sums(counts, draws), 0.05, 0.95)


def _two_deviations(counts, draws):
    scores = torch.stack(_of_sums(counts, draws))
    return scores.mean() - 1.96 * scores.std(), scores.mean() + 1.96 * scores.std()


def _one_deviation(counts, draws):
    scores = torch.stack(_of_sums(counts, draws))
    return scores.mean() - scores.std(), scores.mean() + scores.std()


def _error_of_the_mean(counts, draws):
    scores = torch.stack(_of_sums(counts, draws))
    error = 1.96 * scores.std() / len(scores) ** 0.5
    return scores.mean() - error, scores.mean() + error


def _pixels_not_classes(counts, draws):
    return _spread(_of_sums(counts, draws, lambda total: total.diagonal().sum() / total.sum()))


def _recall_not_iou(counts, draws):
    return _spread(_of_sums(counts, draws, lambda total: (total.double().diagonal() / total.sum(1)).nanmean()))


def _absent_as_zero(counts, draws):
    return _spread(_of_sums(counts, draws, lambda total: _ious(total).nan_to_num(0).mean()))


def _high_first(counts, draws):
    return interval.reference(counts, draws)[::-1]


def _draws_along_classes(counts, draws):
    """The union without taking the intersection off once."""
    return _spread(_of_sums(counts, draws, lambda total: (total.double().diagonal() / (total.sum(0) + total.sum(1))).nanmean()))


def _scenes_to_draw(scenes, classes, draws, seed):
    """Confusion matrices of scenes that differ in size and in how hard they are; the last class is rare."""
    noise = torch.Generator().manual_seed(seed)
    rate = 40 * torch.rand(scenes, 1, 1, generator=noise) ** 2 + 2
    matrix = torch.rand(scenes, classes, classes, generator=noise) ** 2 + 3 * torch.eye(classes)
    counts = (rate * matrix).round().long()
    counts[3:, -1] = 0
    counts[3:, :, -1] = 0
    return counts, torch.randint(scenes, (draws, scenes), generator=noise)


@exercise(
    "How far does a mean IoU move with the scenes?",
    hints=(
        "Each row of `draws` is a test set that might have been: the scenes of these numbers, some of them several "
        "times. Score it as any test set.",
        "counts[draw].sum(0) is the confusion matrix of such a test set. From it, once, the mean IoU; NaN for a class "
        "that is in none of its scenes, which nanmean leaves out.",
        "A score for each row of draws; then scores.quantile(torch.tensor([0.025, 0.975]))",
    ),
    cases=lambda: [_scenes_to_draw(12, 3, 80, 0), _scenes_to_draw(20, 4, 60, 1), _scenes_to_draw(7, 2, 50, 2)],
    mistakes={
        "You score each scene and average the scores. Counts are summed first, and divided once: so a small scene, or a class of a few pixels, does not count as much as a large one (lesson 1).": _mean_of_scenes,
        "You score each class in each scene, and average. Sum the counts first, then divide once (lesson 1).": _class_means_of_scenes,
        "That is how far single scenes lie apart. Asked is how far the score of a whole test set moves.": _spread_of_scenes,
        "Scenes that are drawn several times count several times: that is what makes the draws differ.": _each_scene_once,
        "That is from the least to the most of all draws, which grows with their number. Leave out a fortieth at either end.": _from_least_to_most,
        "You left out a twentieth at either end: that holds 90 % of the draws. For 95 %, a fortieth: 0.025 and 0.975.": _five_percent_each,
        "Mean and 1.96 standard deviations: nearly the same here, if the scores are spread normally. Asked are the quantiles, which do not need that.": _two_deviations,
        "One standard deviation to either side holds about two thirds of the draws. Asked are the quantiles 0.025 and 0.975.": _one_deviation,
        "You divided by the root of the number of draws. More draws do not make the test set larger: the spread of the scores is the answer.": _error_of_the_mean,
        "That is pixel accuracy. Mean IoU: of each class hits / (row + column - hits), then the mean.": _pixels_not_classes,
        "That is the mean recall: it divides by the row alone. The union has the column's pixels, too.": _recall_not_iou,
        "A class that occurs in none of the drawn scenes counts as 0 with you. It is left out: nanmean.": _absent_as_zero,
        "Low and high have changed places.": _high_first,
        "The union counts the hits once: row + column - hits.": _draws_along_classes,
    },
    praise="No new picture was needed to learn how much the choice of pictures matters.",
    advice="Sum the drawn scenes' counts, score the sum, and take the quantiles 0.025 and 0.975 of these scores.",
)
def interval(counts, draws):
    """counts (N, C, C): a confusion matrix (rows: target) for each of N scenes; draws (D, N): D times N numbers of
    scenes, drawn with replacement -> (low, high): between them lie 95 % of the D mean IoUs (quantiles 0.025, 0.975)."""
    scores = []
    for draw in draws:
        total = counts[draw].sum(0).double()
        hits = total.diagonal()
        scores.append((hits / (total.sum(0) + total.sum(1) - hits)).nanmean())
    return torch.stack(scores).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


# -- front(points)


def _kept(points, beaten):
    """The numbers of the points that no other one beats, by rising cost."""
    kept = [i for i, one in enumerate(points) if not any(beaten(one, other) for j, other in enumerate(points) if j != i)]
    return sorted(kept, key=lambda i: (points[i][0], i))


def _better_in_both(points):
    return _kept(points, lambda one, other: other[0] < one[0] and other[1] > one[1])


def _better_in_one(points):
    return _kept(points, lambda one, other: other[0] < one[0] or other[1] > one[1])


def _twins_beat_each_other(points):
    return _kept(points, lambda one, other: other[0] <= one[0] and other[1] >= one[1])


def _dear_is_good(points):
    return _kept(points, lambda one, other: other[0] >= one[0] and other[1] >= one[1] and other != one)


def _low_is_good(points):
    return _kept(points, lambda one, other: other[0] <= one[0] and other[1] <= one[1] and other != one)


def _hull(points):
    """The front's points that a line of constant slope finds: the upper left convex hull."""
    held = []
    for i in front.reference(points):
        while len(held) > 1 and _turns_up(*(points[k] for k in (held[-2], held[-1], i))):
            held.pop()
        held.append(i)
    return held


def _turns_up(a, b, c):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) > 0


def _best_ratio(points):
    ratios = [score / cost for cost, score in points]
    return [i for i, ratio in enumerate(ratios) if ratio == max(ratios)]


def _best_and_cheapest(points):
    found = {min(range(len(points)), key=lambda i: (points[i][0], -points[i][1])),
             max(range(len(points)), key=lambda i: (points[i][1], -points[i][0]))}
    return sorted(found, key=lambda i: points[i][0])


def _beaten_ones(points):
    return [i for i in sorted(range(len(points)), key=lambda i: (points[i][0], i)) if i not in front.reference(points)]


def _by_score(points):
    return front.reference(points)[::-1]


def _in_their_order(points):
    return sorted(front.reference(points))


def _one_of_twins(points):
    found = front.reference(points)
    return [i for at, i in enumerate(found) if points[i] not in [points[k] for k in found[:at]]]


def _above_the_mean(points):
    mean = sum(score for _, score in points) / len(points)
    return [i for i in sorted(range(len(points)), key=lambda i: points[i][0]) if points[i][1] >= mean]


def _cheaper_ones_only(points):
    return _kept(points, lambda one, other: other[0] < one[0] and other[1] >= one[1])


def _first_found_of_twins(points):
    return [points.index(points[i]) for i in front.reference(points)]


def _first_of_the_order(points):
    """Goes through in the order given instead of by cost."""
    best, kept = float("-inf"), []
    for i, (_, score) in enumerate(points):
        if score > best:
            best = score
            kept.append(i)
    return kept


def _named_points(kept, points):
    """(cost, score) of the points named: of two that are alike, either may come first. None twice: the second time it
    is no point."""
    numbers = [int(i) for i in kept]
    return [(-1.0, -1.0) if i in numbers[:at] else points[i] for at, i in enumerate(numbers)]


@exercise(
    "Which networks does no other beat?",
    hints=(
        "When is a network of no use? When another one is at least as good *and* at most as dear, and better in one of "
        "the two.",
        "So keep i if there is no j with cost[j] <= cost[i] and score[j] >= score[i], one of them strictly. Two that are "
        "alike in both do not beat each other.",
        "kept = [i for i, (c, s) in enumerate(points) if not any(C <= c and S >= s and (C, S) != (c, s) for C, S in "
        "points)]; then sort by cost.",
    ),
    cases=lambda: [
        ([(3.0, 0.55), (1.0, 0.30), (2.0, 0.35), (6.0, 0.60), (5.0, 0.50), (2.5, 0.20)],),
        ([(4.0, 0.6), (2.0, 0.5), (4.0, 0.4), (2.0, 0.5), (9.0, 0.6), (1.0, 0.1)],),
        ([(8.0, 0.9), (5.0, 0.88), (2.0, 0.4), (3.0, 0.42), (4.0, 0.41), (7.0, 0.88)],),
        ([(1.0, 0.4), (1.0, 0.5), (2.0, 0.7)],),
    ],
    observe=_named_points,
    mistakes={
        "You drop a point only if another is better in both. One that is as good and cheaper, or as cheap and better, beats it too.": _better_in_both,
        "You drop a point as soon as another is better in *one* of the two. To beat it, that one must not be worse in the other.": _better_in_one,
        "Two that are alike in both beat each other with you, and both are gone. Ask for one difference at least.": _twins_beat_each_other,
        "You take a high cost for good. A cost should be low, a score high.": _dear_is_good,
        "You take a low score for good. A cost should be low, a score high.": _low_is_good,
        "That is the convex hull: it leaves out points that lie under a line between two others, though neither of these two beats them.": _hull,
        "Score divided by cost is one number, and one taste: it finds one point of the front. Asked are all that nothing beats.": _best_ratio,
        "The cheapest and the best are on the front, but between them there are others.": _best_and_cheapest,
        "Those are the ones that are beaten.": _beaten_ones,
        "The right ones, from dear to cheap. Asked is the order of rising cost.": _by_score,
        "The right ones, in the order in which they came. Asked is the order of rising cost.": _in_their_order,
        "Of two that are alike in both you keep one. Neither beats the other: both stay.": _one_of_twins,
        "Better than the mean is another question: a cheap one may score less than most, and nothing beats it at its price.": _above_the_mean,
        "You look only among the cheaper ones. One that costs the same and scores more beats it, too.": _cheaper_ones_only,
        "Of two that are alike in both you give the first one's number twice.": _first_found_of_twins,
        "You go through the points in the order given. Go from cheap to dear: sort first.": _first_of_the_order,
    },
    praise="All others have something beside them that is as good for less.",
    advice="For each point look for another that costs no more, scores no less, and differs in one of the two.",
)
def front(points):
    """points: a list of (cost, score) -> the numbers (from 0) of those that no other point beats, by rising cost. One
    beats another where it costs no more and scores no less, and is better in at least one of the two."""
    def beats(one, other):
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    kept = [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    return sorted(kept, key=lambda i: points[i][0])


# -- who_is_right(first, second, truth)


def _counted(apart, first, second, truth):
    """Of the pixels `apart`: how many, where the first is right, where the second, where neither."""
    a, b = apart & (first == truth), apart & (second == truth)
    return [int(each.sum()) for each in (apart, a, b, apart & ~a & ~b)]


def _void_counted(first, second, truth):
    return _counted(first != second, first, second, truth)


def _right_anywhere(first, second, truth):
    known = truth != 255
    a, b = (known & (each == truth) for each in (first, second))
    return [int(each.sum()) for each in (known & (first != second), a, b, known & ~a & ~b)]


def _one_alone_is_wrong(first, second, truth):
    known = truth != 255
    apart = known & ((first == truth) != (second == truth))
    return _counted(apart, first, second, truth)


def _as_shares(first, second, truth):
    apart, *rest = who_is_right.reference(first, second, truth)
    return [apart / int((truth != 255).sum()), *(each / apart for each in rest)]


def _shares_of_the_picture(first, second, truth):
    return [each / truth.numel() for each in who_is_right.reference(first, second, truth)]


def _shares_of_the_labelled(first, second, truth):
    return [each / int((truth != 255).sum()) for each in who_is_right.reference(first, second, truth)]


def _swapped(first, second, truth):
    apart, a, b, neither = who_is_right.reference(first, second, truth)
    return [apart, b, a, neither]


def _neither_left_out(first, second, truth):
    return who_is_right.reference(first, second, truth)[:3]


def _second_is_right_else(first, second, truth):
    apart, a, _, _ = who_is_right.reference(first, second, truth)
    return [apart, a, apart - a, 0]


def _agreeing(first, second, truth):
    return _counted((truth != 255) & (first == second), first, second, truth)


def _both_wrong_anywhere(first, second, truth):
    apart, a, b, _ = who_is_right.reference(first, second, truth)
    wrong = (truth != 255) & (first != truth) & (second != truth)
    return [apart, a, b, int(wrong.sum())]


def _void_as_neither(first, second, truth):
    apart, a, b, neither = who_is_right.reference(first, second, truth)
    return [apart, a, b, neither + int(((truth == 255) & (first != second)).sum())]


def _disputed(height, width, classes, seed):
    """Two label maps that often agree, and a truth with void."""
    noise = torch.Generator().manual_seed(seed)
    truth, other, third = torch.randint(classes, (3, height, width), generator=noise)
    a, b, void = torch.rand(3, height, width, generator=noise)
    first, second = torch.where(a < 0.7, truth, other), torch.where(b < 0.6, truth, third)
    return first, second, torch.where(void < 0.1, 255, truth)


@exercise(
    "Two networks disagree: who is right?",
    hints=(
        "First which pixels: labelled ones (the truth is not 255) on which the two differ.",
        "Of these: the first is right where it equals the truth, the second likewise. Both cannot be; but neither may be.",
        "apart = (truth != 255) & (first != second); (apart & (first == truth)).sum() and so on",
    ),
    cases=lambda: [_disputed(9, 14, 4, 0), _disputed(30, 20, 3, 1), _disputed(6, 6, 21, 2)],
    mistakes={
        "Void pixels are among yours: there nobody can be right. Leave out truth == 255.": _void_counted,
        "You count rights over the whole picture. Asked are those among the pixels on which the two differ.": _right_anywhere,
        "You left out the pixels on which both are wrong, each in its own way. They disagree there, too.": _one_alone_is_wrong,
        "Counts are asked for, not shares of each other: counts of many pictures can be added.": _as_shares,
        "Counts are asked for, not shares of the picture: counts of many pictures can be added.": _shares_of_the_picture,
        "Counts are asked for, not shares of the labelled pixels: counts of many pictures can be added.": _shares_of_the_labelled,
        "First and second have changed places.": _swapped,
        "The fourth number is missing: pixels on which they differ and neither is right.": _neither_left_out,
        "Where the first is wrong the second need not be right: with more than two classes both may be wrong, differently.": _second_is_right_else,
        "Those are the pixels on which they agree.": _agreeing,
        "The fourth number counts pixels on which both say the same wrong thing. Only where they differ.": _both_wrong_anywhere,
        "Void pixels are in your fourth number: there nobody is wrong, either. Leave out truth == 255.": _void_as_neither,
    },
    praise="The last three add up to the first. A difference in mean IoU says nothing of how much two networks share.",
    advice="(differ, first right, second right, neither), all among labelled pixels on which the two differ.",
)
def who_is_right(first, second, truth):
    """Label maps (H, W) of two networks, and the truth, 255 for void -> four counts of labelled pixels: on which the two
    differ; and of these, on which the first is right, the second is right, neither is."""
    apart = (truth != 255) & (first != second)
    a, b = apart & (first == truth), apart & (second == truth)
    return [int(each.sum()) for each in (apart, a, b, apart & ~a & ~b)]


# -- relabelled(mask, table)


def _with_default(mask, table, default):
    labels = torch.full_like(mask, default)
    for number, label in table.items():
        labels[mask == number] = label
    return labels


def _one_after_the_other(mask, table):
    labels = mask.clone()
    for number, label in table.items():
        labels[labels == number] = label
    labels[~torch.isin(mask, torch.tensor(list(table)))] = 255
    return labels


def _all_in_place(mask, table):
    labels = mask.clone()
    for number, label in table.items():
        labels[labels == number] = label
    return labels


def _others_stay(mask, table):
    labels = mask.clone()
    for number, label in table.items():
        labels[mask == number] = label
    return labels


def _others_are_background(mask, table):
    return _with_default(mask, table, 0)


def _others_are_a_class(mask, table):
    return _with_default(mask, table, max(table.values()) + 1)


def _others_negative(mask, table):
    return _with_default(mask, table, -1)


def _table_backwards(mask, table):
    return _with_default(mask, {label: number for number, label in table.items()}, 255)


def _numbered_as_listed(mask, table):
    return _with_default(mask, {number: place for place, number in enumerate(table)}, 255)


def _numbered_by_size(mask, table):
    return _with_default(mask, {number: place for place, number in enumerate(sorted(table))}, 255)


def _one_less(mask, table):
    labels = mask - 1
    labels[~torch.isin(mask, torch.tensor(list(table)))] = 255
    return labels


def _zero_is_void(mask, table):
    labels = relabelled.reference(mask, table)
    labels[mask == 0] = 255
    return labels


def _nearest_number(mask, table):
    numbers = torch.tensor(list(table))
    nearest = (mask[..., None] - numbers).abs().argmin(-1)
    return torch.tensor(list(table.values()))[nearest]


@exercise(
    "Bring a mask to your labels",
    hints=(
        "Begin with a mask that is void everywhere; then write each label where the *old* mask has its number.",
        "Do not write into the mask that you read: if 1 becomes 2 and then 2 becomes 5, the 1s have become 5s.",
        "labels = torch.full_like(mask, 255); for number, label in table.items(): labels[mask == number] = label",
    ),
    cases=lambda: [
        (torch.tensor([[0, 1, 2, 3], [3, 2, 9, 0], [255, 1, 1, 2]]), {0: 3, 1: 2, 2: 0, 3: 1}),
        (torch.tensor([[7, 8, 11], [21, 7, 26], [0, 26, 23], [12, 255, 4]]), {26: 2, 7: 0, 8: 0, 11: 1, 23: 4, 0: 3}),
        (torch.tensor([[5, 1], [2, 128]]), {1: 2, 2: 1, 128: 0}),
    ],
    mistakes={
        "You read what you have just written: a number that became another is changed again. Compare with the old mask.": _one_after_the_other,
        "You change the mask step by step, and what became another number is changed again; and numbers that the table does not name stay.": _all_in_place,
        "Numbers that the table does not name stay as they are, and turn into classes. They are void: 255.": _others_stay,
        "Numbers that the table does not name became 0, a class: the network is taught that the unknown is class 0. They are void: 255.": _others_are_background,
        "Numbers that the table does not name became a class of their own. They are void: 255.": _others_are_a_class,
        "Numbers that the table does not name are void, and void is 255, not -1.": _others_negative,
        "You read the table backwards: it leads from the mask's numbers to the labels.": _table_backwards,
        "You number the entries as they are listed. The label is the table's value.": _numbered_as_listed,
        "You number the entries by their size. The label is the table's value; two numbers may have one label.": _numbered_by_size,
        "You took one off each number. That fits a table such as {1: 0, 2: 1} alone: look each number up.": _one_less,
        "A 0 in the mask is a number like the others: the table says what it means.": _zero_is_void,
        "You took the nearest number of the table. A number lies near to nothing: 8 is no more like 7 than like 26.": _nearest_number,
    },
    praise="Nothing unknown was given a name, and nothing was renamed twice.",
    advice="Where the old mask has a number of the table, its label; everywhere else 255.",
)
def relabelled(mask, table):
    """mask (H, W), int64: numbers as a labelling program wrote them; table: {its number: label} -> labels (H, W): 255,
    void, for every number that the table does not name."""
    labels = torch.full_like(mask, 255)
    for number, label in table.items():
        labels[mask == number] = label
    return labels


EXERCISES = {item.name: item for item in (interval, front, who_is_right, relabelled)}
