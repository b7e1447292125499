"""Starts a server, sends it all that is hostile, and prints what came of it.

make hostile
"""

import sys
import tempfile
from pathlib import Path

from deploy.archive import build_archive
from deploy.testing import ROOT, isolated_server
from tests.adversarial import grpc_cases
from tests.adversarial.runner import run_cases


def main() -> None:
    """Prints the table of docs/robustness.md; ends with 1 where something came of it that must not."""
    good = (ROOT / "samples" / "photos" / "cat.jpg").read_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_archive(ROOT / "pretrained", folder / "model_store")
        server = isolated_server(folder, folder / "model_store")
        try:
            server.start()
            found = run_cases(server, good, grpc_cases())
        finally:
            server.stop()
    print(found.table())
    if faults := found.faults():
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
