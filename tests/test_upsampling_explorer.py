"""The upsampling explorer: its numbers against torch's operators, and the whole of it in a browser, with no kernel."""

import math
import random
import re

import pytest
import torch
import torch.nn.functional as F
from browser import picture

from segviz.layers import bilinear_kernel, convolution_matrix
from segviz.widgets import HeatMap, Text, UpsamplingExplorer, Where, engine
from segviz.widgets.panels import encode
from segviz.widgets.upsampling_setting import METHODS, VALUES, VIEWS, WEIGHTS

NEAREST, BILINEAR, UNPOOLING, TRANSPOSED = METHODS
SCATTER, ZEROS, MATRIX = VIEWS


@pytest.fixture(scope="module")
def explorer():
    return UpsamplingExplorer()


def random_settings(count, **fixed):
    random.seed(1)
    for _ in range(count):
        yield {"method": random.choice(METHODS), "view": random.choice(VIEWS), "size": random.randint(2, 5),
               "stride": random.randint(1, 4), "kernel": random.randint(1, 5), "padding": random.randint(0, 3),
               "output_padding": random.randint(0, 3), "dilation": random.randint(1, 2),
               "weights": random.choice(WEIGHTS), "align_corners": random.random() < 0.5,
               "step": random.randint(0, 25)} | fixed


def kernel_of(kernel, weights, **_):
    if weights == "bilinear":
        return bilinear_kernel(kernel)
    return torch.arange(1.0, kernel**2 + 1).view(kernel, kernel) if weights.startswith("1") else torch.ones(
        kernel, kernel)


def digits(layer):
    return {(int(y), int(x)): words for x, y, words, _ in layer.items}


def first(panel, kind, number=0):
    return [layer for layer in panel.layers if isinstance(layer, kind)][number]


def expected_by_torch(state, s):
    """What torch makes of the input that is drawn; RuntimeError, or an empty map, where it cannot."""
    values = VALUES[: s["size"], : s["size"]][None, None]
    if s["method"] == TRANSPOSED:
        return F.conv_transpose2d(values, kernel_of(**s)[None, None], stride=s["stride"], padding=s["padding"],
                                  output_padding=s["output_padding"], dilation=s["dilation"])[0, 0]
    if s["method"] == UNPOOLING:
        drawn = digits(first(state.panels[1], Text))
        before = torch.tensor([float(words) for words in drawn.values()]).view(1, 1, *state.panels[1].size)
        pooled, switches = F.max_pool2d(before, s["stride"], return_indices=True)
        assert torch.equal(pooled, values)
        return F.max_unpool2d(pooled, switches, s["stride"])[0, 0]
    corners = {"align_corners": s["align_corners"]} if s["method"] == BILINEAR else {}
    return F.interpolate(values, scale_factor=s["stride"], mode=s["method"], **corners)[0, 0]


def output_digits(state, s):
    """The output as its digits are drawn, without what is cut away."""
    ring = s["padding"] if s["method"] == TRANSPOSED else 0
    side = state.panels[2].size[0] - 2 * ring
    drawn = digits(first(state.panels[2], Text))
    return torch.tensor([[float(drawn[i + ring, j + ring]) for j in range(side)] for i in range(side)])


@pytest.mark.parametrize("count", [400, pytest.param(3000, marks=pytest.mark.slow)])
def test_every_output_is_torchs_and_every_impossible_setting_is_named_at_its_control(explorer, count):
    outcomes = {"output_padding": 0, "padding": 0, "drawn": 0}
    for s in random_settings(count, step=25):
        state = explorer.state(**s)
        try:
            expected, words = expected_by_torch(state, s), ""
        except RuntimeError as refused:
            expected, words = torch.empty(0), str(refused)
        if not expected.numel():
            at = "output_padding" if "output padding" in words else "padding"
            assert not state.panels and state.problem_at == at, s
            assert state.problem.startswith(f"{at}={s[at]} ")
            outcomes[at] += 1
            continue
        assert not state.problem, s
        torch.testing.assert_close(output_digits(state, s), expected, atol=0.0051, rtol=0, msg=str(s))
        outcomes["drawn"] += 1
    assert min(outcomes.values()) >= 3, outcomes             # each of the three happened


