"""What a compiled program does, read from its text: operations, collectives, bytes to and from memory."""

from keras_aha.planner.hlo.collectives import collectives
from keras_aha.planner.hlo.matrix_flops import matrix_flops
from keras_aha.planner.hlo.traffic import hbm_bytes, hbm_traffic

__all__ = ["collectives", "hbm_bytes", "hbm_traffic", "matrix_flops"]
