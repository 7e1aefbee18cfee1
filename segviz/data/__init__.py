"""The data sets: worlds that are drawn, and folders that are read."""

from segviz.data import toytown
from segviz.data.toytown import Toytown

__all__ = ["Toytown", "toytown"]
