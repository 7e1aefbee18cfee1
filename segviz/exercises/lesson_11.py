"""Exercises of lesson 11: the dense CRF."""

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

# -- energy(labels, p, weights)


def _own(labels, p):
    return -p[labels, torch.arange(len(labels))].log().sum()


def _unlike(labels):
    return labels[:, None] != labels


def _pairs_twice(labels, p, weights):
    return _own(labels, p) + (weights * _unlike(labels)).sum()


def _like_pairs_pay(labels, p, weights):
    return _own(labels, p) + (weights * ~_unlike(labels)).triu(1).sum()


def _pairs_are_paid(labels, p, weights):
    return _own(labels, p) - (weights * _unlike(labels)).sum() / 2


def _sign_of_log(labels, p, weights):
    return -_own(labels, p) + (weights * _unlike(labels)).sum() / 2


def _no_logarithm(labels, p, weights):
    return -p[labels, torch.arange(len(labels))].sum() + (weights * _unlike(labels)).sum() / 2


def _pairs_alone(labels, p, weights):
    return (weights * _unlike(labels)).sum() / 2


def _own_alone(labels, p, weights):
    return _own(labels, p)


def _distance_of_labels(labels, p, weights):
    return _own(labels, p) + (weights * (labels[:, None] - labels).abs()).sum() / 2


def _neighbours_alone(labels, p, weights):
    return _own(labels, p) + (weights.diag(1) * (labels[1:] != labels[:-1])).sum()


def _every_label(labels, p, weights):
    return -p.log().sum() + (weights * _unlike(labels)).sum() / 2


def _best_label(labels, p, weights):
    return -p.amax(0).log().sum() + (weights * _unlike(labels)).sum() / 2


def _averaged(labels, p, weights):
    return energy.reference(labels, p, weights) / len(labels)


def _pairs_counted(labels, p, weights):
    return _own(labels, p) + _unlike(labels).sum() / 2


def _mean_of_the_own(labels, p, weights):
    return _own(labels, p) / len(labels) + (weights * _unlike(labels)).sum() / 2


def _softmax_of_probabilities(labels, p, weights):
    return F.cross_entropy(p.T, labels, reduction="sum") + (weights * _unlike(labels)).sum() / 2


def _chance(labels, p, weights):
    return (-energy.reference(labels, p, weights)).exp()


def _one_a_pixel(labels, p, weights):
    return -p[labels, torch.arange(len(labels))].log() + (weights * _unlike(labels)).sum(1) / 2


def _whole_rows(labels, p, weights):
    return -p[labels].log().sum() + (weights * _unlike(labels)).sum() / 2


def _energy_cases():
    generator = torch.Generator().manual_seed(0)
    cases = []
    for classes, count in ((2, 2), (3, 5), (3, 5), (4, 6)):
        p = torch.randn(classes, count, generator=generator).softmax(0)
        weights = torch.rand(count, count, generator=generator) + torch.eye(count)
        cases.append((torch.randint(classes, (count,), generator=generator), p, weights + weights.T))
    return [(torch.tensor([0, 1]), *cases[0][1:]), *cases[1:], (torch.zeros(6, dtype=torch.int64), *cases[3][1:])]


