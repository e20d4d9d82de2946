"""From what an environment does to memory to how probable a loss is.

`Events` says how many words one event strikes, `Environment` how often there are events, `chance`
what follows for one check after the other, and `Pace` how often to check while it runs.
"""

from parimend.risk.environment import Environment, environment
from parimend.risk.events import Events
from parimend.risk.service import Service

__all__ = ["Environment", "Events", "Service", "environment"]
