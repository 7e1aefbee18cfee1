"""The data sets: worlds that are drawn, and folders that are read."""
