"""``vae serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import ended
from pipeline.cli.models import Model
from pipeline.paths import Paths
from pipeline.registry import CHAMPION
from pipeline.serve import PORT
from pipeline.service.options import Options
from vae.answers import MOST_IMAGES


def serve(
    model: Model = CHAMPION,
    host: Annotated[str, typer.Option(help="where it listens; beyond this machine only with a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = PORT,
    replicas: Annotated[int, typer.Option(help="copies, each of a worker's size in the cluster profile", min=1, max=1024)] = 1,
    token_file: Annotated[Path | None, typer.Option(help="a file with the token that every request must bear")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="a name that browsers ask under, beside --host")] = None,
    most_images: Annotated[int, typer.Option(help="of one answer", min=1, max=MOST_IMAGES)] = Options.most_images,
    seconds: Annotated[float, typer.Option(help="for one answer", min=0.1, max=3600)] = Options.seconds,
) -> None:
    """Answer over HTTP: a page at /, operations below /v1, /metrics for Prometheus. Follows the alias: a promotion swaps the model.

    vae serve --port 8000 · then open http://127.0.0.1:8000
    """
    from pipeline import serve as service
    from pipeline.cluster import load_profile

    def work() -> None:
        paths = Paths.here()
        profile = load_profile(paths).of_trials
        names = (host, *(name for name in service.LOOPBACK if host in service.LOOPBACK), *(allow_host or ()))
        options = Options(
            root=paths.root, model=model if not Path(model).is_dir() else str(Path(model).resolve()), hosts=names,
            threads=profile.threads_per_worker, device="cuda" if profile.gpus_per_worker else "cpu",
            token_file=token_file.resolve() if token_file else None,
            most_images=most_images, seconds=seconds,
        )  # fmt: skip
        try:
            service.serve(options, host, port, replicas)
        except KeyboardInterrupt:  # a service has no other end
            print("stopped")

    ended("serve", work)


def add_to(app: typer.Typer) -> None:
    """Make the function of this file a command."""
    app.command()(serve)
