"""Claims about the forge's files: CI calls what a contributor types, and versions are stated alike everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
STEPS = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]


def test_ci_runs_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {target for step in STEPS for target in re.findall(r"\bmake ([a-z-]+)", step)}
    assert called <= targets and all("make " in step for step in STEPS)
    assert called >= {"lint", "test", "test-compiled", "test-base", "docs", "coverage"}


def test_ci_runs_every_version_that_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    supported = (ROOT / "SECURITY.md").read_text()
    assert all(version in supported for version in named)
    assert set(named) <= set(WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_unless_a_job_says_more_and_leaves_no_token_behind(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job.get("steps", ()):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_a_wheel_of_the_forge_must_be_compiled_and_score_natively() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    compiled, *others = settings["test-command"].split(" && ")  # each must end well
    assert compiled == "tocsin --version | grep '(compiled)'"
    (script,) = re.findall(r"python -P {project}/(\S+)", " ".join(others))
    assert (ROOT / script).exists() and script in (ROOT / ".github" / "workflows" / "wheels.yml").read_text()


def test_what_is_built_without_tags_has_the_charts_version() -> None:
    fallback = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools_scm"]["fallback_version"]
    chart = yaml.safe_load((ROOT / "helm" / "tocsin" / "Chart.yaml").read_text())
    assert (str(chart["version"]), str(chart["appVersion"])) == (fallback, fallback)


def test_hooks_use_the_projects_own_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    dev = " ".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"])
    for hook in config["repos"][0]["hooks"]:
        tool = hook["entry"].split()[0]
        assert tool in ("git", "make") or tool.removeprefix(".venv/bin/") in dev


def test_templates_are_forms() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        assert "blank_issues_enabled" in form or {"name", "description", "body"} <= form.keys(), path


def test_the_changelog_has_a_part_for_each_version_and_names_the_kind_of_each_change() -> None:
    """Keep a Changelog's form: what is not released on top, then versions with their dates, the newest first."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools_scm"]["fallback_version"]
    parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert parts[0].startswith("[Unreleased]\n")
    released = []
    for part in parts[1:]:
        heading = re.match(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d\n", part)
        assert heading, part.splitlines()[0]
        released.append(tuple(map(int, heading.groups())))
    assert released == sorted(released, reverse=True)
    assert all(number <= tuple(map(int, version.split("."))) for number in released)
    for part in parts:
        before, *kinds = re.split(r"^### ", part, flags=re.MULTILINE)
        assert not re.search("^- ", before, re.MULTILINE), "each change belongs to a kind"
        assert {kind.splitlines()[0] for kind in kinds} <= {
            "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
        }  # fmt: skip
