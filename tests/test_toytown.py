"""Toytown: what is promised of its scenes, of its pair world and of its data set, tested on the drawn
pixels."""

import pickle

import numpy as np
import pytest
import torch

from segviz.data import Toytown
from segviz.data.toytown import CLASSES, VOID, pair, scene, world
from segviz.data.toytown.paint import SUPER, Canvas
from segviz.data.toytown.plan import plan
from segviz.data.toytown.scenery import draw

SKY, BUILDING, TREE, GRASS, ROAD, MARKING, WATER, POLE, CAR, BOAT = range(10)


@pytest.fixture(scope="module")
def scenes():
    return [scene(index) for index in range(100)]


def same(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) and torch.equal(a.instances,
                                                                                         b.instances)


def bounding_box(pixels):
    rows, columns = torch.nonzero(pixels, as_tuple=True)
    return columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1


# ---- scenes ------------------------------------------------------------------------------------------------

def test_a_scene_depends_on_seed_and_index_alone():
    first, second = scene(3), scene(4)
    np.random.seed(0)
    torch.manual_seed(0)
    assert same(scene(4), second) and same(scene(3), first) and scene(3).objects == first.objects
    assert not torch.equal(first.image, second.image)
    assert not torch.equal(first.image, scene(3, seed=1).image)


def test_drawing_leaves_the_global_random_state_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    scene(11)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("size", [32, 96, 97, (64, 160), (150, 80), 384])
def test_shapes_types_and_ranges(size):
    drawn = scene(7, size)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert drawn.image.shape == (3, height, width) and drawn.image.dtype == torch.float32
    assert drawn.mask.shape == drawn.instances.shape == (height, width)
    assert drawn.mask.dtype == drawn.instances.dtype == torch.int64
    assert 0 <= drawn.image.min() and drawn.image.max() <= 1
    assert set(drawn.mask.unique().tolist()) <= {*range(len(CLASSES)), VOID}


def test_a_larger_picture_shows_the_same_town():
    small, large = scene(5, 96), scene(5, 288)
    shrunk = torch.nn.functional.avg_pool2d(large.image[None], 3)[0]
    assert (shrunk - small.image).abs().mean() < 0.04
    assert (shrunk - scene(6, 96).image).abs().mean() > 0.08          # the comparison can fail
    middles = large.mask[1::3, 1::3]
    known = (middles != VOID) & (small.mask != VOID)
    assert (middles == small.mask)[known].float().mean() > 0.93


def test_every_class_is_met_often_and_thin_classes_are_rare_in_pixels(scenes):
    masks = torch.stack([s.mask for s in scenes])
    met = {name: (masks == k).flatten(1).any(1).float().mean().item() for k, name in enumerate(CLASSES)}
    assert min(met.values()) > 0.25, met
    assert met["car"] > 0.5 and met["boat"] > 0.5, met
    share = [(masks == k).float().mean().item() for k in range(len(CLASSES))]
    assert 0.001 < share[POLE] < 0.05 and 0.001 < share[MARKING] < 0.05, share


def test_void_is_a_thin_rim(scenes):
    masks = torch.stack([s.mask for s in scenes])
    assert 0.01 < (masks == VOID).float().mean() < 0.05
    void = torch.nn.functional.pad((masks == VOID).float(), (1, 1, 1, 1))
    full = torch.nn.functional.avg_pool2d(void[:, None], 5, stride=1)
    assert full.max() < 1                                             # nowhere 5 x 5 pixels of void


def test_objects_boxes_and_instances_agree(scenes):
    for drawn in scenes[:40]:
        numbers = drawn.instances.unique().tolist()
        assert [n for n in numbers if n] == list(range(1, len(drawn.objects) + 1))
        for number, thing in enumerate(drawn.objects, 1):
            pixels = drawn.instances == number
            assert thing.visible == pixels.sum() > 0
            assert thing.box == bounding_box(pixels)
            assert (drawn.mask[pixels] == thing.label).all() and thing.name == CLASSES[thing.label]
        whole = torch.isin(drawn.mask, torch.tensor([BUILDING, TREE, CAR, BOAT]))
        assert (drawn.instances[whole] > 0).all()
        stuff = torch.isin(drawn.mask, torch.tensor([SKY, GRASS, ROAD, MARKING, WATER, VOID]))
        assert (drawn.instances[stuff] == 0).all()


def test_objects_run_from_near_to_far(scenes):
    for drawn in scenes[:40]:
        depths = [thing.depth for thing in drawn.objects]
        assert depths == sorted(depths) and all(0 < d < float("inf") for d in depths)


