"""The one place that starts or joins Ray, and the cluster profile: hardware, which is no hyperparameter and in no DVC stage.

The profile is ``infra/ray/laptop.yaml`` or the file named by ``VAELINE_CLUSTER``; ``RAY_ADDRESS`` overrides its address.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.errors import BadConfigError, InputMissingError, UnavailableError
from pipeline.machine import processors
from pipeline.nodes import check_nodes
from pipeline.paths import Paths
from vae.schema import field

PROFILE_VARIABLE, ADDRESS_VARIABLE = "VAELINE_CLUSTER", "RAY_ADDRESS"
PROFILES, DEFAULT_PROFILE = "infra/ray", "infra/ray/laptop.yaml"
# Quiet, quick to notice a dead worker, no usage reports; all read by Ray when it starts.
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a worker that does not answer so long is replaced
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
ANSWER_SECONDS, JOIN_SECONDS = 5, 15
MOST_THREADS = 8  # of a worker that is to have its share of this machine: a step of a small network has no more to share out
Nodes = Sequence[Mapping[str, float]]  # what each node has: CPU, GPU, memory (bytes)
SETTINGS = ("NCCL_", "GLOO_", "TORCH_", "FI_", "UCX_")
log = logging.getLogger("pipeline.cluster")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What training may use: one process per worker, ``threads_per_worker`` threads in each."""

    address: str  # local: start Ray here and end it afterwards; auto or host:port: join
    workers: int = field(low=1, high=4096)
    cpus_per_worker: int = field(low=0, high=1024)  # 0 in a file of address local: its share of this machine
    gpus_per_worker: int = field(low=0, high=16)
    threads_per_worker: int = field(low=0, high=1024)  # 0 in a file: as many as its processors
    cpus_per_trial: int = field(low=0, high=1024, default=0)  # and threads; of a replica of the service too. 0: a worker's
    placement: str = field(choices=("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"), default="PACK")  # of workers on nodes
    start_seconds: int = field(low=1, high=86400, default=120)  # for all workers to start; longer than Ray needs to see a node go
    silent_seconds: int = field(low=5, high=86400, default=90)  # a rank that the others wait for so long counts as lost
    cache_folder: str = ""  # on each machine's own disk: training reads shards from verified copies there
    cache_gib: float = field(low=0, high=2**20, default=0.0)  # that they may take; 0: they are read where they are
    environment: dict = dataclasses.field(default_factory=dict)  # of the workers: NCCL's, Gloo's and torch's own settings

    @property
    def of_trials(self) -> Profile:
        """The same for what runs side by side as often as there is room for it: trials of the search, replicas of the service."""
        each = self.cpus_per_trial
        return dataclasses.replace(self, cpus_per_worker=each, threads_per_worker=each) if each else self

    @property
    def told(self) -> str:
        """Of how many workers a training is, in words."""
        workers, threads = ((count, "" if count == 1 else "s") for count in (self.workers, self.threads_per_worker))
        return "{} worker{} of {} thread{}".format(*workers, *threads)

    @property
    def joined(self) -> bool:
        """Whether the cluster was there before, perhaps of several machines; else it is started here and ended afterwards."""
        return self.address != "local"

    @property
    def cache(self) -> dict[str, Any] | None:
        """Where training keeps copies of shards, and how many bytes of them."""
        return {"folder": self.cache_folder, "bytes": int(self.cache_gib * 2**30)} if self.cache_gib else None

    def problems(self) -> list[tuple[str, str]]:
        unset = [("cache_folder", "is needed with cache_gib: a path on each machine's own disk")]
        shared = [("cpus_per_worker", "is 0, a share of this machine, which only address local means: say how many")]
        return (
            (unset if self.cache_gib and not Path(self.cache_folder).is_absolute() else [])
            + (shared if self.joined and not self.cpus_per_worker else [])
        ) + [
            (f"environment.{name}", f"is not for a profile: names begin with {', '.join(SETTINGS)}, secrets come from elsewhere")
            for name in self.environment
            if not str(name).startswith(SETTINGS)
        ]


def load_profile(paths: Paths) -> Profile:
    """The profile in force, or BadConfigError with every problem of its file."""
    path = paths.root / os.environ.get(PROFILE_VARIABLE, DEFAULT_PROFILE)
    profile = params.load_section(path, Profile, "cluster")
    cpus = profile.cpus_per_worker or max(1, min(MOST_THREADS, processors() // profile.workers))
    threads, address = profile.threads_per_worker or cpus, os.environ.get(ADDRESS_VARIABLE) or profile.address
    return dataclasses.replace(profile, address=address, cpus_per_worker=cpus, threads_per_worker=threads)


def meant(cluster: str, paths: Paths) -> dict[str, str]:
    """What a person's word for a cluster, an address or a profile's file, is in the environment; InputMissingError, BadConfigError."""
    if cluster.endswith((".yaml", ".yml")):
        if not (paths.root / cluster).is_file():
            known = sorted(str(path.relative_to(paths.root)) for path in (paths.root / PROFILES).glob("*.yaml"))
            raise InputMissingError(f"--cluster {cluster} does not exist: profiles here are {', '.join(known)}")
        return {PROFILE_VARIABLE: cluster}
    if not re.fullmatch(r"local|auto|(ray://)?[^/\s:]+:\d+|(ray://)?\[[0-9a-fA-F:]+\]:\d+", cluster):
        raise BadConfigError(f"--cluster {cluster}: say local, auto, host:port, ray://host:port, or name a profile's .yaml file")
    return {ADDRESS_VARIABLE: cluster}


def _need(profile: Profile, available: dict[str, float], workers: int) -> None:
    for name, each in (("CPU", profile.cpus_per_worker), ("GPU", profile.gpus_per_worker)):
        wanted, there = workers * each, available.get(name, 0)
        if wanted > there:
            raise BadConfigError(
                f"{workers} workers of {each} {name} each need {wanted} {name}, the Ray cluster has {there:g}: "
                f"lower `workers` in the cluster profile ({os.environ.get(PROFILE_VARIABLE, DEFAULT_PROFILE)}) or use a larger cluster"
            )


def check_local(profile: Profile, workers: int) -> None:
    """BadConfigError where a cluster of this machine alone could never hold ``workers``; others are asked once joined."""
    if not profile.joined:
        _need(profile, {"CPU": processors(), "GPU": _gpus()}, workers)


def slots(profile: Profile, nodes: Nodes) -> int:
    """How many workers find a place, none of them on two nodes."""
    found = 0
    for node in nodes:
        here = int(node.get("CPU", 0)) // profile.cpus_per_worker
        if profile.gpus_per_worker:
            here = min(here, int(node.get("GPU", 0)) // profile.gpus_per_worker)
        found += here
    return found


def _left_by_ray_start() -> Path:
    """Where `ray start` leaves the address that ``auto`` means."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"


def _reach(address: str) -> None:
    """UnavailableError within seconds where nothing listens: Ray itself tries for many minutes."""
    left, hint = _left_by_ray_start(), ""
    if address == "auto" and left.exists():
        address, hint = left.read_text().strip(), f"; so says {left}: of a cluster that has gone? `ray stop` removes it"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # local, or auto where no cluster was started: no address to try
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, f"{error}{hint}") from None


def _no_cluster(address: str, reason: str) -> UnavailableError:
    return UnavailableError(
        f"no Ray cluster at {address} ({reason}): check RAY_ADDRESS and the cluster profile's address, or unset it to run here"
    )


def _put_back(on_sigterm: Any) -> None:
    """Ray puts a handler of its own there when it starts, and none when it ends: by either this process would die without a word."""
    if on_sigterm is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)


@contextmanager
def connected(profile: Profile, paths: Paths, workers: int) -> Iterator[None]:
    """Ray, started or joined, with room for ``workers``; left (and ended, if it was started here) at the end."""
    check_local(profile, workers)
    _reach(profile.address)
    # Workers are fresh processes in Ray's own folder: they find the code through PYTHONPATH.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.root), os.environ.get("PYTHONPATH")]))
    every = ENVIRONMENT | {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(profile.start_seconds),
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(profile.joined)),
    }
    os.environ.update({name: os.environ.get(name, value) for name, value in every.items()})
    os.environ.pop(ADDRESS_VARIABLE, None)  # so that the address below is the only one there is
    before = os.umask(0o077)  # Ray writes its token where others could read it
    on_sigterm = signal.getsignal(signal.SIGTERM)
    import ray

    told = {name: str(value) for name, value in profile.environment.items()}
    if profile.joined:  # processes of another machine inherit nothing
        told["PYTHONPATH"] = os.environ["PYTHONPATH"]
    try:
        ray.init(
            address=profile.address, num_cpus=None if profile.joined else processors(),
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            runtime_env={"env_vars": told} if told else None,  # without one, the processes that Ray has ready can be used
        )  # fmt: skip
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        raise _no_cluster(profile.address, " ".join(str(error).split())[:200]) from None
    finally:
        os.umask(before)
        _put_back(on_sigterm)
    try:
        _wait_for(profile, workers, JOIN_SECONDS if profile.joined else 0)
        if profile.joined:
            check_nodes(paths)
        yield
    finally:
        ray.shutdown()
        _put_back(on_sigterm)


def _wait_for(profile: Profile, workers: int, seconds: float) -> None:
    """Room for ``workers``, which nodes that are about to join may bring; BadConfigError where it has not come by then."""
    import ray

    deadline = time.monotonic() + seconds
    while True:
        try:
            return _need(profile, ray.cluster_resources(), workers)
        except BadConfigError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.2)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
