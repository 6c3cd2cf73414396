"""tune.space: what is refused and where, what a point comes to, and that tune's choice reaches the training."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import pytest
import yaml

from pipeline import params, space
from pipeline.errors import BadConfigError
from pipeline.search import _domain, _sampler, proposer
from pipeline.sections import Fit
from pipeline.train import PARAMS, choose
from pipeline.trial_score import SCORES
from vae.files import canonical_json, write_text

TEXT = (Path(__file__).resolve().parents[3] / "params.yaml").read_text()
SPACE = {
    "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
    "model": {"choices": ["conv", "resnet"]},
    "blocks": {"low": 1, "high": 3, "when": {"model": "resnet"}},
    "widths": {"choices": [[8, 16], [16, 32]]},
}


def text(told: object) -> str:
    return TEXT.replace("  space: {} ", f"  space: {yaml.safe_dump(told, default_flow_style=True, width=10**6).strip()} ")


def refusal(told: object) -> str:
    with pytest.raises(BadConfigError) as caught:
        params.check(text(told), "params.yaml")
    return str(caught.value)


def test_space_is_accepted_and_a_point_of_it_is_in_fits_own_types():
    found = params.check(text(SPACE), "p").tune.space
    drawn = {"learning_rate": 0.005, "model": 1, "blocks": 2, "widths": 0}
    assert space.active(found, drawn, Fit) == {"learning_rate": 0.005, "model": "resnet", "blocks": 2, "widths": (8, 16)}


def test_key_whose_condition_does_not_hold_is_left_as_it_is():
    drawn = {"learning_rate": 0.005, "model": 0, "blocks": 2, "widths": 1}
    assert space.active(SPACE, drawn, Fit) == {"learning_rate": 0.005, "model": "conv", "widths": (16, 32)}
    chained = {**SPACE, "likelihood": {"choices": ["logistic", "gaussian"], "when": {"model": "resnet"}},
               "sigma": {"low": 0.1, "high": 0.2, "when": {"likelihood": "gaussian"}}}  # fmt: skip
    drawn |= {"likelihood": 1, "sigma": 0.15}
    assert not {"likelihood", "sigma"} & set(space.active(chained, drawn, Fit))
    assert {"likelihood", "sigma"} <= set(space.active(chained, drawn | {"model": 1}, Fit))


@pytest.mark.parametrize(
    ("told", "part"),
    [
        ({"learning_rat": {"low": 0.1, "high": 0.2}}, "tune.space.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ({"learning_rate": {"low": 0.2, "high": 0.1}}, "low: 0.2 is greater than high 0.1: the range is empty"),
        ({"learning_rate": {"low": 0.1}}, "high: is missing"),
        ({"learning_rate": {"low": 0.1, "high": 7}}, "fit.learning_rate: 7.0 is out of range: allowed any to 1"),
        ({"learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, "needs a low above 0"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "scale": "log"}}, "scale: unknown key"),
        ({"learning_rate": 0.1}, "expected a section with keys, got 0.1"),
        ({"blocks": {"low": 1.5, "high": 3}}, "fit.blocks: expected int, got 1.5"),
        ({"model": {"choices": []}}, "is empty"),
        ({"objective": {"choices": ["elbo", "elbow"]}}, "fit.objective: 'elbow' is not one of"),
        ({"model": {"choices": ["conv"], "low": 1}}, "cannot stand beside low, high or log"),
        ({"prior": {"choices": ["normal"]}}, "tune.space.prior: is not searched"),
        ({"global_batch_size": {"low": 1, "high": 2}}, "is not searched"),
        ({"blocks": {"low": 1, "high": 3, "when": {"model": "ladder"}}}, "when: model: 'ladder' is no choice"),
        ([1], "tune.space: expected dict, got [1]"),
    ],
)
def test_space_that_cannot_be_searched_is_refused(told, part):
    message = refusal(told)
    assert part in message and message.startswith("params.yaml:")


def test_combination_of_choices_that_cannot_be_is_refused_with_its_reason():
    message = refusal({"model": {"choices": ["conv", "ladder"]}})
    assert "tune.space: model ladder: mixture needs a vector of latents" in message
    message = refusal({"objective": {"choices": ["elbo", "tc"]}, "exactness": {"choices": ["elastic"]}})
    assert "exactness: is not searched" in message
    message = refusal({"objective": {"choices": ["elbo", "tc"]}, "micro_batch_size": {"low": 8, "high": 8}})
    assert "micro_batch_size 8, objective tc: must be 0 with objective tc" in message


def test_all_combinations_are_tried_without_those_that_no_trial_comes_to():
    found = list(space.combinations({"model": SPACE["model"], "blocks": SPACE["blocks"]}, Fit))
    assert found == [{"model": "conv"}, {"model": "resnet", "blocks": 1}]


@pytest.mark.usefixtures("ray_settings")
@pytest.mark.parametrize("name", SPACE)
def test_domain_draws_both_ends_and_nothing_beyond(name):
    dimension = space.dimensions(SPACE)[name]
    domain = _domain(name, dimension)
    random.seed(0)
    drawn = [domain.sample() for _ in range(400)]
    if dimension.choices is not None:
        assert set(drawn) == set(range(len(dimension.choices)))
    else:
        low, high = dimension.ends
        assert low <= min(drawn) and max(drawn) <= high
        if name == "blocks":
            assert set(drawn) == {1, 2, 3}
        else:  # log-uniform: as many below the geometric mean as above
            assert sum(value < (low * high) ** 0.5 for value in drawn) / 400 == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("searcher", ["gp", "sobol", "tpe", "random"])
def test_searcher_proposes_the_same_points_for_the_same_seed(searcher):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def points(seed: int) -> list[dict]:
        study, found = optuna.create_study(sampler=_sampler(searcher, seed, 30)), []
        kinds = {"x": optuna.distributions.FloatDistribution(0, 1), "c": optuna.distributions.CategoricalDistribution([0, 1])}
        for _ in range(6):
            trial = study.ask(kinds)
            found.append(trial.params)
            study.tell(trial, trial.params["x"])
        return found

    assert points(1) == points(1) != points(2)


@pytest.mark.parametrize(("searcher", "share"), [("gp", 4), ("tpe", 3)])
def test_learning_searcher_learns_also_in_a_search_of_few_trials(searcher, share):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def proposed(trials: int, sign: float) -> list[float]:
        study = optuna.create_study(sampler=_sampler(searcher, 0, trials))
        for _ in range(trials):
            trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
            study.tell(trial, sign * trial.params["x"])
        return [trial.params["x"] for trial in study.trials]

    for trials in (9, 44):
        upwards, downwards = proposed(trials, -1.0), proposed(trials, 1.0)
        drawn = min(10, trials // share)  # without knowing a score
        assert upwards[:drawn] == downwards[:drawn] and upwards[drawn:] != downwards[drawn:]
    assert mean(upwards[30:]) > 0.6 > 0.4 > mean(downwards[30:])


@pytest.mark.usefixtures("ray_settings")
@pytest.mark.parametrize("searcher", ["gp", "tpe"])
def test_points_do_not_depend_on_the_order_in_which_trials_end(searcher):
    """Rounds of three: as they come, one after the other, the last one first; one that fails, and one that is never done."""
    from ray import tune

    def proposed(order: tuple[int, ...], at_once: bool) -> list[dict]:
        own = SimpleNamespace(searcher=searcher, trials=12, round_size=3, objectives="score", score="fcd", space={})
        asked, found, known = proposer(own, 0), [], {}
        asked.set_search_properties(*SCORES["fcd"], {"beta": tune.loguniform(0.1, 10.0), "latent_dim": tune.lograndint(4, 17)})

        def give(name: str) -> bool:
            point = asked.suggest(name)
            if point is not None:
                found.append(point)
                known[name] = point["beta"] / point["latent_dim"]
            return point is not None

        def end(name: str) -> None:
            failed = name == "4"
            asked.on_trial_complete(name, None if failed else {"val_fcd": known[name], "training_iteration": 1}, error=failed)

        for start in (0, 3, 6, 9):
            names = [str(start + place) for place in range(3)]
            if at_once:
                assert all(map(give, names)) and not give("one too many")
                for place in order[: 2 if start == 9 else 3]:
                    end(names[place])
            else:
                for name in names:
                    assert give(name)
                    end(name)
        return found

    first = proposed((0, 1, 2), at_once=True)
    assert first == proposed((2, 0, 1), at_once=True) == proposed((0, 1, 2), at_once=False)
    assert [point["number"] for point in first] == list(range(12)) and len({point["beta"] for point in first}) > 6


def section(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(params.check(TEXT, "p").tune), "searcher": "grid", "space": {}, **changes})


def test_grid_has_equal_steps_from_end_to_end():
    points = space.grid(section(grid_points=3, beta_min=0.1, beta_max=10.0, latent_dim_min=2, latent_dim_max=8), Fit)
    assert sorted({point["latent_dim"] for point in points}) == [2, 5, 8]
    assert sorted({point["beta"] for point in points}) == pytest.approx([0.1, 1, 10])
    assert len(points) == 9 and {min(p["beta"] for p in points), max(p["beta"] for p in points)} == {0.1, 10.0}


def test_grid_has_no_trial_twice():
    told = section(grid_points=5, beta_min=1.0, beta_max=1.0, latent_dim_min=2, latent_dim_max=4, space=SPACE)
    points = space.grid(told, Fit)
    # latent_dim 2, 3, 4; five learning rates; two widths; conv, or resnet of 1, 2 or 3 blocks
    assert len(points) == 3 * 5 * 2 * (1 + 3) == space.trials(told, Fit)
    trials = [(p["beta"], p["latent_dim"], space.active(SPACE, p, Fit)) for p in points]
    assert all(trials.count(each) == 1 for each in trials)
    assert space.trials(section(searcher="sobol", trials=7), Fit) == 7


def test_choice_of_the_search_reaches_the_training(project):
    values = project.values(PARAMS, train__use_tuned=True)
    project.paths.tune_report.mkdir(parents=True)
    best = {"beta": 0.7, "latent_dim": 5, "changes": {"learning_rate": 0.004, "widths": [4, 8], "model": "resnet"}}
    write_text(project.paths.tune_report / "best.json", canonical_json(best))

    choice = choose(values, project.paths)
    assert (choice.beta, choice.latent_dim, choice.fit.learning_rate, choice.fit.widths) == (0.7, 5, 0.004, (4, 8))
    model = choice.fit.model_config((8, 8, 1), 5)
    assert (model.name, model.widths) == ("resnet", (4, 8))
    assert choice.fit.objective == values.fit.objective
    fixed = choose(project.values(PARAMS, train__use_tuned=False), project.paths)
    assert fixed.fit == values.fit
