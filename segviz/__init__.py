"""segviz: the models, mechanisms and explorers behind the course on semantic segmentation in `lessons/`."""

__version__ = "0.1.0"
