"""The service on Ray Serve."""

from __future__ import annotations

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from pipeline.cluster import Profile
from pipeline.paths import Paths
from pipeline.reference import parse
from pipeline.service import counters
from pipeline.service.application import build
from pipeline.service.batches import Network
from pipeline.service.following import Following
from pipeline.service.options import Options


@serve.deployment
@serve.ingress()
class Service:
    """One replica: a model that follows its alias, and the application that answers with it."""

    def __init__(self, options: Options) -> None:
        torch.set_num_threads(options.threads)
        self._options = options
        self._network = Network(options.seconds, counters.computed)
        self._following = Following(parse(options.model, Paths(options.root)), options.poll_seconds, options.device)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build(self._options, self._following, self._network.submit)


def application(options: Options, profile: Profile, replicas: int, metrics: str) -> Application:
    """What `serve.run` takes: so many replicas, each of the size of the profile's workers."""
    bound = options.most_waiting * 8  # the replica itself refuses, in a sentence
    return Service.options(  # type: ignore[attr-defined]  # what the decorator makes of the class
        num_replicas=replicas,
        max_ongoing_requests=bound,
        ray_actor_options={
            "num_cpus": profile.cpus_per_worker,
            "num_gpus": profile.gpus_per_worker,
            "runtime_env": {"env_vars": {counters.FOLDER_VARIABLE: metrics}},
        },
    ).bind(options)
