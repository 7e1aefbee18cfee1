"""What the commands do with networks: each leaves, or reads, one folder, the run.

    options.json                        what was asked for, and what was chosen where nothing was
    last.safetensors, best.safetensors  see `training.saving`
    data.txt, data.png                  a look at the data
    history.json, curves.png            the loss of each step, the scores on the way
    samples.png                         images, predictions, truth
"""

from segviz.runs.evaluation import Evaluation, evaluate, file_of, recorded_data
from segviz.runs.sets import SETTINGS, data_set

__all__ = ["SETTINGS", "Evaluation", "data_set", "evaluate", "file_of", "recorded_data"]
