"""Parameters on a mesh: where an optimizer's state lies, and what its update communicates.

    shardings = sharding.state_sharding(tx, params)
    print(sharding.communication(tx, params))

Both take `jax.ShapeDtypeStruct`s with shardings, so nothing need be allocated. The devices may be described
ones (`jax.experimental.topologies`): then the programs are those of a machine that is not there.
"""

from gradflow.sharding._collectives import Collective as Collective
from gradflow.sharding._communication import Communication as Communication
from gradflow.sharding._communication import communication as communication
from gradflow.sharding._communication import communication_of as communication_of
from gradflow.sharding._placement import state_sharding as state_sharding

__all__ = ["Collective", "Communication", "communication", "communication_of", "state_sharding"]
