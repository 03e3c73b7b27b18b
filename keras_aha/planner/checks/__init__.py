"""`check` of a machine: what is predicted, against what is measured."""
