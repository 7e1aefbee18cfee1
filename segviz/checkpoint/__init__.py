"""Checkpoints: one file that is whole or not there at all, that runs no code when it is read, and that says what it is.

`file` writes and reads it, `network` takes models apart and builds them again, `claim` keeps a folder to one run.
"""

from segviz.checkpoint.claim import claim
from segviz.checkpoint.file import Checkpoint, read, save
from segviz.checkpoint.network import build, describe, fill, load

__all__ = ["Checkpoint", "build", "claim", "describe", "fill", "load", "read", "save"]
