"""Recipes: TOML read into frozen dataclasses."""
