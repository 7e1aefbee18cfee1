"""segviz: the models, mechanisms and explorers behind the course on semantic segmentation in `lessons/`."""

import os

# Threads of torch that wait for each other would spin otherwise: two trainings at once on two cores then took 15 times
# as long. It is read when torch is loaded, which the lessons do later; a setting of one's own stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