def test_nothing_hides_the_nearest_and_something_hides_the_far():
    def fine_pixels(town, depth):
        canvas = draw(town, 64, 64)[0]
        return (np.asarray(canvas.ids) == canvas.depths.index(depth)).sum()

    hidden = 0
    for index in range(20):
        town = plan(index, 0)
        things = sorted([*town.things, *town.houses], key=lambda thing: -thing.t)
        for thing in (things[0], *things[5:9]):
            kind = "houses" if thing in town.houses else "things"
            alone = town._replace(**{"houses": (), "things": (), "poles": (), kind: (thing,)})
            depth = town.camera / thing.t
            seen, whole = fine_pixels(town._replace(poles=()), depth), fine_pixels(alone, depth)
            assert seen <= whole
            if thing is things[0]:
                assert seen == whole
            hidden += seen < whole
    assert hidden > 10


def test_the_later_stroke_hides_the_earlier_in_picture_and_ids_alike():
    canvas = Canvas(32, 32)
    far, near = canvas.new_id(CAR, 20.0), canvas.new_id(BOAT, 10.0)
    canvas.rectangle(0, 0, 60, 60, (200, 0, 0), far)
    canvas.rectangle(30, 30, 90, 90, (0, 0, 200), near)
    mask, seen = world._vote(canvas, canvas.samples())
    instances, objects = world._objects(canvas, mask, seen)
    assert [o.name for o in objects] == ["boat", "car"]
    assert instances[15, 15] == 1 and instances[5, 5] == 2
    assert objects[1].visible == 20 * 20 - 10 * 10 and objects[0].box == (10, 10, 30, 30)
    picture = np.asarray(canvas.picture.reduce(SUPER))
    assert (picture[mask == CAR] == (200, 0, 0)).all() and (picture[mask == BOAT] == (0, 0, 200)).all()


def test_a_third_of_a_pixel_is_enough_for_a_thin_thing_and_not_for_others():
    canvas = Canvas(32, 32)
    pole, house = canvas.new_id(POLE, 9.0), canvas.new_id(BUILDING, 9.0)
    canvas.rectangle(30, 0, 31, 96, (9, 9, 9), pole)  # one sample of three wide, pixel column 10
    canvas.rectangle(60, 0, 61, 96, (9, 9, 9), house)                 # column 20
    canvas.rectangle(75, 0, 76, 96, (9, 9, 9), house)
    canvas.rectangle(76, 0, 77, 96, (9, 9, 9), pole)  # column 25: a third each of three classes
    mask, _ = world._vote(canvas, canvas.samples())
    assert (mask[:, 10] == POLE).all() and (mask[:, 20] == VOID).all() and (mask[:, 25] == POLE).all()
    canvas.rectangle(60, 0, 61, 20, (9, 9, 9), canvas.new_id(POLE, 1.0))
    canvas.rectangle(61, 0, 62, 20, (9, 9, 9), house)  # now a third pole, a third house, a third sky
    canvas.rectangle(60, 40, 63, 96, (9, 9, 9), house)
    mask, _ = world._vote(canvas, canvas.samples())
    assert (mask[:6, 20] == POLE).all() and (mask[7:13, 20] == VOID).all() and (mask[14:,
                                                                                     20] == BUILDING).all()


def test_poles_stay_thin(scenes):
    widths = []
    for drawn in scenes:
        for number, thing in enumerate(drawn.objects, 1):
            if thing.label == POLE and thing.box[3] - thing.box[1] > 12:
                widths += (drawn.instances == number).sum(1)[thing.box[1]:thing.box[3]].tolist()
    assert len(widths) > 500 and np.median(widths) <= 3


def test_sky_and_water_look_alike_and_grass_does_not(scenes):
    def distance(a, b):
        return sum((s.image[:, s.mask == a].mean(1) - s.image[:, s.mask == b].mean(1)).norm()
                   for s in both) / len(both)

    both = [s for s in scenes if (s.mask == WATER).sum() > 300 and (s.mask == GRASS).sum() > 300]
    assert len(both) > 20 and distance(SKY, WATER) < distance(SKY, GRASS)


@pytest.mark.parametrize("arguments, words", [
    ({"index": -1}, "index must be an integer from 0 up"), ({"index": 1.5}, "index must be an integer"),
    ({"index": 0, "seed": -2}, "seed must be"), ({"index": 0, "size": 31}, "at least 32 pixels"),
    ({"index": 0, "size": "96"}, r"integer or \(height, width\)"), ({"index": 0, "size": (96, 96, 3)},
                                                                    "height, width"),
    ({"index": 0, "size": 96.0}, "height, width"),
])
def test_bad_arguments_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        scene(**arguments)


# ---- the pair world ----------------------------------------------------------------------------------------

def chebyshev(a, b):
    """The least max(|dx|, |dy|) between a pixel of `a` and one of `b`, by looking at all of them."""
    p, q = torch.nonzero(a), torch.nonzero(b)
    return (p[:, None] - q[None]).abs().amax(-1).min().item()


@pytest.mark.parametrize("size, distances", [(64, (1, 2, 3, 5, 8, 16, 24, 32)), (96, (1, 7, 24, 40)),
                                             ((48, 130), (1, 33, 90))])
