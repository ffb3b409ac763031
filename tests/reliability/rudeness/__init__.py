"""Tasks that misuse the worker they run on, and innocent ones that run beside them."""

from tests.reliability.rudeness import errors, loops, processes
from tests.reliability.rudeness.acts import ACTS, SUCCESS, Act
from tests.reliability.rudeness.innocent import INNOCENT

__all__ = ["ACTS", "INNOCENT", "SUCCESS", "Act", "errors", "loops", "processes"]
