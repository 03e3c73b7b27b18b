"""The manual: Markdown pages, and the API from docstrings. Everything that is missing or broken is a warning."""

import importlib
import inspect
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import keras_aha  # noqa: E402  before Keras

import docstrings  # noqa: E402
import recipe_keys  # noqa: E402
from docutils import nodes  # noqa: E402
from docutils.statemachine import StringList  # noqa: E402
from docutils.utils.math.latex2mathml import tex2mathml  # noqa: E402
from sphinx import addnodes  # noqa: E402
from sphinx.util import logging  # noqa: E402
from sphinx.util.docutils import SphinxDirective  # noqa: E402

project, author, copyright = "keras-aha", "The keras-aha authors", "the keras-aha authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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
    ("py:class", r"keras_aha\.recipe_sections\..*"),
]
default_role = "backticks"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes = False
autodoc_inherit_docstrings = False  # Keras's words about its hooks are Keras's
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_use_ivar = True

_log = logging.getLogger(__name__)


def setup(app):
    app.add_directive("recipe-keys", RecipeKeys)
    app.add_role("backticks", link_or_code)
    app.add_html_math_renderer("mathml", (write_inline_math, None), (write_math, None))
    app.connect("autodoc-process-docstring", check_and_convert, priority=400)  # before napoleon
    app.connect("env-check-consistency", check_public_names)
    app.connect("missing-reference", find_by_last_name)


# === Nothing public is left out ===


def check_and_convert(app, what, name, obj, options, lines):
    own = None if obj is None else getattr(obj, "__doc__", None) or inspect.getdoc(obj)
    inherited = inspect.isclass(obj) and "__doc__" in vars(obj) and vars(obj)["__doc__"] is None
    if what in ("class", "function", "method", "exception", "module") and (not own or inherited):
        _log.warning("%s has no docstring", name, type="aha", subtype="undocumented")
    lines[:] = docstrings.as_restructured(lines)


def check_public_names(app, env):
    """Each public name has its place on a page; one that two namespaces have needs one place only."""
    objects = env.get_domain("py").objects
    found = {id(_import(path)) for path in objects if path.startswith("keras_aha")}
    for path in ("keras_aha", "keras_aha.losses", "keras_aha.tasks"):
        for name in importlib.import_module(path).__all__:
            if id(_import(f"{path}.{name}")) not in found:
                _log.warning("%s.%s is public and has no place in docs/api/", path, name, type="aha", subtype="missing")


def _import(path):
    found = keras_aha
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    return found


# === Links ===


def link_or_code(name, rawtext, text, lineno, inliner, options=None, content=None):
    """What stands between single backticks in a docstring: code, and a link where it names something."""
    code = nodes.literal(text, text.replace("\x00", ""))
    reference = addnodes.pending_xref(
        "", code, refdomain="py", reftype="obj", reftarget=text.removesuffix("()"), refexplicit=True
    )
    return [reference], []


def find_by_last_name(app, env, node, contnode):
    """Resolves a name that says where it is defined, or not all of its path, to where it is documented."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    last = target.split(".")[-1] if target.startswith("keras_aha.") else target
    places = [path for path in domain.objects if path.endswith(f".{last}") and not path.endswith(f"..{last}")]
    kinds = [path for path in places if domain.objects[path].objtype in ("class", "function", "method", "exception")]
    if len(kinds) != 1 or (node["reftype"] == "obj" and "." not in target and target.islower() and "_" not in target):
        return None
    entry = domain.objects[kinds[0]]
    return nodes.reference(
        "",
        "",
        contnode,
        internal=True,
        reftitle=kinds[0],
        refuri=f"{app.builder.get_relative_uri(node.get('refdoc', env.docname), entry.docname)}#{entry.node_id}",
    )


# === Tables of keys, and formulas ===


class RecipeKeys(SphinxDirective):
    """The table of a section's keys; see `recipe_keys.table`."""

    required_arguments = 1

    def run(self):
        for module in ("recipe_sections", "callbacks.rollout_callback", "losses.grpo_loss", "distribution", "priming"):
            self.env.note_dependency(recipe_keys.find(module).__file__)
        text = recipe_keys.table(self.arguments[0])
        node = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), self.arguments[0]), 0, node)
        return node.children


def write_inline_math(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def write_math(writer, node):
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode
