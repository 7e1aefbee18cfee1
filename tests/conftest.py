"""Fixtures for tests that drive a browser (they skip, saying why, where there is none), or train tiny networks."""

import browser as driving
import pytest


@pytest.fixture(scope="module")
def one_thread():
    """For tiny networks: waking other threads takes longer than their work, and sums come out alike every time."""
    from segviz.widgets import engine
    with engine.one_thread():
        yield


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium for the whole run."""
    if reason := driving.why_not():
        pytest.skip(reason)
    with driving.launched() as found:
        yield found


@pytest.fixture(scope="module")
def jupyter_lab():
    """`jupyter_lab(root)` as a context: a JupyterLab on a free port that serves the folder."""
    return driving.jupyter_lab


@pytest.fixture
def page(chromium):
    """A new page, with `page.errors`: what its console and its scripts complained of."""
    with driving.watched_page(chromium) as opened:
        yield opened


@pytest.fixture(scope="module")
def module_page(chromium):
    """The same, shared by a module's tests."""
    with driving.watched_page(chromium) as opened:
        yield opened
