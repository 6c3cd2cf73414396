"""`vae serve`: start Ray Serve here or on the cluster of the profile, put the service on it, and stay until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import tempfile
import threading
import time
import urllib.request
from typing import Any

from pipeline import reference
from pipeline.cluster import Profile, connected, load_profile
from pipeline.errors import BadConfigError, InputMissingError, UnavailableError
from pipeline.paths import Paths
from pipeline.service.following import checked
from pipeline.service.options import Options

PORT, START_SECONDS, END_SECONDS, LINGER_SECONDS = 8000, 60, 20, 70
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where this machine asks what listens everywhere
LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("pipeline.serve")


def _listened(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((ANYWHERE.get(host, host), port), timeout=1):
        return True
    return False


def taken(host: str, port: int) -> OSError | None:
    """Why nothing can listen there."""
    if _listened(host, port):
        return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def _until_free(host: str, port: int) -> None:
    """BadConfigError where the port cannot be had. Connections of a service that has just ended hold it a while: that is waited for."""
    deadline, told = time.monotonic() + LINGER_SECONDS, False
    while problem := taken(host, port):
        if problem.errno != errno.EADDRINUSE or _listened(host, port) or time.monotonic() > deadline:
            raise BadConfigError(f"port {port} of {host} cannot be had ({problem.strerror}): choose another one with --port")
        if not told:
            log.info("connections that have just ended hold port %d: waiting, a minute at most", port)
            told = True
        time.sleep(0.5)


def check(options: Options, host: str, port: int, paths: Paths) -> str:
    """Whatever can be known to be wrong before Ray starts, as PipelineError or DamagedError; returns what the model is called."""
    if options.token_file is not None:
        if not options.token_file.is_file():
            raise InputMissingError(f"--token-file {options.token_file} does not exist: `openssl rand -hex 32` makes a token")
        if len(options.token()) < 16:
            raise BadConfigError(f"--token-file {options.token_file} holds fewer than 16 characters, which can be guessed")
    elif host not in LOOPBACK:
        raise BadConfigError(f"--host {host} lets other machines ask: give them a token, with --token-file")
    called, generator = reference.load(options.model, paths)
    checked(called, "", generator)
    _until_free(host, port)
    return called


def _front(host: str, port: int, replicas: int, address: str) -> int:
    """The port of Ray Serve's proxy. One replica here listens at ``port`` itself: a third of the throughput is the proxy's.

    With more of them, or on a cluster, it is the proxy that listens at ``port``. (Ray's other front, HAProxy, opens ports of its own
    to the network.) Ray reads these variables when it starts.
    """
    if replicas > 1 or address != "local":
        return port
    os.environ |= {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
    }
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host, 0))
        return free.getsockname()[1]


def _until_ready(host: str, port: int) -> None:
    """Return once the service answers; UnavailableError where it does not in a minute."""
    deadline, place = time.monotonic() + START_SECONDS, ANYWHERE.get(host, host)
    url = f"http://[{place}]:{port}/ready" if ":" in place else f"http://{place}:{port}/ready"
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the service was started and does not answer at {url}: {error}") from None
        time.sleep(0.05)


def serve(options: Options, host: str, port: int, replicas: int) -> None:
    """Serve until interrupted; Ray, where it was started for this, ends with it."""
    paths = Paths(options.root)
    profile = load_profile(paths).of_trials
    called = check(options, host, port, paths)
    front = _front(host, port, replicas, profile.address)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with connected(profile, paths, replicas), tempfile.TemporaryDirectory(prefix="vaeline-metrics-") as metrics:
            _run(options, profile, replicas, metrics, {"host": host, "port": front, "request_timeout_s": options.seconds + 10})
            _until_ready(host, port)
            log.info("%s answers at http://%s:%d: the page; /openapi.json: how to ask. Ctrl-C ends it", called, host, port)
            try:
                threading.Event().wait()
            finally:
                _end(profile)
    finally:
        deadline = time.monotonic() + END_SECONDS
        while _listened(host, port) and time.monotonic() < deadline:  # Ray does not wait for its processes
            time.sleep(0.05)


def _run(options: Options, profile: Profile, replicas: int, metrics: str, http: dict[str, Any]) -> None:
    from ray import serve as ray_serve

    from pipeline.service.deployment import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    ray_serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
    try:
        ray_serve.run(application(options, profile, replicas, metrics), name="vaeline", logging_config=quiet)
    except RuntimeError as error:
        _end(profile)
        raise UnavailableError(f"the service did not start: {' '.join(str(error).split())[:300]}") from None


def _end(profile: Profile) -> None:
    from ray import serve as ray_serve

    if profile.address != "local":  # else all of Ray ends
        ray_serve.shutdown()
