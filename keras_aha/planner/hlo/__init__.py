"""What a compiled program does, read from its text: operations, collectives, bytes to and from memory."""

from keras_aha.planner.hlo.collectives import Collectives, collectives
from keras_aha.planner.hlo.matrix_flops import matrix_flops
from keras_aha.planner.hlo.traffic import hbm_bytes, hbm_traffic, loop_bytes

__all__ = ["Collectives", "collectives", "hbm_bytes", "hbm_traffic", "loop_bytes", "matrix_flops"]
