"""Judges: models that give a number to what no program can check."""
