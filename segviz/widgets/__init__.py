"""Explorers: pictures with controls. `Explorer` and its parts build new ones; the others are the lessons'."""

from segviz.widgets.atrous import AtrousExplorer
from segviz.widgets.atrous_rates import AtrousRatesExplorer
from segviz.widgets.checkerboard import CheckerboardExplorer
from segviz.widgets.compare import CompareExplorer
from segviz.widgets.controls import Choice, Point, Slider, Steps, Toggle
from segviz.widgets.crf import CRFExplorer
from segviz.widgets.deeplab import DeepLabExplorer
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import (
    Bar,
    Bars,
    Chain,
    Dots,
    Grid,
    Hatch,
    HeatMap,
    Image,
    LabelMap,
    Level,
    Lines,
    Marker,
    Outer,
    Panel,
    Pointed,
    Rects,
    State,
    Text,
    Told,
    Where,
    Wipe,
)
from segviz.widgets.pyramid import PyramidExplorer
from segviz.widgets.receptive import ReceptiveExplorer
from segviz.widgets.scores import ScoresExplorer
from segviz.widgets.skips import SkipsExplorer
from segviz.widgets.sliding import SlidingExplorer
from segviz.widgets.switches import SwitchesExplorer
from segviz.widgets.unet_shapes import UNetShapesExplorer
from segviz.widgets.unet_skips import UNetSkipsExplorer
from segviz.widgets.upsampling import UpsamplingExplorer

__all__ = [
    "AtrousExplorer",
    "AtrousRatesExplorer",
    "Bar",
    "Bars",
    "CRFExplorer",
    "Chain",
    "CheckerboardExplorer",
    "Choice",
    "CompareExplorer",
    "DeepLabExplorer",
    "Dots",
    "Explorer",
    "Grid",
    "Hatch",
    "HeatMap",
    "Image",
    "LabelMap",
    "Level",
    "Lines",
    "Marker",
    "Outer",
    "Panel",
    "Point",
    "Pointed",
    "PyramidExplorer",
    "ReceptiveExplorer",
    "Rects",
    "ScoresExplorer",
    "SkipsExplorer",
    "Slider",
    "SlidingExplorer",
    "State",
    "Steps",
    "SwitchesExplorer",
    "Text",
    "Toggle",
    "Told",
    "UNetShapesExplorer",
    "UNetSkipsExplorer",
    "UpsamplingExplorer",
    "Where",
    "Wipe",
]