def test_the_beacon_stands_exactly_at_the_distance(size, distances):
    for distance in distances:
        for index in range(12):
            for label in (CAR, BOAT):
                drawn = pair(index, size, distance=distance, label=label)
                assert chebyshev(drawn.mask == label, drawn.mask == POLE) == distance


def test_pairs_are_half_cars_half_boats_and_not_by_turns():
    labels = [next(o.name for o in pair(i, 48, distance=4).objects if o.name != "pole") for i in range(200)]
    assert labels.count("car") == labels.count("boat") == 100
    assert 30 < labels[::2].count("car") < 70


def test_a_changed_class_changes_the_beacons_box_and_nothing_else():
    for index in range(30):
        car, boat = (pair(index, 64, distance=1 + index % 24, label=label) for label in ("car", "boat"))
        changed = (car.image != boat.image).any(0)
        boxes = [next(o.box for o in s.objects if o.name == "pole") for s in (car, boat)]
        x0, y0, x1, y1 = (min(boxes[0][0], boxes[1][0]), min(boxes[0][1], boxes[1][1]),
                          max(boxes[0][2], boxes[1][2]), max(boxes[0][3], boxes[1][3]))
        assert changed[y0:y1, x0:x1].float().mean() > 0.3
        changed[y0:y1, x0:x1] = False
        assert not changed.any()
        assert torch.equal(car.mask == CAR, boat.mask == BOAT)        # the same sprite at the same place
        assert chebyshev(car.mask == CAR, (car.image != boat.image).any(0)) >= 1 + index % 24


def test_the_pair_world_has_one_sprite_one_beacon_and_one_surface():
    for index in range(20):
        drawn = pair(index, 96, distance=10)
        assert sorted(o.name for o in drawn.objects) in (["car", "pole"], ["boat", "pole"])
        assert set(drawn.mask.unique().tolist()) <= {GRASS, POLE, CAR, BOAT, VOID}
    assert same(pair(4, distance=9), pair(4, distance=9)) and not same(pair(4, distance=9),
                                                                       pair(4, distance=9, seed=1))


@pytest.mark.parametrize("arguments, words", [
    ({"distance": 0}, "at least 1"), ({"distance": -3}, "distance must be"), ({"distance": 80},
                                                                              "distance must be at most"),
    ({"distance": 4, "label": "tree"}, '"car", "boat" or None'), ({"distance": 4, "size": 8}, "at least 32"),
])
def test_bad_pairs_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        pair(0, **{"size": 96, **arguments})


def test_the_largest_distance_that_is_named_is_drawn():
    with pytest.raises(ValueError, match="at most") as refused:
        pair(0, 64, distance=64)
    most = int(str(refused.value).split("at most ")[1].split()[0])
    assert most >= 24
    pair(0, 64, distance=most)
    with pytest.raises(ValueError, match=f"at most {most}"):
        pair(0, 64, distance=most + 1)


# ---- the data set ------------------------------------------------------------------------------------------

def test_items_are_the_scenes_to_a_byte_and_the_same_when_kept():
    data = Toytown("val", size=64, length=5, seed=2)
    fresh = scene(data.scene_index(3), 64, seed=2)
    image, mask = data[3]
    assert image.dtype == torch.float32 and mask.dtype == torch.int64
    assert torch.equal(mask, fresh.mask) and (image - fresh.image).abs().max() <= 0.5 / 255 + 1e-6
    again = data[3]
    assert torch.equal(image, again[0]) and torch.equal(mask, again[1])
    image.zero_()
    assert data[3][0].max() > 0                                       # a caller cannot spoil what is kept


def test_splits_share_no_scene_whatever_their_lengths():
    indices = [{Toytown(split, length=500).scene_index(i) for i in range(500)}
               for split in ("train", "val", "test")]
    assert len(set.union(*indices)) == 1500
    assert [len(Toytown(split)) for split in ("train", "val", "test")] == [1000, 200, 200]


def test_iteration_stops_and_tensors_hold_it_all():
    data = Toytown("test", size=32, length=4)
    listed = list(data)
    images, masks = data.tensors()
    assert len(listed) == 4 and images.shape == (4, 3, 32, 32) and masks.shape == (4, 32, 32)
    assert torch.equal(images[2], listed[2][0]) and torch.equal(masks[2], listed[2][1])
    assert torch.equal(data[-1][0], images[3])
    with pytest.raises(IndexError, match="0 to 3"):
        data[4]


def test_a_data_set_survives_pickling():
    data = Toytown("train", size=32, length=3)
    data[0]
    twin = pickle.loads(pickle.dumps(data))
    assert all(torch.equal(twin[i][0], data[i][0]) for i in range(3))


@pytest.mark.parametrize("arguments, words", [
    (("training",), '"train", "val" or "test"'), (("train", 16), "at least 32"), (("train", 96, -1),
                                                                                  "length must be"),
])
def test_bad_data_sets_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        Toytown(*arguments)
