"""Palettes and pictures: every function takes a matplotlib `ax`, draws on it, and returns the artists.

Label maps are `(H, W)` integer arrays with 255 for void; images are `(3, H, W)` or `(H, W, 3)`, float in [0, 1] or
uint8. Tensors and arrays are both welcome.
"""

import numpy as np

VOID = 255

# Paul Tol's "muted" scheme (Technical note SRON/EPS/TN/09-002, 3.2): ten colours that stay apart under the common
# colour deficiencies. The order is that of `segviz.data.toytown.CLASSES`; void is near-black.
PALETTE = np.array([
    [0x88, 0xCC, 0xEE],   # 0 sky
    [0xDD, 0xCC, 0x77],   # 1 building
    [0x11, 0x77, 0x33],   # 2 tree
    [0x99, 0x99, 0x33],   # 3 grass
    [0xDD, 0xDD, 0xDD],   # 4 road
    [0xAA, 0x44, 0x99],   # 5 marking
    [0x44, 0xAA, 0x99],   # 6 water
    [0x33, 0x22, 0x88],   # 7 pole
    [0xCC, 0x66, 0x77],   # 8 car
    [0x88, 0x22, 0x55],   # 9 boat
], dtype=np.uint8)
VOID_COLOUR = np.array([0x1A, 0x1A, 0x1A], dtype=np.uint8)
