"""The data sets: worlds that are drawn, and folders that are read."""

from segviz.data import cells, toytown
from segviz.data.cells import Cells
from segviz.data.folder import Folder
from segviz.data.toytown import Toytown

__all__ = ["Cells", "Folder", "Toytown", "cells", "toytown"]
