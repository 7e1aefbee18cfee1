"""Exercises of lesson 06, FCN and skips."""

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "FCN and skips"


# -- class_weights(counts)


def _over_all_images(counts):
    frequency = counts.sum(0) / counts.sum()
    return frequency.median() / frequency


def _upside_down(counts):
    return 1 / class_weights.reference(counts)


def _mean_for_median(counts):
    frequency = _frequency(counts)
    return frequency.mean() / frequency


def _one_over_frequency(counts):
    return 1 / _frequency(counts)


def _made_to_sum_to_one(counts):
    weights = class_weights.reference(counts)
    return weights / weights.sum()


def _mean_of_shares(counts):
    shares = counts / counts.sum(1, keepdim=True)
    frequency = torch.stack([share[share > 0].mean() for share in shares.T])
    return frequency.median() / frequency


def _images_counted(counts):
    frequency = (counts > 0).float().mean(0)
    return frequency.median() / frequency


def _pixels_per_image(counts):
    pixels = counts.sum(0) / (counts > 0).sum(0)
    return pixels.median() / pixels


def _rooted(counts):
    return class_weights.reference(counts).sqrt()


def _frequencies_alone(counts):
    return _frequency(counts)


def _frequency(counts):
    seen = torch.where(counts > 0, counts.sum(1, keepdim=True), 0).sum(0)
    return counts.sum(0) / seen


def _counts(images, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 900, (images, classes), generator=generator)
    counts[torch.rand(images, classes, generator=generator) < 0.4] = 0
    counts[torch.arange(classes) % images, torch.arange(classes)] = 50      # every class is somewhere
    return counts


@exercise(
    "Weigh the classes",
    hints=(
        "For each class: which images hold it? How many pixels do those images have in all, of any class?",
        "frequency[c] = pixels of c in all images / pixels of the images with counts[:, c] > 0. Then median / frequency.",
        "pixels = torch.where(counts > 0, counts.sum(1, keepdim=True), 0).sum(0); frequency = counts.sum(0) / pixels; "
        "return frequency.median() / frequency",
    ),
    cases=lambda: [
        (torch.tensor([[90, 10, 0], [50, 0, 50], [30, 30, 40]]),),
        (torch.tensor([[8, 1, 1]]),),
        *[(_counts(images, classes, seed),) for seed, (images, classes) in enumerate([(4, 5), (9, 7), (3, 3)])],
    ],
    mistakes={
        "You divided by the pixels of all images. Only the images that hold the class count, for each class anew.": _over_all_images,
        "Upside down: a rare class must weigh more than 1, a common one less. Median over frequency.": _upside_down,
        "You took the mean of the frequencies. A few common classes pull it up; asked for is the median.": _mean_for_median,
        "You have 1 / frequency. Multiply it by the median, so that the class in the middle weighs 1.": _one_over_frequency,
        "Your weights sum to 1. Leave them: the class in the middle weighs 1.": _made_to_sum_to_one,
        "You took the mean of the shares in each image. Add up the pixels first, then divide once: small images count less.": _mean_of_shares,
        "You counted in how many images a class is. Count its pixels there.": _images_counted,
        "You divided by the number of images that hold the class. Divide by their pixels: images differ in size, and in void.": _pixels_per_image,
        "That is the square root of the weight. The lesson takes it later; here the weight itself is asked for.": _rooted,
        "Those are the frequencies. The weight is their median over each of them.": _frequencies_alone,
    },
    praise="A class in few images is not punished for the images that it is not in.",
    advice="One class at a time: take the images where its count is not 0, and divide its pixels by all of theirs.",
)
def class_weights(counts):
    """counts (N, C), pixels of each class in each image -> weights (C,). Every class is in some image, and C is odd,
    so that one class is in the middle."""
    pixels = torch.where(counts > 0, counts.sum(1, keepdim=True), 0).sum(0)     # of the images that hold the class
    frequency = counts.sum(0) / pixels
    return frequency.median() / frequency


# -- fuse(coarse, fine)


def _twice(coarse, **options):
    return F.interpolate(coarse, scale_factor=2, **options)


