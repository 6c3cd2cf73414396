"""params.yaml: every problem at once with its line, only declared keys, and edits that leave the rest as it was."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import checked, params
from pipeline.errors import BadConfigError, InputMissingError
from vae.config import Recipe
from vae.models import MODELS, ConvVAE
from vae.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "params.yaml").read_text()


def line_of(key: str, text: str = TEXT) -> int:
    """The line of the first ``key:`` of a section.key or a section, found without YAML."""
    section, _, name = key.partition(".")
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{section}:"))
    return next(i for i, line in enumerate(lines) if i >= start and line.strip().startswith(f"{name or section}:")) + 1


def changed(values: dict[str, str], text: str = TEXT) -> str:
    """The real file with other values, given as they stand in YAML, whatever its values are today."""
    lines = text.splitlines()
    for key, value in values.items():
        number = line_of(key, text) - 1
        lines[number] = re.sub(r"^(\s+\w+:) (\[.*?\]|[^\s#]+)", lambda found, value=value: f"{found[1]} {value}", lines[number])
    return "\n".join(lines) + "\n"


def renamed(key: str, name: str) -> str:
    """The real file with one key or section called otherwise."""
    lines, number = TEXT.splitlines(), line_of(key) - 1
    lines[number] = re.sub(r"\w+(?=:)", name, lines[number], count=1)
    return "\n".join(lines) + "\n"


def refusal(text: str) -> str:
    with pytest.raises(BadConfigError) as caught:
        params.check(text, "params.yaml")
    return str(caught.value)


def test_check_real_file_is_valid_and_typed():
    values = params.check(TEXT, "params.yaml")
    assert set(vars(values)) == set(params.SECTIONS)
    assert values.base.image_shape == (values.base.image_size, values.base.image_size, len(values.base.mode))
    assert isinstance(values.fit.widths, tuple) and isinstance(values.augment.rotate_degrees, float)
    assert values.fit.clip_norm == yaml.safe_load(TEXT)["fit"]["clip_norm"]


def test_check_image_shape_follows_mode():
    assert params.check(changed({"base.mode": "L", "base.image_size": "64"}), "p").base.image_shape == (64, 64, 1)


def test_check_several_errors_all_at_once_in_order_of_lines():
    text = renamed("train.max_failures", "max_failure")
    text = changed({"base.seed": "-1", "augment.copies": "many", "fit.ema_decay": "1.5"}, text)
    lines = refusal(text).splitlines()
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)
    expected = {"base.seed", "augment.copies", "fit.ema_decay", "train.max_failure", "train.max_failures"}
    assert {line.split(": ")[1] for line in lines} == expected
    for line in lines:
        source, number, rest = line.split(":", 2)
        key = rest.split(":")[0].strip()
        assert source == "params.yaml"
        if key != "train.max_failures":  # it is missing: the line of its section
            assert int(number) == line_of(key, text), line
        else:
            assert int(number) == line_of("train", text)


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        (renamed("train.latent_dim", "latent_dims"), "train.latent_dims", "latent_dim"),
        (renamed("augment", "augmnet"), "augmnet", "augment"),
        (changed({"fit.model": "covn"}), "covn", "conv"),
        (changed({"fit.likelihood": "logistc"}), "logistc", "logistic"),
        (changed({"download.source": "sprite"}), "sprite", "sprites"),
        (changed({"fit.precision": "float23"}), "float23", "float32"),
    ],
    ids=["key", "section", "model", "likelihood", "choice", "other choice"],
)
def test_check_misspelt_name_is_met_with_the_right_one(text, wrong, right):
    message = refusal(text)
    assert wrong in message
    assert f"did you mean {right!r}" in message


def test_check_unknown_key_like_no_other_lists_the_known_ones():
    message = refusal(TEXT.replace("  flip_probability:", "  zzzz: 1\n  flip_probability:"))
    assert "augment.zzzz: unknown key; known: fill, flip_probability" in message


def test_check_missing_section_is_named():
    start, stop = TEXT.index("evaluate:"), TEXT.index("register:")
    assert "evaluate: missing section" in refusal(TEXT[:start] + TEXT[stop:])


def test_check_section_without_keys_is_refused():
    message = refusal(TEXT[: TEXT.index("register:")] + "register:\n")
    assert "register: expected a section with keys" in message


def test_check_key_given_twice_is_refused():
    text = TEXT.replace("  latent_dim:", "  latent_dim: 12\n  latent_dim:")
    assert "train.latent_dim: key given twice" in refusal(text)


def test_check_section_given_twice_is_refused():
    assert "extractor: key given twice" in refusal(TEXT + "extractor: {}\n")


def test_check_value_out_of_range_names_the_allowed_range():
    message = refusal(changed({"train.latent_dim": "0"}))
    assert f"params.yaml:{line_of('train.latent_dim')}: train.latent_dim: 0 is out of range: allowed 1 to 4096" in message


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("preprocess.val_fraction", "0", "must be greater than 0"),
        ("preprocess.val_fraction", "0.6", "any to 0.5"),
        ("train.use_tuned", "0", "expected bool, got 0"),
        ("tune.trials", "10.0", "expected int, got 10.0"),
        ("tune.trials", "true", "expected int, got True"),
        ("train.beta", ".nan", "finite"),
        ("train.beta", ".inf", "finite"),
        ("fit.widths", "[]", "non-empty list"),
        ("fit.widths", "[32, wide]", "expected int, got 'wide'"),
        ("fit.widths", "[32, 0]", "out of range"),
        ("register.name", "a/b", "cannot name a registered model"),
        ("register.name", "''", "cannot name a registered model"),
    ],
)
def test_check_value_of_wrong_kind_says_what_is_expected(key, value, part):
    message = refusal(changed({key: value}))
    assert message.startswith(f"params.yaml:{line_of(key)}: {key}: ") and part in message


@pytest.mark.parametrize(
    ("values", "key", "part"),
    [
        ({"source": "path", "path": "''"}, "path", "is empty"),
        ({"source": "path", "path": "s3://bucket/photos"}, "path", "set download.source to remote"),
        ({"source": "manifest", "path": "photos"}, "path", "no list"),
        ({"source": "manifest", "path": "a.csv", "url_column": "''"}, "url_column", "name the column"),
        ({"source": "remote"}, "url", "does not begin with one of https://"),
        ({"source": "remote", "url": "ftp://a/b.zip"}, "url", "does not begin with one of https://"),
        ({"source": "remote", "url": "https://a/b"}, "url", "no file of a known kind"),
        ({"source": "remote", "url": "https://a/b.zip"}, "checksum", "needs its sha256: or md5: sum"),
        ({"source": "remote", "url": "s3://a/b.tar.gz"}, "checksum", "needs its sha256: or md5: sum"),
        ({"checksum": "sha256:12"}, "checksum", "64 hexadecimal digits"),
        ({"url": "https://me:secret@a/b.zip"}, "url", "environment alone"),
        ({"mirror": "https://me@a/b"}, "mirror", "environment alone"),
        ({"name": "mnits"}, "name", "did you mean 'mnist'"),
        ({"connections_per_host": "0"}, "connections_per_host", "out of range"),
    ],
)
def test_check_download_that_cannot_work_is_refused_before_it_is_tried(values, key, part):
    message = refusal(changed({f"download.{name}": value for name, value in values.items()}))
    assert message.startswith(f"params.yaml:{line_of(f'download.{key}')}: download.{key}: ") and part in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "values",
    [
        {"source": "remote", "url": "s3://bucket/photos"},
        {"source": "remote", "url": "https://a/b.zip?x=1", "checksum": f"md5:{'a' * 32}"},
        {"source": "manifest", "path": "list.PARQUET"},
        {"source": "digits"},
        {"source": "path", "animation_frames": "true"},
        {"source": "catalogue", "name": "cifar10", "mirror": "file:///data/mirror"},
    ],
)
def test_check_download_that_works_is_accepted(values):
    params.check(changed({f"download.{name}": value for name, value in values.items()}), "params.yaml")


def test_check_number_that_yaml_reads_as_text_says_how_to_write_it():
    assert "write 0.001: YAML reads '1e-3' as text" in refusal(changed({"fit.learning_rate": "1e-3"}))


PRIVATE = {
    "train.epsilon": "10.0", "augment.copies": "0", "fit.prior": "normal", "train.use_tuned": "false", "train.known_images": "0",
    "train.attribute_steps": "0",
}  # fmt: skip


def test_check_private_training_takes_nothing_else_of_the_images_along():
    params.check(changed(PRIVATE), "params.yaml")
    others = {
        "augment.copies": "1", "fit.prior": "mixture", "train.use_tuned": "true", "train.known_images": "5", "train.attribute_steps": "5",
        "train.patience_reports": "2", "train.coding_images": "10", "train.warm_start": "models:/sprites/1", "fit.model": "vq",
        "fit.likelihood": "gaussian_optimal", "fit.objective": "mmd", "fit.exactness": "elastic", "fit.compile": "true",
    }  # fmt: skip
    for key, value in others.items():
        assert f"{key}: is " in refusal(changed(PRIVATE | {key: value})) and "with train.epsilon" in refusal(
            changed(PRIVATE | {key: value})
        )
    told = refusal(changed({"train.epsilon": "1.0"}))
    assert all(f"{key}: is" in told for key in PRIVATE if key != "train.epsilon")  # all of them at once


def test_check_coding_needs_a_model_that_can_compress():
    params.check(changed({"train.coding_images": "100"}), "params.yaml")
    for other in ({"fit.class_conditional": "true"}, {"fit.model": "vq", "fit.prior": "normal"}):
        assert "train.coding_images: must be 0 with" in refusal(changed({"train.coding_images": "100"} | other))


def test_check_adversary_needs_images_of_all_levels():
    pushed = {"fit.adversary_weight": "0.5"}
    assert params.check(changed(pushed), "params.yaml").fit.adversary_weight == 0.5
    grey = {"base.mode": "L", "fit.likelihood": "bernoulli"}
    assert "fit.adversary_weight: must be 0 with likelihood bernoulli" in refusal(changed(pushed | grey))
    assert "fit.compile: true: not with adversary_weight above 0" in refusal(changed(pushed | {"fit.compile": "true"}))


def test_check_smoothness_needs_films_alone():
    films = {"fit.smoothness": "1.0", "preprocess.split_by": "folder", "augment.copies": "0"}
    params.check(changed(films), "params.yaml")
    for other in ({"preprocess.split_by": "image"}, {"augment.copies": "1"}, {"augment.on_the_fly": "true"}):
        assert "fit.smoothness: is about neighbouring frames" in refusal(changed(films | other))
    assert "fit.smoothness: needs a normal posterior" in refusal(changed(films | {"fit.model": "vq", "fit.prior": "normal"}))
    assert "must be 0 with denoise_levels" in refusal(changed(films | {"fit.denoise_levels": "5.0"}))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"tune.beta_min": "3.0", "tune.beta_max": "2.9"}, "tune.beta_min"),
        ({"tune.latent_dim_min": "17", "tune.latent_dim_max": "16"}, "tune.latent_dim_min"),
    ],
)
def test_check_empty_range_of_the_search_is_refused(values, key):
    message = refusal(changed(values))
    assert f"{line_of(key)}: {key}" in message and "the range is empty" in message


@pytest.mark.parametrize("key", ["extractor.width", "extractor.second_width"])
def test_check_extractor_width_that_its_norms_cannot_share_is_refused(key):
    message = refusal(changed({key: "20"}))
    assert f"{line_of(key)}: {key}: 20 does not divide by 8" in message


def test_check_range_of_one_point_is_allowed():
    ends = {"tune.beta_min": "2.5", "tune.beta_max": "2.5", "tune.latent_dim_min": "6", "tune.latent_dim_max": "6"}
    assert params.check(changed(ends), "p").tune.beta_max == 2.5


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"preprocess.val_fraction": "0.5", "preprocess.test_fraction": "0.5"}, "preprocess.val_fraction"),
        ({"tune.scheduler": "asha", "tune.trials": "3", "tune.rungs": "3", "tune.reduction_factor": "2"}, "tune.trials"),
        ({"base.image_size": "33"}, "fit"),
        ({"download.source": "path", "download.path": "''"}, "download.path"),
    ],
)
def test_check_combination_that_cannot_work_is_refused_at_its_line(values, key):
    assert f"params.yaml:{line_of(key)}: {key}: " in refusal(changed(values))


@pytest.mark.parametrize(
    "text", ["train: [1,\n", "a: b: c\n", "\ttrain: 1\n", "a: &b\n  *c\n", "x: !!python/name:os.system\n", "\x00"]
)
def test_check_text_that_is_no_yaml_is_refused_in_one_line(text):
    message = refusal(text)
    assert message.startswith("params.yaml is not YAML: ") and "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("train: 2024-13-45\n", id="impossible date"),
        pytest.param(changed({"base.seed": "1" * 5000}), id="endless integer"),
        pytest.param(changed({"train.beta": "1" * 400}), id="integer beyond all floats"),
    ],
)
def test_check_value_that_python_cannot_hold_is_a_bad_configuration(text):
    refusal(text)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[1, 2]\n", "words\n", "---\n"])
def test_check_file_without_sections_is_refused(text):
    assert "no sections" in refusal(text)


def test_read_text_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(InputMissingError, match="does not exist") as caught:
        params.load(tmp_path / "params.yaml", ("train",))
    assert caught.value.exit_code == 66


def test_read_text_other_encoding_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_bytes("name: é\n".encode("utf-16"))
    with pytest.raises(BadConfigError, match="UTF-8"):
        params.load(tmp_path / "params.yaml", ("train",))


def test_load_gives_declared_keys_and_no_others():
    values = params.load(ROOT / "params.yaml", ("base.seed", "base.mode", "augment"))
    document = yaml.safe_load(TEXT)
    assert (values.base.seed, values.base.mode) == (document["base"]["seed"], document["base"]["mode"])
    assert values.augment.copies == document["augment"]["copies"]
    with pytest.raises(AttributeError):
        _ = values.base.image_size
    with pytest.raises(AttributeError):
        _ = values.train


def test_load_file_with_error_in_an_undeclared_section_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text(changed({"tune.trials": "0"}))
    with pytest.raises(BadConfigError, match=r"tune\.trials"):
        params.load(tmp_path / "params.yaml", ("augment",))


def test_load_gives_the_same_sections_the_second_time(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT)
    keys, work = tuple(params.SECTIONS), tmp_path / "work"
    assert not checked.found_whole(TEXT, work)
    first, second = (params.load(tmp_path / "params.yaml", keys, work) for _ in range(2))
    assert first == second and checked.found_whole(TEXT, work) and not checked.found_whole(TEXT + " ", work)


def test_load_does_not_look_twice_at_what_was_found_whole(tmp_path):
    """A file that is known to be whole needs no torch; another one is looked at, and by other code every one is."""
    (tmp_path / "params.yaml").write_text(TEXT)
    code = (
        "import sys; from pathlib import Path; from pipeline import checked, params; here = Path(sys.argv[1])\n"
        "checked.CODE += tuple(map(Path, sys.argv[2:]))\n"
        "params.load(here / 'params.yaml', ('base',), here / 'work'); print('torch' in sys.modules)"
    )

    def looked(*more: Path) -> str:
        command = [sys.executable, "-c", code, str(tmp_path), *map(str, more)]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    assert [looked(), looked()] == ["True", "False"]
    (tmp_path / "params.yaml").write_text(TEXT + "\n# another\n")
    assert [looked(), looked()] == ["True", "False"]
    (tmp_path / "code.py").write_text("changed = True\n")
    assert looked(tmp_path) == "True"


def test_load_remembers_nothing_wrong(tmp_path):
    (tmp_path / "params.yaml").write_text(changed({"fit.likelihood": "bernouli"}))
    for _ in range(2):
        with pytest.raises(BadConfigError, match="bernoulli"):
            params.load(tmp_path / "params.yaml", ("base",), tmp_path / "work")


PATHS = [
    "photos",
    "my photos/of  two spaces",
    "it's",
    'a "quoted" one',
    "a#b",
    "a #b",
    "# c",
    "a: b",
    "a:",
    "ünïcödé/写真/😀",
    "-dash",
    "- item",
    " leading and trailing ",
    "{curly}",
    "[square",
    "&anchor",
    "*alias",
    "!tag",
    "%percent",
    "@at",
    "`tick`",
    "~/home",
    "~",
    "null",
    "true",
    "123",
    "1e-3",
    "2024-01-01",
    "C:\\photos",
    "tab\there",
    "line\nbreak",
    "...",
    "---",
    "not\udcffutf8",
    "x" * 300,
    "many words " * 30,
    "next\x85line",
]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_edited_path_parses_back_and_leaves_all_else(path):
    text = params.edited(TEXT, {"download.path": path})
    before, after = yaml.safe_load(TEXT), yaml.safe_load(text)
    assert after["download"].pop("path") == path
    before["download"].pop("path")
    assert after == before
    start, stop = TEXT.index("  path: ") + len("  path: "), TEXT.index("  # what to read and watch")
    assert text.startswith(TEXT[:start]) and text.endswith(TEXT[stop:])


def test_edited_several_keys_change_their_lines_only():
    values = {"base.image_size": 72, "download.path": "my photos", "train.beta": 3.25}
    pairs = zip(TEXT.splitlines(), params.edited(TEXT, values).splitlines(), strict=True)
    different = [(old, new) for old, new in pairs if old != new]
    assert len(different) == 3
    for (old, new), (key, value) in zip(different, values.items(), strict=True):
        assert re.fullmatch(rf"  {key.split('.')[1]}: {value}(\s+#.*)?", new)
        assert old.partition("#")[2] == new.partition("#")[2]


def test_edited_nothing_is_byte_for_byte_the_same():
    assert params.edited(TEXT, {}) == TEXT
    document = yaml.safe_load(TEXT)
    assert params.edited(TEXT, {"train.beta": document["train"]["beta"]}) == TEXT


def test_edited_every_scalar_round_trips():
    document = yaml.safe_load(TEXT)
    scalars = {f"{s}.{k}": v for s, keys in document.items() for k, v in keys.items() if not isinstance(v, list)}
    assert yaml.safe_load(params.edited(TEXT, scalars)) == document


def test_edited_small_number_is_read_as_a_number():
    assert params.check(params.edited(TEXT, {"fit.learning_rate": 1e-5}), "p").fit.learning_rate == 1e-5


def test_edited_list_parses_back():
    text = params.edited(TEXT, {"fit.widths": [8, 16], "base.seed": 3})
    values = params.check(text, "params.yaml")
    assert values.fit.widths == (8, 16) and values.base.seed == 3


def test_edited_equal_key_of_another_section_stays():
    values = params.check(params.edited(TEXT, {"train.total_images": 7}), "p")
    assert values.train.total_images == 7
    assert values.extractor.total_images == yaml.safe_load(TEXT)["extractor"]["total_images"]


def test_load_section_problems_are_named_without_prefix(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: -1\nimage_size: 32\nmode: CMYK\n")
    with pytest.raises(BadConfigError) as caught:
        params.load_section(tmp_path / "base.yaml", params.SECTIONS["base"], "base")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["base.yaml:1", "seed"], ["base.yaml:3", "mode"]]


def test_fit_config_carries_every_shared_field():
    fit = params.check(TEXT, "p").fit
    rest = {"validate_every_images": 4, "checkpoint_every_images": 5, "keep_checkpoints": 6, "patience_reports": 7}
    rest |= {"frozen_images": 0, "layer_decay": 1.0, "epsilon": 0.0, "delta": 1e-5, "sample_norm": 1.0}
    config = fit.fit_config(seed=1, beta=2.0, total_images=3, **rest)
    document = yaml.safe_load(TEXT)["fit"]
    for name in [spec.name for spec in dataclasses.fields(Recipe)]:
        assert getattr(config, name) == document[name]
    model = fit.model_config((32, 32, 3), 7)
    assert (model.name, list(model.widths), model.latent_dim) == (document["model"], document["widths"], 7)


def test_elastic_with_micro_batches_or_more_shards_than_images_is_refused():
    text = changed({"fit.exactness": "elastic", "fit.micro_batch_size": "8", "fit.virtual_shards": "128"})
    with pytest.raises(BadConfigError) as error:
        params.check(text, "params.yaml")
    assert "fit.micro_batch_size: must be 0" in str(error.value) and "fit.virtual_shards: 128 are more than the 64" in str(
        error.value
    )


def test_every_prior_there_is_can_be_asked_for_and_no_other():
    for name in SAMPLERS:
        assert params.check(changed({"fit.prior": name}), "p").fit.prior_config.name == name
    assert "did you mean 'mixture'" in refusal(changed({"fit.prior": "mixtures"}))


def test_prior_over_latents_that_are_no_vector_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "grids", type("Grids", (ConvVAE,), {"vector_latents": False}))
    for name in SAMPLERS.keys() - {"normal"}:
        message = refusal(changed({"fit.model": "grids", "fit.prior": name}))
        assert message == (
            f"params.yaml:{line_of('fit.prior')}: fit.prior: {name} needs a vector of latents; "
            "model grids has its own prior: set fit.prior to normal"
        )
    assert params.check(changed({"fit.model": "grids", "fit.prior": "normal"}), "p").fit.model == "grids"


@pytest.mark.parametrize("objective", ["tc", "deterministic"])
def test_objective_over_latents_that_are_no_vector_is_refused(objective):
    changes = {"fit.model": "ladder", "fit.prior": "normal", "fit.objective": objective}
    message = refusal(changed(changes))
    assert f"{line_of('fit.objective')}: fit.objective: {objective} needs a vector of latents; model ladder" in message


@pytest.mark.parametrize("objective", ["importance", "mmd"])
def test_objective_over_codes_is_refused(objective):
    changes = {"fit.model": "vq", "fit.prior": "normal", "fit.objective": objective}
    message = refusal(changed(changes))
    assert f"{line_of('fit.objective')}: fit.objective: {objective} needs a normal posterior, model vq has codes" in message
