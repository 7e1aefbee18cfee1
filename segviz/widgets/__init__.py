"""Explorers: pictures with controls. `Explorer` and its parts build new ones; the others are the lessons'."""

from segviz.widgets.controls import Choice, Point, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import (
    Bar,
    Bars,
    Dots,
    Grid,
    Hatch,
    HeatMap,
    Image,
    LabelMap,
    Lines,
    Panel,
    Rects,
    State,
    Text,
)
from segviz.widgets.scores import ScoresExplorer
from segviz.widgets.sliding import SlidingExplorer

__all__ = [
    "Bar",
    "Bars",
    "Choice",
    "Dots",
    "Explorer",
    "Grid",
    "Hatch",
    "HeatMap",
    "Image",
    "LabelMap",
    "Lines",
    "Panel",
    "Point",
    "Rects",
    "ScoresExplorer",
    "Slider",
    "SlidingExplorer",
    "State",
    "Text",
    "Toggle",
]
