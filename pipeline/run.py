"""The main job in one command: `dvc repro` with a check before it, the stage's own exit code after it, and where to look next.

``python -m pipeline.run [--images PATH]``; `make run` calls it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from pipeline import graph, images, params, recipe
from pipeline.cluster import check_local, load_profile, meant
from pipeline.console import set_up_logging
from pipeline.paths import DECISION, DOCTOR, METRICS, Paths
from pipeline.registry import Registry
from pipeline.stage import guarded, note_seconds
from pipeline.tracking import uri
from vae.files import read_json

# Scores on the closing page, and what real images score there where that says something.
SHOWN = {
    "elbo_nats": "", "nll_nats": "", "bits_per_dim": "", "fcd": "fcd_real_floor", "fcd_second": "fcd_second_real_floor",
    "kid": "kid_real_floor", "coverage": "coverage_real", "psnr_db": "", "active_units": "", "mig": "", "factor_vae_score": "",
}  # fmt: skip


def _before(paths: Paths) -> Registry:
    """Everything that would stop a later stage, asked now: parameters, cluster profile, MLflow. Returns the registry."""
    values = params.load(paths.params, ("tune", "register"))
    profile = load_profile(paths)
    check_local(profile, max(profile.workers, values.tune.workers_per_trial))
    return Registry.here(paths, values.register.name)


def _closing(paths: Paths, seconds: float) -> str:
    """Where to look next, from the files of the run."""
    metrics, decision = read_json(paths.evaluate_report / METRICS), read_json(paths.register_report / DECISION)
    beside = {name: metrics.get(real) for name, real in SHOWN.items()}
    rows = "\n".join(
        f"    {name:<16} {metrics[name]:<10.4g}" + ("" if beside[name] is None else f"real images: {beside[name]:.4g}")
        for name in SHOWN
        if metrics.get(name) is not None
    )
    findings: Any = read_json(paths.evaluate_report / DOCTOR)
    holder, name = decision["champion"], decision["name"]
    champion = f"models:/{name}@champion is version {holder}" if holder else f"models:/{name} has no champion yet"
    doctor = "; ".join(finding["name"] for finding in findings)
    return f"""
Done in {seconds:.0f} s: {champion} ({decision["reason"]}).

  the report    reports/report.html  (one page, to be opened in a browser or sent on)
  samples       reports/evaluate/samples.png  (beside it: reconstructions, interpolations, traversals)
  the doctor    {doctor}
  the metrics   dvc metrics show, or reports/evaluate/metrics.json:
{rows}
  MLflow        make ui  (store: {uri(paths)})
  your images   make run IMAGES=path/to/folder-or-archive
"""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.run", description=__doc__)
    parser.add_argument(
        "--images", default="", help="a folder, archive or list of links (.csv, .parquet): written into params.yaml first"
    )
    parser.add_argument(
        "--cluster",
        default="",
        help="local, auto, host:port or ray://host:port, or a profile as infra/ray/gpus.yaml: where it runs",
    )
    parser.add_argument("--recipe", default="", help="a name in recipes/, or a .yaml file: written into params.yaml first")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    paths, started, codes = Paths.here(), time.monotonic(), []
    set_up_logging("run", arguments.debug)
    if arguments.debug:
        os.environ["VAELINE_DEBUG"] = "1"

    def work() -> None:
        if arguments.cluster:
            os.environ.update(meant(arguments.cluster, paths))
        changes = images.use(arguments.images, paths) if arguments.images else {}
        # Whose images: the person's word, not the recipe's.
        own = ("download.source", "download.path") if arguments.images else ()
        changes |= recipe.use(arguments.recipe, paths, own) if arguments.recipe else {}
        for key, value in changes.items():
            print(f"params.yaml: {key} = {value}", file=sys.stderr)
        registry = _before(paths)
        codes.append(graph.repro(paths))
        if codes[0] == 0 and not registry.versions():  # DVC cannot know that a store was removed, or another one set
            print(f"the store {uri(paths)} does not know the model: registering again", file=sys.stderr)
            codes[0] = graph.repro(paths, "--force", "--single-item", "register") or graph.repro(paths)
        if codes[0] == 0:
            note_seconds("run", time.monotonic() - started, paths)
            print(_closing(paths, time.monotonic() - started))

    code = guarded("run", work, arguments.debug)
    sys.exit(code or codes[0])


if __name__ == "__main__":
    main()
