"""Asks a vulnerability service about each pinned version.

python -m deploy.audit
python -m deploy.audit --service https://osv.example.com/v1/query

Ends with 0 where no version is known to be vulnerable, with 1 where one is, and with 3 where the service could not be
asked about all of them: then nothing is known.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).parent.parent / "requirements" / "constraints.txt"
SERVICE = "https://api.osv.dev/v1/query"
VULNERABLE, UNKNOWN = 1, 3


def audit(requirements: Path, service: str) -> tuple[int, str]:
    """Asks pip-audit, whose exit code is 1 for whatever went wrong, and 0 where it skipped what it did not find.

    Args:
        requirements: a file of versions, each pinned.
        service: URL that answers queries as OSV does.

    Returns:
        The exit code, and what to say.
    """
    command = [Path(sys.executable).parent / "pip-audit", "--requirement", requirements, "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--osv-url", service, "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return UNKNOWN, f"{service} could not be asked, so that nothing is known: {reason}"
    if skipped := [package["name"] for package in packages if "skip_reason" in package]:
        return UNKNOWN, f"{service} could not be asked about {', '.join(skipped)}."
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in packages
        for vulnerability in package["vulns"]
    ]
    if found:
        return VULNERABLE, "\n".join(found)
    return 0, f"None of {len(packages)} packages is known to be vulnerable."


def main() -> None:
    parser = argparse.ArgumentParser(description="Asks a vulnerability service about each pinned version.")
    parser.add_argument("--service", default=SERVICE, help="a URL that answers as OSV does")
    parser.add_argument("--requirements", type=Path, default=PINNED, help="a file of pinned versions")
    arguments = parser.parse_args()
    code, said = audit(arguments.requirements, arguments.service)
    print(said, file=sys.stdout if code == 0 else sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
