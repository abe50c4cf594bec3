"""What the forkserver of the trials imports once, so that a rank starts in a few milliseconds."""

import live_ranks
import numpy as np
import torch.distributed  # noqa: F401

from evenload import Cluster
from evenload.live.proposal import Proposal
from evenload.moves import in_old_slots

_rows = np.array([[0, 1, 1, 0]])
_cluster = Cluster(2, slots_per_gpu=2)
_target = in_old_slots(np.array([[1, 0, 0, 0]]), _rows, _cluster)
Proposal.make(_rows, _target, _cluster, [1, 1], {}).links(_rows, _cluster)  # loads the kernels
live_ranks.RandomPolicy(0, 1)