def test_what_is_said_of_a_cell_is_a_sum_that_gives_the_cell(explorer):
    """Half-way too: the terms are the inputs that are lit, and give the digits that stand in the cell."""
    said = 0
    for s in random_settings(300):
        state = explorer.state(**s)
        if state.problem:
            continue
        drawn = digits(first(state.panels[2], Text))
        rows, columns = state.panels[2].size
        for row, column in ((random.randrange(rows), random.randrange(columns)) for _ in range(10)):
            words = state.pointed["at"].here(row, column)
            terms = re.findall(r"([\d.]+) × ([\d.]+)", words)
            if not terms:
                assert "cut away" in words or "= 0: no input" in words, words
                assert drawn.get((row, column), "0") == "0"
                continue
            total = sum(float(value) * float(weight) for value, weight in terms)
            told = float(re.search(r"[=≈] ([\d.]+)(?=[:.])", words)[1].rstrip("."))
            assert math.isclose(total, told, abs_tol=0.005 * (1 + sum(float(v) for v, _ in terms))), words
            if "not computed yet" in words:
                assert (row, column) not in drawn
            else:
                assert drawn[row, column] == f"{told:.2f}".rstrip("0").rstrip(".")
            if s["method"] != TRANSPOSED or s["view"] != ZEROS:
                lit, labels = first(state.panels[0], Where).here(row, column)
                assert [f"× {weight}" for _, weight in terms] == [words for _, _, words, _ in labels.items]
                assert [VALUES[y, x] for x, y, _, _ in lit.boxes] == [float(value) for value, _ in terms]
            said += 1
    assert said > 500


def test_the_example_that_can_be_checked_by_head(explorer):
    state = explorer.state(step=25)
    assert state.pointed["at"].here(2, 2).replace("\u00a0", " ") == (
        "Output (1, 1) = 1 × 9 + 3 × 7 + 2 × 3 + 4 × 1 = 40: written by inputs (0, 0), (0, 1), (1, 0) and (1, 1).")
    caption = state.panels[2].caption.replace("\u00a0", " ")
    assert "(3 − 1) × 2 − 2 × 1 + 1 × (3 − 1) + 0 + 1 = 5." in caption and "cut away" in caption
    assert state.pointed["at"].here(0, 0).replace("\u00a0", " ") == (
        "Cell (-1, -1) is cut away by the padding; it would be 1 × 1 = 1.")


def test_three_views_draw_the_same_output(explorer):
    for s in random_settings(60, method=TRANSPOSED, step=25):
        states = [explorer.state(**s | {"view": view}) for view in VIEWS]
        if not states[0].problem:
            one, two, three = (output_digits(state, s) for state in states)
            assert torch.equal(one, two) and torch.equal(one, three)


def test_zero_filled_map_convolved_with_the_turned_kernel_is_the_output(explorer):
    for s in random_settings(150, method=TRANSPOSED, view=ZEROS, weights=WEIGHTS[0], step=25):
        state = explorer.state(**s)
        if state.problem:
            continue
        filled, kernel = state.panels[:2]
        values = torch.tensor([float(words) for words in digits(first(filled, Text)).values()]).view(filled.size)
        turned = torch.zeros(kernel.size)
        for (row, column), words in digits(first(kernel, Text)).items():
            turned[row, column] = float(words)
        assert torch.equal(F.conv2d(values[None, None], turned[None, None])[0, 0], output_digits(state, s)), s


def test_matrix_is_that_of_the_convolution(explorer):
    for s in random_settings(40, method=TRANSPOSED, view=MATRIX, weights=WEIGHTS[0], step=25, output_padding=0):
        state = explorer.state(**s)
        if state.problem:
            continue
        size, inputs = state.panels[2].size[0] - 2 * s["padding"], s["size"] ** 2
        expected = convolution_matrix(kernel_of(**s)[None, None], size, size, s["stride"], s["padding"], s["dilation"])
        found = torch.zeros(inputs, size**2)
        for (row, column), words in digits(first(state.panels[3], Text)).items():
            found[row, column - 2] = float(words)
        assert torch.equal(found, expected), s


def test_steps_put_one_value_after_the_other(explorer):
    weight = torch.arange(1.0, 10).view(1, 1, 3, 3)
    for step in range(10):
        values = VALUES[:3, :3].flatten().clone()
        values[step:] = 0
        expected = F.conv_transpose2d(values.view(1, 1, 3, 3), weight, stride=2, padding=1)[0, 0]
        for view, things in ((SCATTER, "stamps have fallen"), (MATRIX, "input values are put")):
            state = explorer.state(step=step, view=view)
            assert torch.equal(output_digits(state, {"method": TRANSPOSED, "padding": 1}), expected)
            assert f"{step} of 9 {things}" in state.readout and state.bounds["step"] == (10,)
    seen = digits(first(explorer.state(step=7, view=ZEROS).panels[2], Text))
    assert sorted(seen) == [(1, column) for column in range(1, 6)] + [(2, 1), (2, 2)]      # the first 7 of 25


