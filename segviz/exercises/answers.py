"""What the checks do with an answer: run it without leaving traces, compare its numbers, put things into words."""

import copy
import dis
import random
import traceback
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch


class Mismatch(Exception):
    """Why an answer is not the reference's, in words for the learner."""


def is_stub(function) -> bool:
    """Whether a function does nothing yet: a docstring, `...`, `pass`, or returning one of the two."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    idle = {"RESUME", "NOP", "POP_TOP", "CACHE", "COPY_FREE_VARS", "MAKE_CELL"}
    returned = {"RETURN_VALUE", "RETURN_CONST"}
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_CONST", "RETURN_CONST") and step.argval not in (None, ...):
            return False
        if step.opname not in idle | returned | {"LOAD_CONST"}:
            return False
    return True


def run(function: Callable, case: tuple):
    """What `function` returns for a copy of the case."""
    with settings_kept():
        return function(*copy.deepcopy(case))


@contextmanager
def settings_kept():
    """Puts back what an answer may change for the cells below: random numbers, default dtype, gradient mode."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def compare(output, expected, tolerance: float, where: str) -> None:
    """Raises `Mismatch`, in words, unless `output` holds the numbers of `expected`, in its shape, to `tolerance`
    (relative, and absolute). Python numbers, sequences, arrays and tensors of any real type are alike; NaN equals NaN.
    """
    numbers, wanted = _numbers(output), _numbers(expected)
    if numbers is None:
        raise Mismatch(f"{where} your function should return {describe(expected)}, but returned {describe(output)}.")
    if numbers.shape != wanted.shape:
        raise Mismatch(f"{where} the result should have shape {wanted.shape}, but yours has {numbers.shape}.")
    equal = np.isclose(numbers, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if equal.all():
        return
    if wanted.ndim == 0:
        raise Mismatch(f"{where} the answer is {_short(wanted)}, but yours is {_short(numbers)}.")
    first = tuple(int(i) for i in np.argwhere(~equal)[0])
    raise Mismatch(
        f"{where} {(~equal).sum()} of {equal.size} numbers differ. At {first} the answer is "
        f"{_short(wanted[first])}, but yours is {_short(numbers[first])}."
    )


def _numbers(value) -> np.ndarray | None:
    """`value` as float64, or None where it is no real number or table of real numbers."""
    try:
        array = np.asarray(_listed(value))
        # Objects are fractions, decimals and None; text that reads as a number is none.
        return array.astype(np.float64) if array.dtype.kind in "biufO" and not _holds_text(array) else None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _listed(value):
    """`value` with every tensor in it as an array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value if value.is_complex() else value.double()).numpy()  # numpy has no bfloat16
    return [_listed(x) for x in value] if isinstance(value, list | tuple) else value


def _holds_text(array: np.ndarray) -> bool:
    return array.dtype == object and any(isinstance(x, str | bytes) for x in array.flat)


def describe(value) -> str:
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim:
        return f"a {'tensor' if isinstance(value, torch.Tensor) else 'array'} of shape {tuple(value.shape)}"
    if isinstance(value, torch.nn.Module):
        return f"a network ({type(value).__name__})"
    return f"{type(value).__name__} {_shown(value, 40)}"


def in_words(case: tuple) -> str:
    return f"({', '.join(map(_argument, case))})"


def _argument(value) -> str:
    """A small tensor in numbers, a large one or a network in words."""
    if isinstance(value, torch.Tensor) and value.numel() <= 12:
        return _shown(value.tolist(), 60)
    return describe(value) if isinstance(value, torch.Tensor | torch.nn.Module) else _shown(value, 60)


def _shown(value, length: int) -> str:
    """`repr(value)` on one line, at most `length` characters; learners' own classes may fail at it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return "(without a repr)"
    return text if len(text) <= length else text[: length - 3] + "..."


def _short(value) -> str:
    return f"{float(value):.6g}"


def error_in_words(error: BaseException, answer=None) -> str:
    """The error's type and message, and the line of `answer`'s own cell where it came up."""
    cell = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == cell]
    place = f" (line {lines[-1]} of your cell)" if lines else ""
    try:
        message = str(error) or "no message"
    except Exception:
        message = "no message"
    return f"{type(error).__name__}: {message if len(message) <= 300 else message[:297] + '...'}{place}"
