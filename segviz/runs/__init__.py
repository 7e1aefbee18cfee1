"""What the commands do with networks, a module each: `training`, `evaluation`, `prediction`, `looking`.

A run is one folder:

    options.json                        what was asked for, and what was chosen where nothing was
    data.txt, data.png                  a look at the data
    last.safetensors, best.safetensors  see `training.saving`
    history.json, curves.png            the loss of each step, the scores on the way
    samples.png                         images, predictions, truth
    tensorboard/                        where it was asked for
    evaluation/SPLIT/                   what `segviz evaluate` leaves: scores.json, confusion.png, worst.png
"""

from segviz.runs.evaluation import Evaluation, classes_of, evaluate, file_of, folder_of, recorded_data
from segviz.runs.sets import SETTINGS, data_set

__all__ = ["SETTINGS", "Evaluation", "classes_of", "data_set", "evaluate", "file_of", "folder_of", "recorded_data"]