def test_steps_of_a_large_output_take_several_cells_and_end_with_all(explorer):
    for s in random_settings(60, method=TRANSPOSED, view=ZEROS):
        state = explorer.state(**s)
        if not state.problem:
            last = explorer.state(**s | {"step": state.bounds["step"][0] - 1})
            done, count = map(int, re.search(r"(\d+) of (\d+) output cells", last.readout).groups())
            assert done == count and state.bounds["step"][0] <= 26


def test_digits_stand_on_colours_that_they_can_be_read_on(explorer):
    """Contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3) wherever a digit stands on the heat map."""

    def luminance(rgb):
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for view in (SCATTER, MATRIX):
        for panel in explorer.state(step=25, view=view, size=5, weights=WEIGHTS[0]).panels[2:]:
            heat, text = first(panel, HeatMap), first(panel, Text)
            x0, y0, *_ = map(int, heat.box)
            for (row, column), colour in {(int(y), int(x)): colour for x, y, _, colour in text.items}.items():
                if not colour.startswith("#"):
                    continue
                under = heat.palette[heat.data[row - y0, column - x0]] / 255
                one, other = sorted((luminance(under), luminance([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (colour, under)


def test_controls_without_effect_are_not_shown(explorer):
    assert explorer.state(method=TRANSPOSED).hidden == ("align_corners",)
    assert "align_corners" not in explorer.state(method=BILINEAR).hidden
    for method in METHODS[:3]:
        hidden = explorer.state(method=method).hidden
        assert {"view", "kernel", "padding", "output_padding", "dilation", "weights"} < {*hidden, "x"}
        moved = {"view": MATRIX, "kernel": 1, "padding": 3, "output_padding": 3, "dilation": 2, "weights": WEIGHTS[1]}
        assert encode(explorer.state(method=method)) == encode(explorer.state(method=method, **moved))


def test_no_state_is_empty_without_words_and_paper_shows_it(explorer):
    for s in random_settings(40):
        state = explorer.state(**s)
        assert state.readout and (state.panels or state.problem)
        assert len([panel for panel in state.panels if not panel.wide]) in (0, 3)
    assert len(explorer.snapshot(view=MATRIX).axes) == 4


# --- in a browser, with no kernel


def said(root):
    return root.locator(".sv-readout").inner_text().replace("\u00a0", " ")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "upsampling.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "PAGE_STATES", 300)         # two changes at once, as far as they are needed here
        UpsamplingExplorer().export_html(file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("width, scheme", [(1100, "light"), (480, "dark")])
def test_the_page_steps_follows_the_pointer_and_changes_method(page_file, page, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"file://{page_file}")
    page.wait_for_selector("section.sv[data-drawn]")
    root = page.locator("section.sv")
    step = root.get_by_role("slider", name="Step")
    assert "9 of 9 stamps have fallen" in said(root) and step.get_attribute("max") == "9"
    before = picture(root)
    step.focus()
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('.sv-readout').textContent.includes('0 of 9')")
    assert picture(root) != before
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('.sv-readout').textContent.includes('9 of 9')")

    area = root.locator(".sv-point")
    area.scroll_into_view_if_needed()
    box, before = area.bounding_box(), picture(root)
    page.mouse.move(box["x"] + 3.5 / 7 * box["width"], box["y"] + 2.5 / 7 * box["height"])
    assert "Output (1, 2) = 3 × 8 + 4 × 2 = 32: written by inputs (0, 1) and (1, 1)." in said(root)
    assert picture(root) != before
    page.mouse.move(box["x"] + 0.5 / 7 * box["width"], box["y"] + 0.5 / 7 * box["height"])
    assert "cut away by the padding" in said(root)

    for view in VIEWS[1:]:
        root.get_by_label("View").select_option(view)
        page.wait_for_function("v => document.querySelector('.sv-readout').textContent.includes(v)", arg=view)
    for method in METHODS[:3]:
        root.get_by_label("Method").select_option(method)
        page.wait_for_function("m => document.querySelector('.sv-readout').textContent.includes(m)",
                               arg=method.capitalize())
        assert not root.get_by_label("View").is_visible()
    root.get_by_role("button", name="Reset").click()
    root.get_by_role("slider", name="Output padding").fill("3")
    at = root.locator(".sv-control", has=page.get_by_role("slider", name="Output padding"))
    assert "at most 1 with stride=2" in at.locator(".sv-problem").inner_text()
    assert page.errors == []