@exercise(
    "Give a labelling its energy",
    hints=(
        "Two sums. Over pixels: -log of the probability of the label that each has. Over pairs: the weight, where labels "
        "differ.",
        "p[labels, torch.arange(len(labels))] picks each pixel's own; labels[:, None] != labels says which pairs differ.",
        "In that table each pair stands twice, (i, j) and (j, i): take half of the sum.",
    ),
    cases=_energy_cases,
    mistakes={
        "In the table of pairs each one stands twice, as (i, j) and as (j, i). Count it once.": _pairs_twice,
        "The other way round: pairs of *unlike* labels pay their weight.": _like_pairs_pay,
        "Unlike pairs make the energy higher, not lower: add their weights.": _pairs_are_paid,
        "The network's part has the wrong sign: -log p, small where the network agrees.": _sign_of_log,
        "Of the network's probabilities take -log: they are to be multiplied, so their logarithms are to be added.": _no_logarithm,
        "What the network says is missing: -log p of each pixel's label.": _pairs_alone,
        "That is the network alone. The pairs are missing.": _own_alone,
        "Unlike is unlike: labels 0 and 3 pay no more than 0 and 1. They are names, not numbers.": _distance_of_labels,
        "You went over neighbours alone. Every pixel forms a pair with every other one.": _neighbours_alone,
        "You added -log p of all labels. Each pixel has one.": _every_label,
        "You took the label that the network likes best. Asked for is the energy of the labels that are given.": _best_label,
        "That is a mean. Energies are sums.": _averaged,
        "You counted the unlike pairs. Each pays its own weight.": _pairs_counted,
        "The network's part is a mean here (cross_entropy takes one by default). Energies are sums.": _mean_of_the_own,
        "p are probabilities already: cross_entropy takes a softmax of what it is given, so give it p.log().": _softmax_of_probabilities,
        "That is exp(-E). Asked for is E itself.": _chance,
        "That is a number for each pixel. The energy is one number for the whole labelling: their sum.": _one_a_pixel,
        "p[labels] takes whole rows of p, all pixels for each label. p[labels, torch.arange(N)] takes each pixel's own.": _whole_rows,
    },
    praise="Low is good: the network agrees, and pixels that belong together have one label.",
    advice="Two pixels with labels 0 and 1: -log p[0, 0] - log p[1, 1] + weights[0, 1].",
)
def energy(labels, p, weights):
    """labels (N,): one for each pixel; p (C, N): the network's probabilities; weights (N, N), symmetric: what a pair
    pays where its labels differ -> the energy of this labelling, a number."""
    own = -p[labels, torch.arange(len(labels))].log()
    unlike = labels[:, None] != labels
    return own.sum() + (weights * unlike).sum() / 2


# -- heard(q, p, weights)


def _others(weights):
    return weights - weights.diag().diag()


def _hears_itself(q, p, weights):
    return (p.log() + q @ weights).softmax(0)


def _over_pixels(q, p, weights):
    return (p.log() + q @ _others(weights)).softmax(1)


def _without_log(q, p, weights):
    return (p + q @ _others(weights)).softmax(0)


def _from_last_marginals(q, p, weights):
    return (q.log() + q @ _others(weights)).softmax(0)


def _not_normalised(q, p, weights):
    return (p.log() + q @ _others(weights)).exp()


def _scores(q, p, weights):
    return p.log() + q @ _others(weights)


def _repelled(q, p, weights):
    return (p.log() - q @ _others(weights)).softmax(0)


def _network_forgotten(q, p, weights):
    return (q @ _others(weights)).softmax(0)


def _mean_message(q, p, weights):
    others = _others(weights)
    return (p.log() + q @ others / others.sum(0)).softmax(0)


def _hard_labels(q, p, weights):
    hard = torch.zeros_like(q).scatter(0, q.argmax(0, keepdim=True), 1.0)
    return (p.log() + hard @ _others(weights)).softmax(0)


def _one_after_the_other(q, p, weights):
    q, others = q.clone(), _others(weights)
    for i in range(q.shape[1]):
        q[:, i] = (p[:, i].log() + q @ others[:, i]).softmax(0)
    return q


def _what_the_network_says(q, p, weights):
    return (p.log() + p @ _others(weights)).softmax(0)


def _half_of_it(q, p, weights):
    return (p.log() + q @ _others(weights) / 2).softmax(0)


def _products(q, p, weights):
    new = p * (q @ _others(weights))
    return new / new.sum(0)


def _added_to_p(q, p, weights):
    new = p + q @ _others(weights)
    return new / new.sum(0)


def _earlier_ones_alone(q, p, weights):
    return (p.log() + q @ weights.triu(1)).softmax(0)


def _messages_as_logs(q, p, weights):
    return (p.log() + q.log() @ _others(weights)).softmax(0)


