"""How many examples a property test draws. The profile of Hypothesis decides; `conftest.py` defines them."""

from hypothesis import settings

USUAL_EXAMPLES = 100


def scaled(count):
    """Return `count` in `make test`, fewer in `make test-fast`, more in `make soak`."""
    return max(1, count * settings.default.max_examples // USUAL_EXAMPLES)
