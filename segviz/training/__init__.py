"""Training and evaluation: `fit` and `evaluate`, loops that a learner can read.

The same two functions train a segmentation network (labels (B, H, W)) and a classifier (labels (B,)): cross-entropy
and the confusion matrix are the same for both.
"""

from segviz.training.history import History
from segviz.training.loop import fit, learning_rate
from segviz.training.processes import autocast, choose_device
from segviz.training.scoring import Scores, evaluate, image_scores, predict

__all__ = [
    "History", "Scores", "autocast", "choose_device", "evaluate", "fit", "image_scores", "learning_rate", "predict",
]  # fmt: skip