def _one_taken_off(q, p, weights):
    return (p.log() + q @ (weights - torch.eye(len(weights)))).softmax(0)


def _mixed_with_the_old(q, p, weights):
    return (heard.reference(q, p, weights) + q) / 2


def _turned_over(q, p, weights):
    return heard.reference(q, p, weights).T


def _heard_cases():
    generator = torch.Generator().manual_seed(1)
    cases = []
    for classes, count in ((2, 3), (3, 5), (4, 7)):
        q, p = torch.randn(2, classes, count, generator=generator).softmax(1)
        weights = torch.rand(count, count, generator=generator) + torch.eye(count)
        cases.append((q, p, weights + weights.T))
    return cases


@exercise(
    "Hear all others once",
    hints=(
        "Column i of weights says how loud each pixel is to pixel i. What does it hear for each label? (C, N) @ (N, N).",
        "It must not hear itself: put zeros on the diagonal, weights - weights.diag().diag().",
        "Add what is heard to p.log(), and take the softmax over the labels, dimension 0.",
    ),
    cases=_heard_cases,
    mistakes={
        "Here a pixel hears itself too. There is no pair of a pixel and itself: put zeros on the diagonal.": _hears_itself,
        "The softmax went over the pixels. Each pixel's numbers for the labels are to be 1 in sum: dimension 0.": _over_pixels,
        "The network's part is log p: the update's exponential makes p of it again.": _without_log,
        "You started from log q. The network's own p comes in anew each time, or its word is counted twice, three times...": _from_last_marginals,
        "Divide by the sum over the labels: they are to be probabilities.": _not_normalised,
        "Those are scores. Their softmax over the labels is asked for.": _scores,
        "The sign: what others believe makes a label *more* likely here.": _repelled,
        "The network is forgotten: add log p.": _network_forgotten,
        "You averaged what is heard. It is a sum: many say more than few.": _mean_message,
        "You let everyone say their best label only. They say q, doubts and all.": _hard_labels,
        "You used new marginals as soon as they were there. All pixels hear the *old* ones, at once.": _one_after_the_other,
        "All say p, what the network said first. They are to say q, what they believe by now.": _what_the_network_says,
        "Half of it: each pair counts once in the energy, and in the update of either pixel in full.": _half_of_it,
        "You multiplied by what is heard. Its *exponential* multiplies p.": _products,
        "You added what is heard to p. It belongs to log p, under the softmax.": _added_to_p,
        "In triu(1) each pixel hears those before it alone. In an energy a pair counts once; here both hear each other.": _earlier_ones_alone,
        "The others' q come as they are, not as logarithms. Only p is under the log.": _messages_as_logs,
        "You took 1 off the diagonal, whatever stands there. Take off the diagonal itself: weights.diag().diag().": _one_taken_off,
        "You mixed new and old marginals. The new ones replace the old.": _mixed_with_the_old,
        "Labels and pixels have changed places: (C, N) goes in and comes out.": _turned_over,
    },
    praise="Log p, messages, softmax: that is a whole iteration of mean field.",
    advice="One pixel i: log p[:, i] plus the sum over j != i of weights[i, j] * q[:, j], then softmax.",
)
def heard(q, p, weights):
    """One iteration, for all pixels at once. q (C, N): marginals so far; p (C, N): the network's; weights (N, N),
    symmetric -> new marginals (C, N). A pixel does not hear itself, whatever stands on the diagonal."""
    others = weights - weights.diag().diag()
    return (p.log() + q @ others).softmax(0)


# -- appearance(image, xy_std, rgb_std)


def _features(image, xy_std, rgb_std):
    height, width = image.shape[1:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)) / xy_std
    return torch.cat([places, image.flatten(1).T * 255 / rgb_std], dim=1)


def _squared(features):
    return (features[:, None] - features).square().sum(-1)


def _range_forgotten(image, xy_std, rgb_std):
    return (-_squared(_features(image, xy_std, 255 * rgb_std)) / 2).exp()


