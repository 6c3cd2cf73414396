"""Whether the nodes of a cluster can do a stage's work: they are asked, before anything starts."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from pipeline.errors import BadConfigError, UnavailableError
from pipeline.paths import Paths
from vae.files import sources_sha256

SEEN_SECONDS = 60
CLOCK_SECONDS = 30  # that a node's clock may be off


def _sources() -> str:
    """sha256 of the code that this process runs."""
    import pipeline
    import vae

    return sources_sha256(*(Path(str(package.__file__)).parent for package in (pipeline, vae)))


def _seen(code: str, mark: str) -> tuple[str, float]:
    """What is wrong with the workspace as this node sees it, or '', and what time it is here."""
    if not Path(mark).exists():
        return f"does not see {Path(mark).parent.parent}", time.time()
    return "" if _sources() == code else "runs other code", time.time()


def _check_clocks(times: list[tuple[str, float]], asked: float, answered: float) -> None:
    """BadConfigError with every node whose clock is far from ours: deadlines, leases and the order of what is logged depend on them."""
    ahead = [(node, max(told - answered, 0.0) - max(asked - told, 0.0)) for node, told in times]
    wrong = [f"{node} is {seconds:+.0f} s off" for node, seconds in ahead if abs(seconds) > CLOCK_SECONDS]
    if wrong:
        raise BadConfigError(f"the clocks of the cluster differ from this one: {'; '.join(wrong)}; set them (NTP)")


def check_nodes(paths: Paths) -> None:
    """BadConfigError with every node that does not see this workspace under this path, would run other code, or has another time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]}
    paths.work.mkdir(parents=True, exist_ok=True)
    code = _sources()
    mark = paths.work / f"seen-{uuid.uuid4().hex}"
    mark.touch()
    before = time.time()
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_seen)
        asked = {
            node: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(code, str(mark))
            for node in nodes
        }
        told = dict(zip(asked, ray.get(list(asked.values()), timeout=SEEN_SECONDS), strict=True))
        answered = time.time()
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise UnavailableError(f"a node of the cluster does not answer: {' '.join(str(error).split())[:200]}") from None
    finally:
        mark.unlink()
    if wrong := [f"{nodes[node]} {what}" for node, (what, _) in told.items() if what]:
        raise BadConfigError(
            f"the workspace {paths.root} must lie on storage that all nodes see under this path: {'; '.join(wrong)} (docs/cluster.md)"
        )
    _check_clocks([(nodes[node], there) for node, (_, there) in told.items()], before, answered)
