"""What the manual adds to Sphinx: a check that nothing public is left out, links, and formulas in MathML."""

import importlib

import keras_aha

import docstrings
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.util import inspect, logging

_log = logging.getLogger(__name__)


def setup(app):
    app.add_role("backticks", link_or_code)
    app.add_html_math_renderer("mathml", (write_inline_math, None), (write_math, None))
    app.connect("autodoc-process-docstring", check_and_convert, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", sign_by_init)
    app.connect("env-check-consistency", check_public_names)
    app.connect("missing-reference", find_by_last_name)
    app.connect("source-read", link_within)


# === Nothing public is left out ===


def check_and_convert(app, what, name, obj, options, lines):
    if what in ("class", "exception", "function", "method", "module") and not obj.__doc__:
        _log.warning("%s has no docstring", name, type="aha", subtype="undocumented")
    lines[:] = docstrings.as_restructured(lines)


def sign_by_init(app, what, name, obj, options, signature, returns):
    """Keras's models hide the arguments of their own `__init__`."""
    if what == "class" and signature == "(*args, **kwargs)":
        signature = inspect.stringify_signature(
            inspect.signature(obj.__init__, bound_method=True), unqualified_typehints=True
        )
        return signature, returns


def check_public_names(app, env):
    """Each public name has its place on a page; one that two namespaces have needs one place only."""
    objects = env.get_domain("py").objects
    places = {id(_import(path)) for path in objects if path.startswith("keras_aha")}
    for path in ("keras_aha", "keras_aha.losses", "keras_aha.tasks"):
        for name in importlib.import_module(path).__all__:
            if id(_import(f"{path}.{name}")) not in places:
                _log.warning("%s.%s is public and has no place in docs/api/", path, name, type="aha", subtype="missing")


def _import(path):
    value = keras_aha
    for name in path.split(".")[1:]:
        value = getattr(value, name, None)
    return value


# === Links ===


def link_within(app, docname, source):
    """Pages link to `../README.md` and `../LOG.md`, for readers of the repository. In the manual these are pages."""
    source[0] = source[0].replace("(../README.md", "(index.md").replace("(../LOG.md", "(log.md")


def link_or_code(name, rawtext, text, lineno, inliner, options=None, content=None):
    """What stands between single backticks in a docstring: code, and a link where it names something."""
    code = nodes.literal(text, text.replace("\x00", ""))
    reference = addnodes.pending_xref(
        "", code, refdomain="py", reftype="obj", reftarget=text.removesuffix("()"), refexplicit=True
    )
    return [reference], []


def find_by_last_name(app, env, node, contnode):
    """Resolves a name that says where it is defined, or not all of its path, to where it is documented."""
    target, reftype = node["reftarget"], node["reftype"]
    if node.get("refdomain") != "py" or (reftype == "obj" and target.isalpha() and target.islower()):
        return None  # `fit`, `policy`: a word that names an argument more often than a function of ours
    last = target.split(".")[-1] if target.startswith("keras_aha.") else target
    objects = env.get_domain("py").objects.items()
    entries = [(path, entry) for path, entry in objects if path.endswith(f".{last}") and not entry.aliased]
    if len(entries) != 1:
        return None
    (path, entry), refdoc = entries[0], node.get("refdoc", env.docname)
    uri = f"{app.builder.get_relative_uri(refdoc, entry.docname)}#{entry.node_id}"
    return nodes.reference("", "", contnode, internal=True, reftitle=path, refuri=uri)


# === Formulas ===


def write_inline_math(writer, node):
    writer.body.append(as_mathml(node))
    raise nodes.SkipNode


def write_math(writer, node):
    writer.body.append(f'<div class="math" style="overflow-x: auto">{as_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def as_mathml(node, **settings):
    try:
        return tex2mathml(node.astext(), **settings)
    except MathError as error:
        _log.warning("%s In: %s", error, node.astext(), location=node, type="aha", subtype="formula")
        return ""
