"""segviz: the models, mechanisms and explorers behind the course on semantic segmentation in `lessons/`."""

import os

# Threads of torch that wait for each other otherwise spin, and when anything else (a browser, a second notebook) wants the
# same cores, training on two cores took 15 times as long. Read when torch is loaded; a setting of one's own stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
