"""What the project pins installs from anybody's index."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# In pieces, so that this file does not find itself.
INDEXES = re.compile("pypi[.]org/" + "simple|python" + "hosted|(?<!--no-emit-)index" + "-url")


def tracked_files() -> list[Path]:
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True).stdout.decode()
    except (FileNotFoundError, subprocess.CalledProcessError):
        if os.environ.get("CI"):
            raise
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_every_line_is_one_package_at_one_version() -> None:
    for line in CONSTRAINTS:
        requirement = Requirement(line)
        assert requirement.url is None
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), line


def test_constraints_name_no_url_and_no_path() -> None:
    text = "\n".join(CONSTRAINTS)
    assert "://" not in text
    assert "file:" not in text
    assert "/" not in text


def test_every_requirement_of_the_project_is_pinned() -> None:
    pinned = {canonicalize_name(Requirement(line).name) for line in CONSTRAINTS}
    extras = PROJECT["optional-dependencies"].values()
    wanted = [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]
    assert {canonicalize_name(one.name) for one in wanted} - {"litestar-tasks"} <= pinned


def test_every_pin_is_allowed_by_the_project() -> None:
    extras = PROJECT["optional-dependencies"].values()
    pins = {canonicalize_name((one := Requirement(line)).name): one.specifier for line in CONSTRAINTS}
    for text in [text for group in (PROJECT["dependencies"], *extras) for text in group]:
        wanted = Requirement(text)
        if wanted.name != "litestar-tasks":
            (pin,) = pins[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(pin.version, prereleases=True), text


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the business of whoever installs them."""
    found = {
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if INDEXES.search(path.read_bytes().decode("utf-8", "replace"))
    }
    assert not found
