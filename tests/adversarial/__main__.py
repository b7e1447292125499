"""Send all adversarial cases to a private server and print the results.

make test-adversarial
"""

import sys
import tempfile
from pathlib import Path

from deploy.archive import build_archive
from deploy.isolated_server import ROOT, isolated_server
from tests.adversarial import grpc_cases
from tests.adversarial.runner import run_cases


def main() -> None:
    """Print the table of docs/robustness.md; exit with 1 if there is a fault."""
    good = (ROOT / "samples" / "photos" / "cat.jpg").read_bytes()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        build_archive(ROOT / "pretrained", directory / "model_store")
        server = isolated_server(directory, directory / "model_store")
        try:
            server.start()
            report = run_cases(server, good, grpc_cases())
        finally:
            server.stop()
    print(report.table())
    if faults := report.faults():
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
