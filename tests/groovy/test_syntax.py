"""The scripts for QuPath: parsed by Groovy itself, short, and saying for which QuPath they are."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARSER = Path(__file__).with_name("parse.groovy")
SCRIPTS = sorted((ROOT / "groovy").glob("*.groovy"))
Run = Callable[..., subprocess.CompletedProcess[str]]

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def test_the_scripts_are_the_five_that_the_documentation_explains() -> None:
    assert [path.stem for path in SCRIPTS] == [
        "export_annotations",
        "import_predictions",
        "predict",
        "send_prompts",
        "show_patches",
    ]
    told = (ROOT / "docs" / "qupath.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in told for path in SCRIPTS)


def test_groovy_4_parses_every_script(groovy: Run) -> None:
    done = groovy(PARSER, *SCRIPTS)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Groovy 4.")


@pytest.mark.parametrize(
    ("slip", "instead"),
    [
        pytest.param("if (project == null) throw", "if (project == null throw", id="a bracket that is missing"),
        pytest.param("int failed = 0", "int failed = ", id="nothing after ="),
        pytest.param("} catch (Exception error) {", "} catch (Exception error) {{", id="a brace too many"),
        pytest.param("'UTF-8')\n", "'UTF-8)\n", id="a string without end"),
    ],
)
def test_a_slip_in_a_script_is_found(groovy: Run, tmp_path: Path, slip: str, instead: str) -> None:
    whole = (ROOT / "groovy" / "export_annotations.groovy").read_text(encoding="utf-8")
    assert slip in whole
    broken = tmp_path / "broken.groovy"
    broken.write_text(whole.replace(slip, instead, 1), encoding="utf-8")

    done = groovy(PARSER, SCRIPTS[0], broken)

    assert done.returncode == 1
    assert "broken.groovy: " in done.stdout


@every_script
def test_a_script_is_short_and_without_tabs(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()

    assert len(lines) <= 80
    assert max(map(len, lines)) <= 120
    assert not any("\t" in line or line != line.rstrip() for line in lines)


@every_script
def test_a_script_begins_with_the_versions_it_is_for_and_then_its_settings(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line and not line.startswith("//")]

    assert lines[0].startswith("// QuPath 0.5-0.7: ")
    assert code[0].startswith("def ")
    assert "import static qupath.lib.gui.scripting.QPEx.*" in lines


@every_script
def test_a_script_needs_nothing_that_quPath_lacks(script: Path) -> None:
    """QuPath brings Groovy without its JSON, CSV and SQL modules; extensions' classes may not be there."""
    imported = re.findall(r"^import (?:static )?([\w.]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    brought = ("java", "javafx", "javax", "qupath", "com.google.gson", "org.locationtech.jts", "org.slf4j")

    assert all(name.startswith(brought) and not name.startswith("qupath.ext") for name in imported)


def test_the_two_scripts_that_ask_what_was_corrected_ask_the_same_way() -> None:
    texts = [(ROOT / "groovy" / f"{name}.groovy").read_text() for name in ("export_annotations", "import_predictions")]
    functions = [text[text.index("def fingerprint(object)") :] for text in texts]

    assert functions[0] == functions[1]
