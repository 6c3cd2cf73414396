"""`python -m pipeline.use_champion N`: load models:/<name>@champion as any MLflow user would, and draw N images into a PNG."""

from __future__ import annotations

import argparse
import sys

from pipeline.console import set_up_logging
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION, Registry
from pipeline.stage import guarded
from vae.pictures import grid, save_png

OUTPUT = "champion.png"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.use_champion", description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=16, help="images to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help="images of this label only (of a model that was trained with fit.class_conditional)")
    arguments = parser.parse_args()
    paths = Paths.here()
    set_up_logging("use_champion")

    def work() -> None:
        registry = Registry.here(paths)
        name, version = registry.name, registry.champion()
        if version is None:
            raise InputMissingError(f"models:/{name}@{CHAMPION} does not exist in {registry.tracker.uri}: `make run` first")
        import mlflow
        import pandas as pd

        model = mlflow.pyfunc.load_model(f"models:/{name}@{CHAMPION}")
        request = {"n": [arguments.n], "seed": [arguments.seed]}
        if arguments.label is not None:
            if "label" not in model.metadata.get_input_schema().input_names():
                raise BadConfigError(f"--label: models:/{name}@{CHAMPION} was told no labels: see fit.class_conditional")
            request["label"] = [arguments.label]
        try:
            images = model.predict(pd.DataFrame(request))
        except ValueError as error:
            raise BadConfigError(str(error)) from None
        target = paths.work / OUTPUT
        save_png(grid(images, columns=8), target)
        print(f"models:/{name}@{CHAMPION} (version {version}) drew {len(images)} images: {target}")

    sys.exit(guarded("use_champion", work, debug=False))


if __name__ == "__main__":
    main()