def _not_halved(image, xy_std, rgb_std):
    return (-_squared(_features(image, xy_std, rgb_std))).exp()


def _not_squared(image, xy_std, rgb_std):
    return (-_squared(_features(image, xy_std, rgb_std)).sqrt() / 2).exp()


def _widths_not_squared(image, xy_std, rgb_std):
    return (-_squared(_features(image, xy_std**0.5, rgb_std**0.5)) / 2).exp()


def _colours_missing(image, xy_std, rgb_std):
    return (-_squared(_features(image, xy_std, rgb_std)[:, :2]) / 2).exp()


def _places_missing(image, xy_std, rgb_std):
    return (-_squared(_features(image, xy_std, rgb_std)[:, 2:]) / 2).exp()


def _added(image, xy_std, rgb_std):
    return _colours_missing(image, xy_std, rgb_std) + _places_missing(image, xy_std, rgb_std)


def _column_by_column(image, xy_std, rgb_std):
    return appearance.reference(image.mT, xy_std, rgb_std)


def _grey(image, xy_std, rgb_std):
    return appearance.reference(image.mean(0, keepdim=True), xy_std, rgb_std)


def _city_blocks(image, xy_std, rgb_std):
    features = _features(image, xy_std, rgb_std)
    return (-(features[:, None] - features).abs().sum(-1).square() / 2).exp()


def _rows_sum_to_one(image, xy_std, rgb_std):
    kernel = appearance.reference(image, xy_std, rgb_std)
    return kernel / kernel.sum(1, keepdim=True)


def _without_itself(image, xy_std, rgb_std):
    kernel = appearance.reference(image, xy_std, rgb_std)
    return kernel - kernel.diag().diag()


def _exponent(image, xy_std, rgb_std):
    return -_squared(_features(image, xy_std, rgb_std)) / 2


def _sign_lost(image, xy_std, rgb_std):
    return (_squared(_features(image, xy_std, rgb_std)) / 2).exp()


def _widths_swapped(image, xy_std, rgb_std):
    return appearance.reference(image, rgb_std, xy_std)


def _volume_one(image, xy_std, rgb_std):
    return appearance.reference(image, xy_std, rgb_std) / (2 * torch.pi * xy_std**2)


def _distances_added(image, xy_std, rgb_std):
    features = _features(image, xy_std, rgb_std)
    return (-(_squared(features[:, :2]).sqrt() + _squared(features[:, 2:]).sqrt()).square() / 2).exp()


def _four_dimensions(image, xy_std, rgb_std):
    return appearance.reference(image, xy_std, rgb_std).view(*image.shape[1:], *image.shape[1:])


def _mean_of_channels(image, xy_std, rgb_std):
    return appearance.reference(image / 3**0.5, xy_std, rgb_std)


def _places_in_shares(image, xy_std, rgb_std):
    features = _features(image, xy_std, rgb_std)
    height, width = image.shape[1:]
    return (-_squared(features / torch.tensor([height, width, 1, 1, 1])) / 2).exp()


def _appearance_cases():
    generator = torch.Generator().manual_seed(2)
    return [(contrast * torch.rand(3, h, w, generator=generator), a, b)
            for h, w, a, b, contrast in ((1, 3, 2.0, 3.0, 0.04), (2, 4, 3.0, 5.0, 0.04), (3, 2, 1.5, 40.0, 1.0))]


