"""The run that a recipe describes: built, trained in a folder, resumed, reported, exported."""
