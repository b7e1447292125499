"""Commands: programs that have to be installed, and modules run in the process of the test."""

import io
import os
import runpy
import shutil
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout

import pytest

from tests.helpers.paths import ROOT


def require_program(program: str, package: str) -> str:
    """Return the path of a program; if it is missing, skip the test, but fail it in CI.

    Args:
        program: Name of the executable.
        package: Debian package that installs it, for the message.
    """
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        missing = f"needs {program}: apt-get install {package}"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


def run_module_in_process(module: str, *arguments: object) -> tuple[int, str, str]:
    """Run `python -m module` in this process, which has already imported PyTorch.

    It is for commands that fail early: a new process would spend ten seconds on imports. Exceptions propagate.

    Returns:
        The exit code, standard output and standard error.
    """
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        patch.chdir(ROOT)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # runpy's: the module is in sys.modules already
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
    if isinstance(code, str):  # as the interpreter does it
        code = bool(errors.write(f"{code}\n"))
    return int(code), out.getvalue(), errors.getvalue()
