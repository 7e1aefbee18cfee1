"""`python -m segviz`: the command line, for `torchrun -m segviz`."""

from segviz.cli import main

if __name__ == "__main__":
    main()
