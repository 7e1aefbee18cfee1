"""The data sets: worlds that are drawn, folders that are read, and two public ones of photographs."""

from segviz.data import cells, toytown
from segviz.data.benchmarks import VOC, Pets
from segviz.data.cells import Cells
from segviz.data.folder import Folder
from segviz.data.toytown import Toytown

__all__ = ["VOC", "Cells", "Folder", "Pets", "Toytown", "cells", "toytown"]
