"""recipe: every file of recipes/ fits params.yaml as it is; what does not fit is told whole, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import params, recipe
from pipeline.errors import BadConfigError, InputMissingError
from workspace import ROOT

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def here(project):
    """A workspace with the project's own recipes."""
    (project.root / "recipes").mkdir()
    for name in RECIPES:
        (project.root / f"recipes/{name}.yaml").write_text((ROOT / f"recipes/{name}.yaml").read_text())
    return project


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_changes_what_it_says_and_no_more(here, name):
    before = params.load(here.paths.params, tuple(params.SECTIONS))
    values = recipe.use(name, here.paths)
    after = params.load(here.paths.params, tuple(params.SECTIONS))
    differing = {
        f"{section}.{key}"
        for section in params.SECTIONS
        for key, value in vars(getattr(before, section)).items()
        if vars(getattr(after, section))[key] != value
    }
    assert values and differing == set(values)
    assert recipe.use(name, here.paths) == {}  # a second time there is nothing to do


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_a_page_that_names_it(name):
    page = (ROOT / f"recipes/{name}.yaml").read_text().split("docs/")[1].split(".md")[0]
    assert f"RECIPE={name}" in (ROOT / f"docs/{page}.md").read_text()
    assert page in (ROOT / "README.md").read_text()


def test_what_the_person_said_is_kept(here):
    mine = Path(here.root) / "mine.yaml"
    mine.write_text("download:\n  source: digits\n  path: elsewhere\nfit:\n  blocks: 2\n")
    assert recipe.use(str(mine), here.paths, ("download.source", "download.path")) == {"fit.blocks": 2}


def refused(here, text: str, *words: str, error: type[Exception] = BadConfigError) -> None:
    path, before = Path(here.root) / "mine.yaml", here.paths.params.read_text()
    path.write_text(text)
    with pytest.raises(error) as told:
        recipe.use(str(path), here.paths)
    assert all(word in str(told.value) for word in words), str(told.value)
    assert here.paths.params.read_text() == before


def test_all_unknown_keys_are_told_at_once_with_their_lines(here):
    text = "fit:\n  class_condition: true\n  blocks: 2\ntrian:\n  beta: 2.0\ntune: 3\n"
    refused(here, text, "mine.yaml:2: fit.class_condition: unknown key; did you mean 'class_conditional'?",
            "mine.yaml:5: trian.beta: unknown key", "mine.yaml:6: tune: is no section")  # fmt: skip


def test_values_that_cannot_be_are_told(here):
    refused(here, "fit:\n  blocks: 0\n  likelihood: gausian\n", "--recipe", "fit.blocks", "fit")
    refused(here, "fit:\n  prior: flow\n  model: vq\n", "fit.prior")


def test_what_is_no_recipe_is_told(here):
    refused(here, "just text", "holds no sections")
    refused(here, "fit: {blocks: 1, blocks: 2}\n", "key given twice")
    with pytest.raises(InputMissingError, match="did you mean testdata"):
        recipe.use("testdate", here.paths)
    with pytest.raises(InputMissingError, match=r"none\.yaml does not exist"):
        recipe.use("none.yaml", here.paths)
