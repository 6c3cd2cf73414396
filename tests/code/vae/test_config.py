"""config: strict parsing finds every problem, names it, and says what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from vae.config import FitConfig, ModelConfig
from vae.schema import Problem, field, parse

FIT = {
    "seed": 1, "beta": 2.5, "global_batch_size": 64, "total_images": 1000, "learning_rate": 0.001, "warmup_images": 10,
    "weight_decay": 0.0, "clip_norm": 1.0, "ema_decay": 0.99, "precision": "float32", "beta_start": 4.0, "beta_anneal_share": 0.5,
    "shuffle_images": 0, "objective": "elbo", "beta_schedule": "geometric", "beta_cycles": 1, "free_bits_nats": 0.0,
    "capacity_nats": 0.0, "regulariser_weight": 1.0, "importance_samples": 1,
    "validate_every_images": 100, "checkpoint_every_images": 200, "memory_format": "channels_last", "compile": False,
    "recompute": False, "micro_batch_size": 0, "exactness": "resume", "virtual_shards": 12, "skip_nonfinite_steps": 0,
    "denoise_levels": 0.0, "smoothness": 0.0, "adversary_weight": 0.0, "adversary_start_share": 0.0,
        "feature_weight": 0.0, "critic_width": 8, "critic_learning_rate": 1e-3,
    "keep_checkpoints": 2, "patience_reports": 0, "frozen_images": 0, "layer_decay": 1.0, "epsilon": 0.0, "delta": 1e-5, "sample_norm": 1.0,
}  # fmt: skip
MODEL = {
    "name": "conv",
    "image_shape": [8, 8, 1],
    "latent_dim": 2,
    "widths": [8, 16],
    "hidden_units": 4,
    "blocks": 1,
    "stochastic_layers": 2,
    "codes": 2,
    "sigma": 0.1,
    "likelihood": "logistic",
}


@dataclass(frozen=True, kw_only=True)
class Span:
    """A section with an optional field, a switch and a rule between two fields."""

    low: int = field(low=0)
    high: int | None = field(low=0, high=9)
    inclusive: bool
    title: str = "none"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.high is not None and self.high < self.low:
            yield "high", f"{self.high} is below low {self.low}"


def only_problem(section: type, mapping: dict) -> Problem:
    instance, problems = parse(section, mapping, "here")
    assert instance is None
    assert len(problems) == 1, problems
    return problems[0]


def test_parse_legal_mapping_returns_equal_instance() -> None:
    instance, problems = parse(FitConfig, FIT, "fit")
    assert problems == []
    assert dataclasses.asdict(instance) == FIT


def test_parse_list_becomes_tuple() -> None:
    instance, problems = parse(ModelConfig, MODEL, "model")
    assert problems == []
    assert instance.widths == (8, 16) and instance.image_shape == (8, 8, 1)
    assert hash(instance) == hash(parse(ModelConfig, MODEL, "model")[0])  # frozen and hashable: no list is left inside


def test_parse_instance_is_frozen() -> None:
    instance, _ = parse(FitConfig, FIT, "fit")
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.beta = 3.0


@pytest.mark.parametrize("key", FIT)
def test_parse_missing_key_is_named(key: str) -> None:
    problem = only_problem(FitConfig, {k: v for k, v in FIT.items() if k != key})
    assert problem == Problem(f"here.{key}", "missing key")


@pytest.mark.parametrize(
    ("typo", "meant"), [("learning_rat", "learning_rate"), ("Beta", "beta"), ("total_image", "total_images")]
)
def test_parse_unknown_key_suggests_the_nearest(typo: str, meant: str) -> None:
    problem = only_problem(FitConfig, FIT | {typo: 1})
    assert problem.key == f"here.{typo}"
    assert f"did you mean {meant!r}?" in problem.message


def test_parse_unknown_key_without_neighbour_lists_the_known() -> None:
    problem = only_problem(FitConfig, FIT | {"zzz": 1})
    assert "did you mean" not in problem.message
    assert all(key in problem.message for key in FIT)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", 1.5, "expected int"),
        ("seed", "7", "expected int"),
        ("seed", None, "expected int"),
        ("seed", True, "expected int"),
        ("beta", False, "expected float"),
        ("beta", None, "expected float"),
        ("beta", [1.0], "expected float"),
        ("beta", "large", "expected a number, got the text 'large'"),
        ("precision", 32, "expected str"),
    ],
)
def test_parse_wrong_type_says_what_was_expected(key: str, value: object, expected: str) -> None:
    problem = only_problem(FitConfig, FIT | {key: value})
    assert problem.key == f"here.{key}"
    assert expected in problem.message and repr(value) in problem.message


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_parse_bool_field_takes_only_bool(value: object) -> None:
    assert only_problem(Span, {"low": 1, "high": None, "inclusive": value}).key == "here.inclusive"


def test_parse_int_for_float_becomes_float() -> None:
    instance, problems = parse(FitConfig, FIT | {"beta": 4}, "fit")
    assert problems == []
    assert instance.beta == 4.0 and type(instance.beta) is float


def test_parse_int_too_large_for_float_is_a_problem() -> None:
    assert only_problem(FitConfig, FIT | {"beta": 10**400}).key == "here.beta"


def test_parse_exponent_as_text_gets_the_spelling_that_yaml_reads() -> None:
    problem = only_problem(FitConfig, FIT | {"learning_rate": "1e-3"})
    assert "write 0.001" in problem.message and "YAML reads '1e-3' as text" in problem.message


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("seed", -1, "0 to 2147483647"),
        ("seed", 2**31, "0 to 2147483647"),
        ("beta", 0, "greater than 0"),
        ("beta", -1.0, "greater than 0"),
        ("beta", 10000.5, "any to 10000"),
        ("ema_decay", 1.0, "0 to 0.999999"),
        ("total_images", 0, "1 to any"),
        ("learning_rate", float("nan"), "finite"),
        ("learning_rate", float("inf"), "finite"),
        ("precision", "float31", "did you mean 'float32'?"),
        ("precision", "half", "float32, bfloat16"),
    ],
)
def test_parse_out_of_range_says_what_is_allowed(key: str, value: object, allowed: str) -> None:
    problem = only_problem(FitConfig, FIT | {key: value})
    assert problem.key == f"here.{key}"
    assert allowed in problem.message


@pytest.mark.parametrize(("key", "value"), [("seed", 0), ("seed", 2**31 - 1), ("beta", 1e4), ("beta", 1e-9), ("ema_decay", 0.0)])
def test_parse_value_at_the_edge_of_its_range_is_accepted(key: str, value: object) -> None:
    instance, problems = parse(FitConfig, FIT | {key: value}, "fit")
    assert problems == [] and getattr(instance, key) == value


@pytest.mark.parametrize("widths", [[], 8, "8", [8, "x"], [8, 1.5], [8, True], [0, 8], [8, 5000], [8, None]])
def test_parse_list_with_bad_item_is_refused(widths: object) -> None:
    assert only_problem(ModelConfig, MODEL | {"widths": widths}).key == "here.widths"


@pytest.mark.parametrize("shape", [[8, 8], [8, 8, 1, 1]])
def test_parse_list_of_fixed_length_refuses_another_length(shape: list[int]) -> None:
    assert only_problem(ModelConfig, MODEL | {"image_shape": shape}).key == "here.image_shape"


def test_parse_three_faults_are_all_reported() -> None:
    faulty = {k: v for k, v in FIT.items() if k != "seed"} | {"beta": "1e-3", "clip_norm": 0, "precison": "float32"}
    instance, problems = parse(FitConfig, faulty, "fit")
    assert instance is None
    assert sorted(p.key for p in problems) == ["fit.beta", "fit.clip_norm", "fit.precison", "fit.seed"]


@pytest.mark.parametrize("mapping", [None, [1], "fit", 3])
def test_parse_section_that_is_no_mapping_is_one_problem(mapping: object) -> None:
    instance, problems = parse(FitConfig, mapping, "fit")
    assert instance is None and [p.key for p in problems] == ["fit"]


def test_parse_optional_field_takes_none_or_a_value_in_range() -> None:
    assert parse(Span, {"low": 1, "high": None, "inclusive": True}, "span")[0] == Span(low=1, high=None, inclusive=True)
    assert parse(Span, {"low": 1, "high": 4, "inclusive": True}, "span")[0].high == 4
    assert only_problem(Span, {"low": 1, "high": 10, "inclusive": True}).key == "here.high"


def test_parse_field_with_default_may_be_left_out() -> None:
    assert parse(Span, {"low": 1, "high": None, "inclusive": False}, "span")[0].title == "none"


def test_parse_own_rule_of_the_section_is_reported() -> None:
    problem = only_problem(Span, {"low": 5, "high": 4, "inclusive": True})
    assert problem == Problem("here.high", "4 is below low 5")


def test_total_steps_last_partial_batch_counts_as_a_step() -> None:
    counts = [parse(FitConfig, FIT | {"total_images": n}, "fit")[0].total_steps for n in (1, 64, 65, 128, 129)]
    assert counts == [1, 1, 2, 2, 3]


def test_steps_period_below_half_a_batch_is_one_step() -> None:
    config, _ = parse(FitConfig, FIT, "fit")
    assert [config.steps(n) for n in (1, 64, 640, 660)] == [1, 1, 10, 10]
