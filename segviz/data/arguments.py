"""What the drawn worlds ask of their arguments, in words."""

import operator


def natural(value, name):
    """`value` as an int from 0 up, or a ValueError that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"{name} must be an integer from 0 up, and it is {value!r}. "
                         f"Give for example {name}=0.")
    return number


def checked_size(size, smallest, why):
    """(height, width) of an int or a pair, each at least `smallest` pixels; `why` says what is lost below that."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    try:
        height, width = (operator.index(side) for side in pair)
    except (TypeError, ValueError):
        raise ValueError(f"size must be an integer or (height, width), and it is {size!r}. "
                         "Give for example size=96.") from None
    if min(height, width) < smallest:
        raise ValueError(f"size must be at least {smallest} pixels each way, and it is {size!r}: "
                         f"{why}. Give for example size=96.")
    return height, width
