"""Version of the project, for signatures: from the installed package, else from pyproject.toml of the checkout."""

import tomllib
from importlib import metadata
from pathlib import Path


def project_version() -> str:
    """Return the version of the distribution `captioner`."""
    try:
        return metadata.version("captioner")
    except metadata.PackageNotFoundError:  # run from a checkout without `pip install`
        content = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(content)["project"]["version"])
