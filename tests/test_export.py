"""Exported files, run by onnxruntime and by torch without segviz, against the networks that they were made of."""

import importlib.util
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segviz
from segviz import export, models

MISSING = [name for name in export.PACKAGES if importlib.util.find_spec(name) is None]
INSTALL = f"no {', '.join(MISSING)}: pip install {' '.join(export.PACKAGES)}"
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=INSTALL)
FORMATS = [pytest.param(export.to_onnx, "net.onnx", marks=needs_onnx, id="onnx"),
           pytest.param(export.to_program, "net.pt2", id="program")]
FREE = ("batch", "height", "width")
CLASSES = ("sky", "road", "boat")
SMALL, RESNET = {"num_classes": 3, "width": 4}, {"num_classes": 3, "width": 4, "layers": (1, 1, 1, 1)}
NETWORKS = {  # model, arguments, the example's size; images of other sizes to run the file with
    "FCN32s": (models.FCN32s, SMALL, 64, [(1, 3, 32, 32), (3, 3, 45, 101)]),
    "FCN16s": (models.FCN16s, SMALL | {"padding": 1, "in_channels": 1}, (67, 90), [(1, 1, 32, 32), (3, 1, 96, 64)]),
    "FCN8s": (models.FCN8s, SMALL, 64, [(1, 3, 33, 32), (3, 3, 45, 101)]),
    "Hypercolumn": (models.Hypercolumn, SMALL, 65, [(1, 3, 64, 32), (3, 3, 45, 101)]),
    "DeconvNet": (models.DeconvNet, SMALL | {"size": 64}, 64, [(1, 3, 64, 33), (3, 3, 45, 101), (1, 3, 160, 200)]),
    "DeconvNet, corner": (models.DeconvNet, SMALL | {"size": 32, "unpooling": "corner"}, 50, [(2, 3, 32, 32)]),
    "UNet": (models.UNet, SMALL | {"norm": True}, 64, [(1, 3, 33, 47), (3, 3, 32, 101)]),
    "UNet, valid": (models.UNet, SMALL | {"padding": "valid"}, 188, [(3, 3, 220, 204)]),
    "PSPNet": (models.PSPNet, RESNET | {"auxiliary": True}, 64, [(1, 3, 32, 32), (3, 3, 45, 101)]),
    "DeepLabV1": (models.DeepLabV1, SMALL | {"rate": 3}, 64, [(1, 3, 32, 33), (3, 3, 45, 101)]),
    "DeepLabV2": (models.DeepLabV2, RESNET | {"rates": (2, 4)}, 64, [(1, 3, 33, 32), (3, 3, 45, 101)]),
    "DeepLabV3": (models.DeepLabV3, RESNET | {"auxiliary": True}, 64, [(1, 3, 32, 32), (3, 3, 45, 101)]),
    "DeepLabV3, as in the paper": (
        models.DeepLabV3,
        RESNET | {"output_stride": 16, "multi_grid": (2,), "dilate_first": True, "align_corners": True},
        (81, 64), [(1, 3, 32, 32), (3, 3, 45, 101)]),
    "DeepLabV3Plus": (models.DeepLabV3Plus, RESNET, 64, [(1, 3, 32, 32), (3, 3, 45, 101)]),
}
# Torch 2.11 writes into a program (not into ONNX) how the example's sizes divide at each pooling; 2.13 does not.
ONE_SIZE = {"FCN32s", "FCN16s", "FCN8s", "Hypercolumn", "DeepLabV3"} if torch.__version__ < "2.13" else set()


def made(name: str) -> nn.Module:
    """A network whose logits depend on the image in every layer, as after a training, in eval mode."""
    kind, arguments, *_ = NETWORKS[name]
    torch.manual_seed(0)
    network = kind(**arguments)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=1.4 * layer.weight[0].numel() ** -0.5)
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=1.4 * layer.stride[0] * layer.weight[:, 0].numel() ** -0.5)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network.eval()


