"""The tables of README.md and docs/, from the files of docs/results: ``python -m benchmarks.tables``, and after each measurement.

A table stands between two comments that name it; what is between them is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from benchmarks import recipe_tables, search_tables, speed_tables
from benchmarks.markdown import lines, measured_on, read
from benchmarks.rows import RESULTS, ROOT
from vae.files import write_text

COLUMNS = (
    "images", "minutes", "elbo_nats", "nll_nats", "bits_per_dim", "fcd", "fcd_real_floor", "coverage", "psnr_db", "active_units",
    "mig", "factor_vae_score",
)  # fmt: skip
LATENTS = {
    "normal": "N(0, I)",
    "bent": "bent: two dimensions follow curves",
    "clusters": "clusters: 24 normals",
}
SETS = {"mnist": "MNIST", "cifar10": "CIFAR-10, JPEG copy"}
WHO = ("ours", "pythae normal", "pythae mixture", "real test images")


def results() -> str:
    """A line for each data set that ``make run`` was run on (benchmarks/showcase.py)."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    runs = [result for result in every if "title" in result]  # other benchmarks keep theirs here too

    def cell(result: dict[str, Any], column: str) -> str:
        value = result["metrics"].get(column, result.get(column))
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"

    rows = [(result["title"], *(cell(result, column) for column in COLUMNS)) for result in runs]
    return f"{lines(('data', *(name.replace('_', ' ') for name in COLUMNS)), rows)}\n\n{measured_on(*runs)}"


def _of_samples(found: dict[str, Any], minutes: float) -> list[tuple[str, ...]]:
    """S and coverage through both extractors, and the error of reconstructions, of everyone."""
    rows = []
    for name, key in (("S", "S"), ("coverage, share of that of real images", "coverage_of_real")):
        for extractor, scores in found["extractors"].items():
            told = [f"{scores[who][key]:.3f}" if key in scores[who] else "" for who in WHO]
            rows.append((f"{name}, extractor {extractor}", *told))
    errors = found["test_mse"]
    ours, peer = (f"{errors[who]:.5f}" for who in ("ours", "pythae"))
    rows.append((f"test MSE, {found['latent_dim']} latents", ours, peer, peer, "0"))
    return rows


def quality() -> str:
    """Every row of benchmarks/quality.py that was measured."""
    found, rows = read("quality"), []
    for name, values in found.items():
        data, _, kind = name.partition("-")
        place = " (accelerator)" if kind.endswith("gpu") else ""
        if kind.startswith("nll"):
            error = f"{values['nll_nats']:.2f} ± {values['standard_error_nats']:.2f}"
            rows.append(
                (f"{SETS[data]}{place}, {values['minutes']:.0f} min", "NLL, nats, dynamically binarised", error, "", "", "")
            )
        elif kind.startswith("samples"):
            minutes = values["ours"]["minutes"]
            parts = _of_samples(values, minutes)
            rows += [(f"{SETS[data]}{place}, {minutes:.0f} min" if not i else "", *part) for i, part in enumerate(parts)]
        else:
            median = values["median"]
            told = f"{median['mig']:.3f} / {median['factor_vae_score']:.3f}"
            title = f"{data}, {median['minutes']:.1f} min, median of {len(values['seeds'])} seeds"
            rows.append((title, "MIG / FactorVAE score", told, "", "", ""))
    head = ("data, budget", "measure", "ours", "pythae, N(0, I)", "pythae, its mixture", "real test images")
    return f"{lines(head, rows)}\n\n{measured_on(*found.values())}"


def priors() -> str:
    """Every latent prior on every density of benchmarks/priors.py."""
    found, rows = read("priors"), []
    for key, title in LATENTS.items():
        of_density = {name: value for name, value in found[key].items() if isinstance(value, dict) and "20000" in value}
        for i, (name, by_count) in enumerate(of_density.items()):
            numbers = [f"{by_count[n][what]:g}" for what in ("seconds", "nats_lost") for n in ("20000", "8000")]
            rows.append((title if not i else "", name, *numbers))
    return lines(("latents", "prior", "seconds, N = 20,000", "N = 8,000", "nats lost, N = 20,000", "N = 8,000"), rows)


def serving() -> str:
    """What serving costs."""
    found = read("serve")
    arrays, latency, singles = (found.get(name, {}) for name in ("arrays", "latency", "singles"))
    rows = []
    if arrays:
        told = f"{arrays['images_per_second']:,} images/s; the bare decoder on one thread {arrays['bare_images_per_second']:,}"
        rows.append(("4 clients, requests of 64 images as arrays", told, f"{arrays['ratio']:.2f}"))
    if latency:
        told = (
            f"{latency['p50_ms']:.1f} ms, 99th percentile {latency['p99_ms']:.1f} ms; decoding alone {latency['bare_ms']:.1f} ms"
        )
        rows.append((f"the same at half that rate, {latency['requests_per_second']:.0f} requests/s", f"median {told}", ""))
    if singles:
        told = f"{singles['requests_per_second']:,} requests/s; `mlflow models serve` {singles['mlflow_requests_per_second']:,}"
        rows.append(("16 clients, one PNG each", told, f"{singles['ratio']:.2f}"))
    return lines(("", "measured", "ratio"), rows)