@exercise(
    "Say how loud every pixel is to every other",
    hints=(
        "Give each pixel five features: row and column over xy_std, and 255 times its colours over rgb_std. The kernel "
        "is exp(-d / 2), with d the sum of the squared differences of features.",
        "torch.cartesian_prod(torch.arange(height), torch.arange(width)) lists the places row by row; "
        "image.flatten(1).T lists the colours.",
        "With features (N, 5): (features[:, None] - features).square().sum(-1).",
    ),
    cases=_appearance_cases,
    mistakes={
        "The image is in [0, 1], and rgb_std in steps of an 8-bit one: multiply the colours by 255.": _range_forgotten,
        "The 2 is missing: exp(-distance ** 2 / (2 std ** 2)).": _not_halved,
        "The distance stands squared in the exponent.": _not_squared,
        "The widths are to be squared too: divide by the width before squaring.": _widths_not_squared,
        "You used places alone: that is the smoothness kernel. The colours are missing.": _colours_missing,
        "You used colours alone. How far apart the pixels are counts too.": _places_missing,
        "You added a kernel of places and one of colours. Both must be close: the exponents are added, the kernels multiplied.": _added,
        "Your pixels go column by column. They are numbered row by row, as flatten does.": _column_by_column,
        "You used the mean of the three channels. Two colours can be as bright as each other.": _grey,
        "You added the differences before squaring. Square each, then add.": _city_blocks,
        "You divided each row by its sum. That comes later.": _rows_sum_to_one,
        "A pixel is like itself: 1 on the diagonal.": _without_itself,
        "That is the exponent.": _exponent,
        "The sign: pixels that are *far* apart are quiet.": _sign_lost,
        "The widths are swapped: xy_std is for places, rgb_std for colours.": _widths_swapped,
        "You divided by the volume under the Gaussian. No: exp(0) = 1 for a pixel and itself.": _volume_one,
        "You added two distances and squared their sum. Square each, then add.": _distances_added,
        "A table (N, N) is asked for: flatten rows and columns into one, N = H * W, for both pixels of a pair.": _four_dimensions,
        "You took the mean of the three channels' squared differences. |rgb_i - rgb_j|^2 is their sum.": _mean_of_channels,
        "Places are counted in pixels, 0, 1, 2, ..., not in shares of the image.": _places_in_shares,
    },
    praise="N x N numbers: every pair. That is why others approximate it.",
    advice="One row of three equal pixels, xy_std 1: exp(-1/2) side by side, exp(-2) from end to end.",
)
def appearance(image, xy_std, rgb_std):
    """image (3, H, W) in [0, 1] -> (N, N), N = H * W, pixels row by row:
    exp(-|xy_i - xy_j|^2 / (2 xy_std^2) - |rgb_i - rgb_j|^2 / (2 rgb_std^2)), colours as in an 8-bit image."""
    height, width = image.shape[1:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(-1, 2)
    features = torch.cat([places / xy_std, image.flatten(1).T * 255 / rgb_std], dim=1)
    squared = sum((column[:, None] - column).square() for column in features.T)
    return (-squared / 2).exp()


# -- queries_and_keys(features)


def _length(features):
    return features.square().sum(1, keepdim=True)


def _ones(features):
    return torch.ones_like(features[:, :1])


def _products_alone(features):
    return features, features


def _whole_length(features):
    return torch.cat([features, _ones(features)], 1), torch.cat([features, -_length(features)], 1)


def _length_added(features):
    return torch.cat([features, _ones(features)], 1), torch.cat([features, _length(features) / 2], 1)


def _same_for_both(features):
    both = torch.cat([features, -_length(features) / 2], 1)
    return both, both


def _unit_vectors(features):
    unit = features / features.norm(dim=1, keepdim=True)
    return unit, unit


def _scaled_as_usual(features):
    queries, keys = queries_and_keys.reference(features)
    return queries / queries.shape[1] ** 0.5, keys


def _scaled_by_features(features):
    queries, keys = queries_and_keys.reference(features)
    return queries / features.shape[1] ** 0.5, keys


def _length_without_square(features):
    return torch.cat([features, _ones(features)], 1), torch.cat([features, -features.norm(dim=1, keepdim=True) / 2], 1)


def _negative_products(features):
    queries, keys = queries_and_keys.reference(features)
    return torch.cat([-features, queries[:, -1:]], 1), keys


def _lengths_alone(features):
    return _ones(features), -_length(features) / 2


def _twice_the_product(features):
    return torch.cat([2 * features, _ones(features)], 1), torch.cat([features, -_length(features) / 2], 1)


def _kernel_itself(features):
    return torch.eye(len(features)), (-_squared(features) / 2).exp()


def _halved_products(features):
    return features / 2**0.5, features / 2**0.5


def _opposite_keys(features):
    return features, -features


def _distance_not_halved(features):
    return torch.cat([2 * features, _ones(features)], 1), torch.cat([features, -_length(features)], 1)


def _shares(answer, features):
    try:
        queries, keys = (torch.as_tensor(part).double() for part in answer)
    except (TypeError, ValueError):
        raise ValueError("return two tensors: queries and keys, (N, any) each") from None
    if not queries.dim() == keys.dim() == 2 or queries.shape[1] != keys.shape[1] or len(queries) != len(features):
        raise ValueError(f"queries and keys are (N, any) each, of one width, but these are {tuple(queries.shape)} and "
                         f"{tuple(keys.shape)}")
    return (queries @ keys.T).softmax(1)


def _feature_cases():
    generator = torch.Generator().manual_seed(3)
    return [(scale * torch.randn(count, width, generator=generator),)
            for scale, count, width in ((1.0, 3, 2), (1.5, 6, 5), (0.7, 8, 3))]


@exercise(
    "Make it attention",
    hints=(
        "-|f_i - f_j|^2 / 2 = f_i . f_j - |f_i|^2 / 2 - |f_j|^2 / 2. Which of the three does the softmax over j not notice?",
        "|f_i|^2 / 2 is the same for all j, and falls out. |f_j|^2 / 2 must get into the product: by one column more.",
        "Queries: the features, and a column of ones. Keys: the features, and a column of -|f_j|^2 / 2.",
    ),
    cases=_feature_cases,
    observe=_shares,
    mistakes={
        "That is the softmax of the product alone: long vectors are loud, however far away. Each *key* brings -|f_j|^2 / 2; a length of the query changes nothing.": _products_alone,
        "Half of the squared length is to be taken off, not all of it.": _whole_length,
        "The sign: |f_j|^2 / 2 is taken off.": _length_added,
        "Query and key both end in -|f|^2 / 2, and these are multiplied. The query's last number is 1.": _same_for_both,
        "You made all vectors equally long, and so lost how bright or where a pixel is.": _unit_vectors,
        "You divided by the root of the width, as attention usually does. Here the kernel says how sharp it is: no scale.": _scaled_as_usual,
        "You divided by the root of the number of features, as attention usually does. Here the kernel says how sharp it is.": _scaled_by_features,
        "The length is to be squared: |f_j|^2 / 2.": _length_without_square,
        "The product has the wrong sign: like vectors have a large one.": _negative_products,
        "The features themselves are missing: f_i . f_j is what tells pixels apart.": _lengths_alone,
        "Once the product is enough: in |f_i - f_j|^2 it stands twice, and that is halved.": _twice_the_product,
        "Those products are the kernel. The softmax takes their exponential: they are to be its logarithm.": _kernel_itself,
        "Half a product, and no length: in |f_i - f_j|^2 / 2 the product stands whole, and each *key* brings -|f_j|^2 / 2.": _halved_products,
        "The product of f_i and -f_j is large for *unlike* vectors. And each key brings -|f_j|^2 / 2.": _opposite_keys,
        "That is exp(-|f_i - f_j|^2): the exponent is to be halved.": _distance_not_halved,
    },
    praise="Every attention with these queries and keys is a Gaussian filter over place and colour.",
    advice="Compared is (queries @ keys.T).softmax(1), with exp(-|f_i - f_j|^2 / 2) over the sum of its row.",
)
def queries_and_keys(features):
    """features (N, D) -> (queries, keys), (N, any) each and of one width, so that (queries @ keys.T).softmax(1) is the
    kernel exp(-|f_i - f_j|^2 / 2), each row divided by its sum."""
    lengths = features.square().sum(1, keepdim=True) / 2
    return torch.cat([features, torch.ones_like(lengths)], 1), torch.cat([features, -lengths], 1)


EXERCISES = {item.name: item for item in (energy, heard, appearance, queries_and_keys)}