class Tiny(nn.Module):
    """Not one of segviz's: half the size, and back."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.score = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, images):
        return F.interpolate(self.score(self.first(images).relu()), size=images.shape[2:], mode="bilinear")


class Altered(Tiny):
    """Another network in the file than in torch: `change` is added to its logits, to the share `share` of the rows."""

    def __init__(self, change: float, share: float = 1.0, unpools: bool = False):
        super().__init__()
        self.change, self.share, self.unpools = change, share, unpools

    def forward(self, images):
        logits = super().forward(images)
        if self.unpools:
            logits = F.max_unpool2d(*F.max_pool2d(logits, 2, return_indices=True), 2)
        if torch.compiler.is_exporting():
            rows = torch.arange(logits.shape[2]) < self.share * logits.shape[2]
            logits = logits + self.change * rows[:, None]
        return logits


class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 2 * 8 * 8)

    def forward(self, images):
        return self.linear(images.flatten(1)).view(-1, 2, 8, 8)


class Undecided(Tiny):
    def forward(self, images):
        return super().forward(images) if images.sum() > 0 else super().forward(-images)


def onnx_run(path, images):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def program_run(path, images):
    with torch.no_grad():
        return torch.export.load(path).module()(images)


RUN = {"net.onnx": onnx_run, "net.pt2": program_run}


def assert_same(network, path, shapes):
    for shape in shapes:
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = network(images)
        with export._quiet():
            found = RUN[path.name](path, images)
        assert logits.std() > 0.01
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=0, check_stride=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("write", "file"), FORMATS)
def test_every_model_at_every_size(write, file, name, tmp_path):
    """The file, without segviz, at sizes that no check of its own has seen."""
    network, (_, _, size, others) = made(name), NETWORKS[name]
    exported = write(network, tmp_path / file, size, classes=CLASSES)
    assert exported.difference <= 1e-4 and exported.apart == 0
    if file == "net.pt2" and name in ONE_SIZE:
        assert exported.free == ("batch",) and "Guard" in exported.fixed
        others = [(batch, network.in_channels, *exported.sizes[0][1:]) for batch in (1, 4)]
    else:
        assert exported.free == FREE and exported.fixed == "" and len({size[1:] for size in exported.sizes}) > 1
    assert_same(network, tmp_path / file, others)


def test_the_list_has_every_model():
    assert {kind.__name__ for kind, *_ in NETWORKS.values()} == set(models.__all__)


@pytest.mark.parametrize(("write", "file"), FORMATS)
def test_a_network_that_is_not_segviz_s(write, file, tmp_path, capfd):
    network = Tiny().train()
    exported = write(network, tmp_path / file, 32, classes=["a", "b", "c"])
    assert exported.path == tmp_path / file and exported.bytes == (tmp_path / file).stat().st_size
    assert exported.free == FREE and exported.fixed == "" and exported.difference <= 1e-4
    assert exported.sizes == ((2, 32, 32), (1, 32, 32), (3, 32, 32), (1, 96, 64), (1, 33, 70), (1, 17, 19))
    assert_same(network, tmp_path / file, [(1, 3, 5, 9), (4, 3, 40, 32)])
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert capfd.readouterr() == ("", "")


@needs_onnx
def test_what_an_onnx_file_tells(tmp_path):
    import onnx
    network = models.UNet(3, in_channels=1, width=4, depth=1)
    exported = export.to_onnx(network, tmp_path / "net.onnx", 32, classes=CLASSES)
    file = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(file, full_check=True)
    told = {entry.key: entry.value for entry in file.metadata_props}
    assert told["model"] == "UNet" and json.loads(told["classes"]) == list(CLASSES)
    arguments = json.loads(told["arguments"])
    assert models.UNet(**arguments).state_dict().keys() == network.state_dict().keys() and arguments["in_channels"] == 1
    assert told["input"] == "images: float32 (batch, 1, height, width), values in [0, 1]"
    assert told["output"].startswith("logits: float32 (batch, classes, height, width), raw")
    shapes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
              for value in (*file.graph.input, *file.graph.output)]
    assert shapes == [["batch", 1, "height", "width"], ["batch", 3, "height", "width"]]
    assert [value.name for value in (*file.graph.input, *file.graph.output)] == ["images", "logits"]
    assert exported.opset == file.opset_import[0].version >= 18


@needs_onnx
def test_logits_of_another_size_are_named_so(tmp_path):
    import onnx
    network = models.UNet(3, width=4, padding="valid", depth=1)
    export.to_onnx(network, tmp_path / "net.onnx", 32)
    axes = onnx.load(tmp_path / "net.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch", 3, "logits_height", "logits_width"]


def test_what_a_program_tells(tmp_path):
    export.to_program(models.UNet(3, width=4, depth=1), tmp_path / "net.pt2", 32)
    extra = {"segviz.json": ""}
    with export._quiet():
        torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    told = json.loads(extra["segviz.json"])
    assert told["model"] == "UNet" and json.loads(told["arguments"])["depth"] == 1 and told["classes"] == "null"


@pytest.mark.parametrize(("write", "file"), FORMATS)
def test_no_path_of_this_machine_is_in_the_file(write, file, tmp_path):
    write(models.UNet(3, width=4, depth=1), tmp_path / file, 32)
    content = (tmp_path / file).read_bytes()
    if zipfile.is_zipfile(tmp_path / file):
        with zipfile.ZipFile(tmp_path / file) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for folder in (Path(segviz.__file__).parent, Path(torch.__file__).parent, tmp_path):
        assert str(folder).encode() not in content


@pytest.mark.parametrize(("write", "file"), FORMATS)
def test_one_size_where_that_is_asked(write, file, tmp_path):
    network = Tiny()
    exported = write(network, tmp_path / file, (24, 32), dynamic=False)
    assert exported.free == ("batch",) and exported.fixed == "as was asked"
    assert exported.sizes == ((2, 24, 32), (1, 24, 32), (3, 24, 32))
    assert_same(network, tmp_path / file, [(5, 3, 24, 32)])
    with pytest.raises(Exception, match=r"(?i)(dimension|size)"):
        RUN[file](tmp_path / file, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(("write", "file"), FORMATS)
def test_one_size_where_the_network_has_no_other(write, file, tmp_path):
    exported = write(OneSize(), tmp_path / file, 8)
    assert exported.free == ("batch",) and exported.fixed
    assert f"of 8x8 pixels alone: {exported.fixed}" in str(exported)


@pytest.mark.parametrize(("write", "file"), FORMATS)
@pytest.mark.parametrize("change", [0.01, -3.0, float("nan")])
def test_another_network_is_not_written(write, file, change, tmp_path):
    (tmp_path / file).write_text("what was there")
    with pytest.raises(ValueError, match=rf"{file} was not written: .*does not compute what the network computes"):
        write(Altered(change), tmp_path / file, 32, dynamic=change == 0.01)
    assert (tmp_path / file).read_text() == "what was there" and os.listdir(tmp_path) == [file]


def test_a_difference_is_measured(tmp_path):
    exported = export.to_program(Altered(5e-5), tmp_path / "net.pt2", 32)
    assert exported.difference == pytest.approx(5e-5, rel=0.01) and exported.apart == 0
    assert "differ from PyTorch's by 5e-05 at most" in str(exported) and "switches" not in str(exported)


def test_only_switches_may_move_some_logits(tmp_path):
    exported = export.to_program(Altered(0.1, share=0.25, unpools=True), tmp_path / "net.pt2", 32, dynamic=False)
    assert exported.difference == pytest.approx(0.1, rel=0.01) and exported.apart == pytest.approx(0.25)
    assert "25.00% of them by more than 0.0001: switches" in str(exported)
    with pytest.raises(ValueError, match=r"75\.0% of the logits"):
        export.to_program(Altered(0.1, share=0.75, unpools=True), tmp_path / "net.pt2", 32, dynamic=False)
    with pytest.raises(ValueError, match=r"25\.0% of the logits"):
        export.to_program(Altered(0.1, share=0.25), tmp_path / "net.pt2", 32, dynamic=False)


def test_what_torch_cannot_follow(tmp_path):
    with pytest.raises(ValueError, match=r"net\.pt2 was not written: torch\.export cannot follow it with any batch: "):
        export.to_program(Undecided(), tmp_path / "net.pt2", 32)
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_read_back(tmp_path, monkeypatch):
    def fails(path):
        raise RuntimeError("bad file\nand so on")

    monkeypatch.setattr(torch.export, "load", fails)
    with pytest.raises(ValueError, match=r"the file cannot be read back: RuntimeError: bad file$"):
        export.to_program(Tiny(), tmp_path / "net.pt2", 32)
    assert os.listdir(tmp_path) == []


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    def stopped(program, path, extra_files):
        Path(path).write_bytes(b"half of it")
        raise KeyboardInterrupt

    (tmp_path / "net.pt2").write_text("what was there")
    monkeypatch.setattr(torch.export, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        export.to_program(Tiny(), tmp_path / "net.pt2", 32)
    assert (tmp_path / "net.pt2").read_text() == "what was there" and os.listdir(tmp_path) == ["net.pt2"]


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(OSError, match=r"net\.pt2"):
        export.to_program(Tiny(), tmp_path / "net.pt2", 32)
    assert os.listdir(tmp_path) == ["net.pt2"]


@pytest.mark.parametrize("missing", export.PACKAGES)
def test_a_missing_package(missing, tmp_path, monkeypatch):
    for name in export.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    with pytest.raises(ImportError, match=f"{missing} is missing: pip install onnx onnxscript onnxruntime"):
        export.to_onnx(Tiny(), tmp_path / "net.onnx", 32)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("network", "arguments", "words"), [
    (Tiny, {"path": "net.onnx"}, r"expected a file \.pt2 in a folder that is there, got .*net\.onnx"),
    (Tiny, {"path": "nowhere/net.pt2"}, r"expected a file \.pt2 in a folder that is there"),
    (Tiny, {"classes": ["a", "b"]}, "the network has 3 classes, but 2 names came"),
    (lambda: models.UNet(3, width=4), {"size": 16}, r"takes no images \(2, 3, 16, 16\): expected float images"),
    (lambda: nn.Flatten(), {}, r"expected a network that makes logits .* it makes \(2, 3072\)"),
    (lambda: nn.MaxPool2d(2, return_indices=True), {}, "it makes a tuple"),
])
def test_what_does_not_fit_is_said(network, arguments, words, tmp_path):
    arguments = {"path": "net.pt2", "size": 32} | arguments
    with pytest.raises(ValueError, match=words):
        export.to_program(network(), tmp_path / arguments.pop("path"), **arguments)
    assert os.listdir(tmp_path) == []


def test_half_precision_becomes_float32(tmp_path):
    network = Tiny().bfloat16()
    export.to_program(network, tmp_path / "net.pt2", 32, dynamic=False)
    assert_same(Tiny().bfloat16().float(), tmp_path / "net.pt2", [(1, 3, 32, 32)])
    assert network.score.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("count", [1, 2, 3, 6, (2, 5)])
def test_adaptive_pooling_said_otherwise(count):
    said = export.OTHERWISE[torch.ops.aten.adaptive_avg_pool2d.default]
    for height, width in [(1, 1), (5, 7), (6, 6), (13, 4), (60, 61)]:
        maps = torch.randn(2, 3, height, width, dtype=torch.float64)
        counts = (count, count) if isinstance(count, int) else count
        torch.testing.assert_close(said(maps, list(counts)), F.adaptive_avg_pool2d(maps, count))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 6), (3, 2, 8, 5)])
def test_unpooling_said_otherwise(shape):
    height, width = 2 * shape[2], 2 * shape[3]
    maps, switches = F.max_pool2d(torch.randn(*shape[:2], height, width), 2, return_indices=True)
    said = export.OTHERWISE[torch.ops.aten.max_unpool2d.default](maps, switches, [height, width])
    assert torch.equal(said, F.max_unpool2d(maps, switches, 2))
