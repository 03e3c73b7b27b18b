"""The planner: does a recipe fit on which devices, and how fast can it be; and, on a machine, was that so."""

from keras_aha.planner.checks.check_record import CheckFinding, CheckReport
from keras_aha.planner.checks.checking import check
from keras_aha.planner.plan_record import DecodePlan, Plan, RunEstimate, StepEstimate, TrainPlan
from keras_aha.planner.plan_text import in_a_line, in_a_table, in_plain_words
from keras_aha.planner.planning import plan
from keras_aha.planner.search import search
from keras_aha.planner.topology import find_topology

__all__ = ["CheckFinding", "CheckReport", "DecodePlan", "Plan", "RunEstimate", "StepEstimate", "TrainPlan", "check"]
__all__ += ["find_topology", "in_a_line", "in_a_table", "in_plain_words", "plan", "search"]