def two_hosts() -> str:
    """Steps across two hosts, measured and foretold."""
    rows = []
    for name, found in read("scaling").get("two-hosts", {}).items():
        if name == "machine":
            continue
        network, megabits = name.split(", ")
        cable = "as it is" if megabits == "0" else f"{megabits} Mbit/s"
        told = found["foretold"]
        rows.append((
            network, cable, f"{1000 * found['measured_s']:.0f}", f"{1000 * told['seconds']:.0f}", f"{100 * found['error']:+.0f} %",
            f"{100 * told['reduce_s'] / told['seconds']:.0f} %",
        ))  # fmt: skip
    return lines(("network", "cable", "measured, ms", "foretold, ms", "error", "of it all-reduce"), rows)


def _models() -> dict[str, Any]:
    found = {name: told for name, told in read("scaling").get("prediction", {}).items() if name != "machine"}
    return dict(sorted(found.items(), key=lambda pair: pair[1]["parameters"]))


def _by_number(found: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(found.items(), key=lambda pair: int(pair[0])))


def scaling() -> str:
    """What the model says of clusters of GPUs."""
    models, rows = _models(), []
    for name, told in models.items():
        for workers, step in _by_number(told["weak"]).items():
            head = (f"{name}: {told['parameters'] / 1e6:.0f} M parameters, {told['images_per_gpu']} images a GPU",)
            rows.append((
                *(head if workers == "1" else ("",)), workers, f"{1000 * step['seconds']:.1f}", f"{step['images_per_second']:,.0f}",
                f"{100 * step['efficiency']:.0f} %", step["first"] if workers != "1" else "",
            ))  # fmt: skip
    table = lines(("model", "GPUs", "step, ms", "images/s", "efficiency", "costs the most beside computing"), rows)
    known = next(iter(models.values()))["at_512_images_per_second"] if models else {}
    settings = sorted(known, key=lambda setting: (setting.startswith("and"), known[setting]))
    moved = [
        (setting, *(f"{told['at_512_images_per_second'][setting]:,.0f}" for told in models.values())) for setting in settings
    ]
    return f"{table}\n\n{lines(('images/s of 512 GPUs', *models), moved)}"


def fixed_batch() -> str:
    """The same with the batch of eight GPUs shared out among more of them."""
    models = _models()
    rows = [
        (
            name,
            *(
                f"{step['images_per_second']:,.0f} ({100 * step['efficiency']:.0f} %)"
                for step in _by_number(told["strong"]).values()
            ),
        )
        for name, told in models.items()
    ]
    return lines(("images/s (of eight GPUs' efficiency)", "8 GPUs", "64", "512"), rows)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"results": results, "quality": quality},
    "docs/samplers.md": {"priors": priors},
    "docs/search.md": {
        "search": search_tables.search,
        "score-latents": search_tables.score_latents,
        "trial-costs": search_tables.trial_costs,
    },
    "docs/serving.md": {"serving": serving},
    "docs/scaling.md": {"two-hosts": two_hosts, "scaling": scaling, "fixed-batch": fixed_batch},
    "docs/best-of-n.md": {"best-of": recipe_tables.best_of},
    "docs/transfer.md": {"transfer": recipe_tables.transfer},
    "docs/testdata.md": {"testdata": recipe_tables.testdata},
    "docs/codec.md": {"codec": recipe_tables.codec, "codec-lossless": recipe_tables.codec_lossless},
    "docs/denoise.md": {"denoise": recipe_tables.denoise},
    "docs/private.md": {"private": recipe_tables.private},
    "docs/vaegan.md": {"vaegan": recipe_tables.vaegan},
    "docs/video.md": {"video": recipe_tables.video},
    "docs/restyle.md": {"restyle": recipe_tables.restyle, "inpaint": recipe_tables.inpaint},
    "docs/speed.md": {
        "against": speed_tables.against,
        "grouped": speed_tables.grouped,
        "beside": speed_tables.beside,
        "ingest": speed_tables.ingest,
    },
}


def rewritten(text: str, name: str, table: str) -> str:
    """``text`` with another table between the comments that name it; ValueError where they are not there once."""
    begin, end = f"<!-- table {name}: benchmarks/tables.py writes it -->", f"<!-- end of table {name} -->"
    new, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{count} tables {name!r} instead of one: put {begin} and {end} around it")
    return new


def write() -> None:
    """Bring all tables up to date."""
    for path, tables in TABLES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        for name, table in tables.items():
            text = rewritten(text, name, table())
        write_text(ROOT / path, text)


if __name__ == "__main__":
    write()
