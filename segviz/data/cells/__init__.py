"""Cells: the second world of the course, a culture under a phase-contrast microscope, crowded, touching and faint.

`world` holds what the lessons call; `culture` says where cells lie and whose each pixel is; `optics` makes the
picture of it.
"""

from segviz.data.cells.world import CLASSES, PALETTE, Cells, Scene, contact_sheet, scene

__all__ = ["CLASSES", "PALETTE", "Cells", "Scene", "contact_sheet", "scene"]