def _nearest(coarse, fine):
    return _twice(coarse, mode="nearest") + fine


def _corners_aligned(coarse, fine):
    return _twice(coarse, mode="bilinear", align_corners=True) + fine


def _bicubic(coarse, fine):
    return _twice(coarse, mode="bicubic") + fine


def _one_upon_the_other(coarse, fine):
    return torch.cat([_twice(coarse, mode="bilinear"), fine], 1)


def _averaged(coarse, fine):
    return fuse.reference(coarse, fine) / 2


def _larger_of_both(coarse, fine):
    return torch.maximum(_twice(coarse, mode="bilinear"), fine)


def _multiplied(coarse, fine):
    return _twice(coarse, mode="bilinear") * fine


def _fine_made_small(coarse, fine):
    return coarse + F.avg_pool2d(fine, 2)


def _coarse_alone(coarse, fine):
    return _twice(coarse, mode="bilinear")


def _zeros_at_the_border(coarse, fine):
    kernel = torch.tensor([1.0, 3, 3, 1]) / 4
    weight = torch.outer(kernel, kernel).expand(coarse.shape[1], 1, 4, 4)
    return F.conv_transpose2d(coarse, weight, stride=2, padding=1, groups=coarse.shape[1]) + fine


def _zeros_between(coarse, fine):
    large = torch.zeros_like(fine)
    large[..., ::2, ::2] = coarse
    return large + fine


