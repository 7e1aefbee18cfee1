"""Toytown: the procedural world of the course.

`world` holds what the lessons call; `plan` decides where things stand; `scenery`, `buildings`, `sprites` and `light`
paint them on the canvas of `paint`; `twins` is the car-or-boat world.
"""

from segviz.data.toytown.paint import CLASSES, VOID
from segviz.data.toytown.world import Object, Scene, Toytown, contact_sheet, pair, scene

__all__ = ["CLASSES", "VOID", "Object", "Scene", "Toytown", "contact_sheet", "pair", "scene"]
