"""A simulation of the whole system in one thread and virtual time: the same seed, the same history.

Real are the worker, what authors write, and the rules of `core`; the store, the network, the clients and the outside are
made here. `play` plays one seed and holds what happened to the invariants.
"""

from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.play import Played, play

__all__ = ["Mutant", "Played", "play"]
