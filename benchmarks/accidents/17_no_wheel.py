"""Systems and Pythons for which a dependency has no wheel: pip is told which Pythons, and the README which systems.

github.com/keras-team/keras-hub/issues/2133
"""

import tomllib

from commands import ROOT


def check(folder):
    versions = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "," in versions and "<" in versions, versions
    assert all(word in readme for word in ("Linux", "macOS", "WSL")), "the README does not name them"
    return f"requires-python is {versions}; the README names Linux, macOS, and WSL on Windows"