def _maps(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    return (torch.randn(shape, generator=generator),
            torch.randn(batch, channels, 2 * height, 2 * width, generator=generator))


@exercise(
    "Add a skip",
    hints=(
        "Two maps of scores, one half as large as the other. What must happen before they can be added?",
        "Enlarge the coarse one, twice, bilinearly, corners not aligned (lesson 4): F.interpolate does it.",
        'F.interpolate(coarse, scale_factor=2, mode="bilinear") + fine',
    ),
    cases=lambda: [
        _maps(1, 1, 2, 2, seed=0), _maps(2, 3, 4, 4, seed=1), _maps(1, 10, 3, 5, seed=2), _maps(1, 2, 1, 4, seed=3),
        _maps(3, 1, 6, 2, seed=4),
    ],
    mistakes={
        "You repeated each score in a 2 x 2 block: nearest. The skip begins as bilinear.": _nearest,
        "Your corners are aligned: the corner cells do not move, and all others lie between wrong pixels. Leave align_corners out.": _corners_aligned,
        "That is bicubic. FCN's upsampling begins bilinear.": _bicubic,
        "You laid the maps one upon the other: that is what U-Net does (lesson 8). FCN adds scores, class by class.": _one_upon_the_other,
        "You took the mean of the two. FCN adds them; the weights learn what each should count.": _averaged,
        "You took the larger of the two. The authors tried that, and learning became difficult. Add.": _larger_of_both,
        "You multiplied. Scores are added, as if both were evidence for a class.": _multiplied,
        "You made the fine map small. Then its detail is gone: enlarge the coarse one.": _fine_made_small,
        "The fine map is missing from your sum.": _coarse_alone,
        "Right inside. At the border your transposed convolution meets zeros; here the edge is repeated, as F.interpolate does.": _zeros_at_the_border,
        "You put zeros between the coarse scores. Three of four pixels then know nothing of them: interpolate.": _zeros_between,
    },
    praise="That is all a skip of FCN is: an upsampling and a sum of scores.",
    advice="The result has the size of `fine`, and with fine = 0 it is the coarse map, enlarged bilinearly.",
)
def fuse(coarse, fine):
    """coarse (B, C, H, W), fine (B, C, 2 H, 2 W), both scores of C classes -> their sum (B, C, 2 H, 2 W): the coarse
    map enlarged bilinearly (corners not aligned), plus the fine one."""
    return F.interpolate(coarse, scale_factor=2, mode="bilinear") + fine


# -- crop_offset(padding, poolings, fc6, kernel)


def _place(padding, poolings, fc6, first=1.0, half=0.5, window=1.0):
    place = padding - first
    for _ in range(poolings):
        place = (place - half) / 2
    return place - window * (fc6 - 1) / 2


def _all_the_padding(padding, poolings, fc6, kernel):
    return padding


def _first_convolution_forgotten(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6, first=0) * 2**poolings + (kernel - 1) / 2


def _centres_forgotten(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6, half=0) * 2**poolings + (kernel - 1) / 2


def _fc6_forgotten(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6, window=0) * 2**poolings + (kernel - 1) / 2


def _fc6_whole(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6, window=2) * 2**poolings + (kernel - 1) / 2


def _kernel_forgotten(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6) * 2**poolings


def _stride_of_two(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6) * 2 + (kernel - 1) / 2


def _half_a_kernel(padding, poolings, fc6, kernel):
    return _place(padding, poolings, fc6) * 2**poolings + kernel / 2


def _rounded_on_the_way(padding, poolings, fc6, kernel):
    place = padding - 1
    for _ in range(poolings):
        place //= 2
    return (place - fc6 // 2) * 2**poolings + (kernel - 1) // 2


def _as_by_the_paper(padding, poolings, fc6, kernel):
    return 19


def _other_way_round(padding, poolings, fc6, kernel):
    return -crop_offset.reference(padding, poolings, fc6, kernel)


def _half_of_what_is_too_much(padding, poolings, fc6, kernel):
    size = 224 + 2 * padding - 2
    for _ in range(poolings):
        size = -(-size // 2)
    return ((size - fc6) * 2**poolings + kernel - 224) // 2


@exercise(
    "Where does pixel 0 come out?",
    hints=(
        "Follow one place, the centre of the image's first pixel, as a number: which row of each map is it? It need not be whole.",
        "Padding by p and a 3 x 3 convolution: 0 becomes p - 1. A pooling: x becomes (x - 1/2) / 2. fc6, k wide: "
        "x - (k - 1) / 2. The transposed convolution: x * stride + (kernel - 1) / 2.",
        "place = padding - 1; poolings times: place = (place - 0.5) / 2; place -= (fc6 - 1) / 2; "
        "place = place * 2**poolings + (kernel - 1) / 2",
    ),
    cases=lambda: [
        (100, 5, 7, 64), (81, 5, 7, 64), (120, 5, 7, 64), (100, 4, 7, 32), (100, 3, 7, 16), (100, 5, 3, 64), (1, 5, 1, 64),
        (1, 3, 1, 16), (1, 5, 7, 64),
    ],
    mistakes={
        "That would be so if only the padding moved the image. fc6 takes away again: (fc6 - 1) / 2 places, each as wide as all poolings make it.": _all_the_padding,
        "The first convolution is 3 x 3 wide: it takes a row away on each side. Padding by p moves by p - 1.": _first_convolution_forgotten,
        "A pooled cell lies between its two rows: 0 and 1 make a cell at 1/2. So x becomes (x - 1/2) / 2.": _centres_forgotten,
        "fc6 has no padding: its first place is the middle of its window, (fc6 - 1) / 2 rows further in.": _fc6_forgotten,
        "fc6 takes (fc6 - 1) / 2 rows on each side; you took both sides at once.": _fc6_whole,
        "The transposed convolution stamps a kernel; the middle of the first stamp is (kernel - 1) / 2 rows from its edge.": _kernel_forgotten,
        "The middle of `kernel` rows, 0 to kernel - 1, is (kernel - 1) / 2.": _half_a_kernel,
        "You rounded on the way. The places need not be whole; only the last one is.": _rounded_on_the_way,
        "The last layer's stride undoes all poolings: 2**poolings.": _stride_of_two,
        "19 is the answer for one network. What if it pads by 81?": _as_by_the_paper,
        "The sign is the wrong way round: positive where rows must be cut off at the top.": _other_way_round,
        "You cut the same at both ends of some size of image. The answer does not depend on the size.": _half_of_what_is_too_much,
    },
    praise="19, 27, 31: three numbers that people have copied for years. Now you can derive them.",
    advice="Follow a single number through the four kinds of layers. For (100, 5, 7, 64) it is 99, then 2.609..., then "
           "-0.390..., then 19.",
)
def crop_offset(padding, poolings, fc6, kernel):
    """The row of the output that belongs to row 0 of the image: a 3 x 3 convolution that pads by `padding`, poolings of
    2 x 2, fc6 x fc6 without padding, a transposed convolution with `kernel` and stride 2**poolings."""
    place = padding - 1
    for _ in range(poolings):
        place = (place - 0.5) / 2
    place -= (fc6 - 1) / 2
    return round(place * 2**poolings + (kernel - 1) / 2)


# -- hypercolumns(maps, height, width)


def _large(x, height, width, **options):
    return F.interpolate(x, size=(height, width), **options)


def _columns_nearest(maps, height, width):
    return torch.cat([_large(x, height, width, mode="nearest") for x in maps], 1)


def _columns_aligned(maps, height, width):
    return torch.cat([_large(x, height, width, mode="bilinear", align_corners=True) for x in maps], 1)


def _columns_reversed(maps, height, width):
    return hypercolumns.reference(maps[::-1], height, width)


def _columns_added(maps, height, width):
    return sum(_large(x, height, width, mode="bilinear").sum(1, keepdim=True) for x in maps)


def _last_map_alone(maps, height, width):
    return _large(maps[-1], height, width, mode="bilinear")


def _beside_each_other(maps, height, width):
    least = min(x.shape[1] for x in maps)
    return torch.cat([_large(x[:, :least], height, width, mode="bilinear") for x in maps], 3)


def _size_of_the_first(maps, height, width):
    return hypercolumns.reference(maps, *maps[0].shape[2:])


def _height_and_width_swapped(maps, height, width):
    return hypercolumns.reference(maps, width, height)


def _columns_last(maps, height, width):
    return hypercolumns.reference(maps, height, width).permute(0, 2, 3, 1)


def _some_maps(height, width, *scales, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 2 + i, height // s, width // s, generator=generator) for i, s in enumerate(scales)]
    return maps, height, width


@exercise(
    "Stack the hypercolumns",
    hints=(
        "Each map has another size and another number of channels. Which of the two must be made equal before they can be stacked?",
        "Enlarge each map to (height, width) bilinearly, corners not aligned; then torch.cat along the channels, dim 1.",
        'torch.cat([F.interpolate(x, size=(height, width), mode="bilinear") for x in maps], dim=1)',
    ),
    cases=lambda: [
        _some_maps(16, 24, 2, 4, 8, seed=0), _some_maps(8, 8, 2, 4, seed=1), _some_maps(12, 16, 4, 2, seed=2),
        _some_maps(16, 8, 4, 8, seed=3), _some_maps(8, 16, 1, 4, seed=4),
        ([torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(5))], 16, 24),
    ],
    mistakes={
        "You repeated each value: nearest. Between two values the paper interpolates, bilinearly.": _columns_nearest,
        "Your corners are aligned. Leave align_corners out, or give False.": _columns_aligned,
        "The maps are stacked in reverse order. Keep the order of the list.": _columns_reversed,
        "You added everything up. A hypercolumn keeps each number: stack the channels.": _columns_added,
        "Only the last map is there. A hypercolumn holds all of them.": _last_map_alone,
        "You put the maps beside each other. Stack them along the channels, dim 1.": _beside_each_other,
        "Your maps have the size of the first one. Asked for: height x width.": _size_of_the_first,
        "Height and width have changed places.": _height_and_width_swapped,
        "Your channels come last. In PyTorch they are dim 1: (B, channels, height, width).": _columns_last,
    },
    praise="Each pixel now carries everything that the layers above it know.",
    advice="The result has as many channels as all maps together, and at each pixel the interpolated value of each.",
)
def hypercolumns(maps, height, width):
    """maps: a list of (B, C_i, H_i, W_i), of several sizes -> (B, sum of the C_i, height, width): each enlarged
    bilinearly (corners not aligned), stacked in the list's order."""
    return torch.cat([F.interpolate(x, size=(height, width), mode="bilinear") for x in maps], dim=1)


EXERCISES = {item.name: item for item in (class_weights, fuse, crop_offset, hypercolumns)}
