"""The manual's settings; what is its own stands in `manual.py`. Everything that is missing or broken is a warning."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

project, author, copyright = "keras-aha", "The keras-aha authors", "the keras-aha authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "manual"]
html_theme = "furo"
html_title = "keras-aha"
html_math_renderer = "mathml"  # which browsers draw themselves: nothing is loaded from anywhere
exclude_patterns = ["_build"]
nitpicky = True
# Types of other libraries are not looked up, which would need their pages; backticks are links where there is a target;
# the sections of a recipe are tables in recipes.md.
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"(?!keras_aha\b).*"),
    ("py:class", r"keras_aha\.recipes\.(sections|feedback|turns)\..*"),
]
default_role = "backticks"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes_action = "D"  # dashes; quotes are as they are written
autodoc_inherit_docstrings = False  # Keras's words about its hooks are Keras's
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_use_ivar = True
