"""Commands that score an endpoint run on machines without PyTorch."""

import subprocess
import sys

from tests.helpers.paths import ROOT


def test_commands_do_not_import_pytorch():
    program = (
        "import eval.caption, eval.compare, eval.load_test, eval.run, eval.score, sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
