"""Cluster profile: every problem of the file at once, and no more workers than there is room for. Ray is never started."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipeline import cluster, machine, params
from pipeline.cluster import ADDRESS_VARIABLE, DEFAULT_PROFILE, PROFILE_VARIABLE, Profile, _need, _reach, load_profile, meant
from pipeline.errors import BadConfigError, InputMissingError, UnavailableError
from pipeline.machine import processors
from pipeline.paths import Paths
from pipeline.trial import side_by_side

ROOT = Path(__file__).resolve().parents[3]
GOOD = "address: local\nworkers: 2\ncpus_per_worker: 1\ngpus_per_worker: 0\nthreads_per_worker: 1\n"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)


def profile(**changes: object) -> Profile:
    fields = {"address": "local", "workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0, "threads_per_worker": 1}
    return Profile(**(fields | changes))


@pytest.mark.parametrize("path", sorted((ROOT / "infra/ray").glob("*.yaml")), ids=lambda p: p.name)
def test_load_profile_files_of_the_project_are_valid(path, monkeypatch):
    monkeypatch.setenv(PROFILE_VARIABLE, str(path))
    assert load_profile(Paths(ROOT)).workers >= 1


@pytest.mark.parametrize(("there", "threads"), [(1, 1), (2, 2), (5, 5), (8, 8), (64, 8)])
def test_load_profile_default_takes_the_machine_that_there_is(monkeypatch, there, threads):
    monkeypatch.setattr(cluster, "processors", lambda: there)
    laptop = load_profile(Paths(ROOT))
    assert (laptop.address, laptop.workers, laptop.gpus_per_worker) == ("local", 1, 0)
    assert (laptop.cpus_per_worker, laptop.threads_per_worker) == (threads, threads)
    trial = laptop.of_trials
    assert (trial.cpus_per_worker, trial.threads_per_worker) == (1, 1)
    assert side_by_side(trial, 1, {"CPU": there}) == there
    cluster.check_local(laptop, laptop.workers)


def test_load_profile_zero_is_a_workers_share(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "processors", lambda: 6)
    monkeypatch.setenv(PROFILE_VARIABLE, "my.yaml")
    shared = GOOD.replace("workers: 2", "workers: 3").replace("cpus_per_worker: 1", "cpus_per_worker: 0")
    (tmp_path / "my.yaml").write_text(shared.replace("threads_per_worker: 1", "threads_per_worker: 0"))
    found = load_profile(Paths(tmp_path))
    assert (found.cpus_per_worker, found.threads_per_worker, found.told) == (2, 2, "3 workers of 2 threads")
    assert found.of_trials == found
    (tmp_path / "my.yaml").write_text(shared)
    found = load_profile(Paths(tmp_path))
    assert (found.cpus_per_worker, found.threads_per_worker, found.told) == (2, 1, "3 workers of 1 thread")
    (tmp_path / "my.yaml").write_text(shared.replace("address: local", "address: auto"))
    with pytest.raises(BadConfigError, match="cpus_per_worker: is 0, a share of this machine"):
        load_profile(Paths(tmp_path))


def test_processors_of_a_container_are_those_it_was_given(tmp_path, monkeypatch):
    every = processors()
    assert 1 <= every <= (os.cpu_count() or 1)
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    for text, found in (
        ("max 100000", every),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("99900000 100000", every),
        ("odd", every),
    ):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert processors() == found, text


def test_memory_of_a_container_is_what_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    every = machine.memory_bytes()
    for text, found in (("max", every), ("1048576", 2**20), (str(2**60), every)):
        (tmp_path / "memory.max").write_text(text + "\n")
        assert machine.memory_bytes() == found, text


def test_load_profile_gpus_join_a_cluster(monkeypatch):
    monkeypatch.setenv(PROFILE_VARIABLE, "infra/ray/gpus.yaml")
    gpus = load_profile(Paths(ROOT))
    assert gpus.address == "auto" and gpus.gpus_per_worker == 1


def test_load_profile_all_problems_at_once_with_their_lines(tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text(GOOD.replace("workers: 2", "workers: 0").replace("threads_per", "thread_per"))
    monkeypatch.setenv(PROFILE_VARIABLE, "my.yaml")
    with pytest.raises(BadConfigError) as caught:
        load_profile(Paths(tmp_path))
    lines = str(caught.value).splitlines()
    assert caught.value.exit_code == 78
    assert any(line.startswith("my.yaml:2: workers: 0 is out of range: allowed 1") for line in lines)
    assert any(line.startswith("my.yaml:5: thread_per_worker: unknown key; did you mean 'threads_per_worker'?") for line in lines)
    assert any("threads_per_worker: missing key" in line for line in lines)
    assert len(lines) == 3


def test_load_profile_key_given_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text(GOOD + "workers: 4\n")
    monkeypatch.setenv(PROFILE_VARIABLE, "my.yaml")
    with pytest.raises(BadConfigError, match="workers: key given twice"):
        load_profile(Paths(tmp_path))


def test_load_profile_missing_file_is_named(tmp_path):
    with pytest.raises(InputMissingError, match=r"laptop\.yaml does not exist"):
        load_profile(Paths(tmp_path))


def test_load_profile_address_of_the_environment_wins(monkeypatch):
    monkeypatch.setenv(ADDRESS_VARIABLE, "10.0.0.1:6379")
    found = load_profile(Paths(ROOT))
    monkeypatch.delenv(ADDRESS_VARIABLE)
    assert found.address == "10.0.0.1:6379"
    assert vars(found) | {"address": "local"} == vars(load_profile(Paths(ROOT)))


def test_need_more_workers_than_processors_is_refused_with_the_numbers(monkeypatch):
    with pytest.raises(BadConfigError) as caught:
        _need(profile(workers=4), {"CPU": 2}, 4)
    message = str(caught.value)
    assert "4 workers of 1 CPU each need 4 CPU" in message and "has 2" in message and DEFAULT_PROFILE in message
    monkeypatch.setenv(PROFILE_VARIABLE, "infra/ray/mine.yaml")
    with pytest.raises(BadConfigError, match=r"infra/ray/mine\.yaml"):
        _need(profile(workers=4), {"CPU": 2}, 4)


def test_need_as_many_as_there_are_is_allowed():
    _need(profile(), {"CPU": 2.0}, 2)
    _need(profile(cpus_per_worker=2, gpus_per_worker=1), {"CPU": 4.0, "GPU": 2.0}, 2)


def test_need_counts_the_workers_asked_for_and_not_those_of_the_profile():
    _need(profile(workers=8), {"CPU": 1}, 1)
    with pytest.raises(BadConfigError):
        _need(profile(workers=1), {"CPU": 1}, 2)


def test_need_processors_of_each_worker_are_multiplied():
    with pytest.raises(BadConfigError, match="2 workers of 2 CPU each need 4 CPU"):
        _need(profile(cpus_per_worker=2), {"CPU": 3}, 2)


def test_need_gpus_that_are_not_there_are_refused():
    with pytest.raises(BadConfigError, match="need 2 GPU, the Ray cluster has 0"):
        _need(profile(gpus_per_worker=1), {"CPU": 8}, 2)


def test_profile_is_no_part_of_params_yaml():
    assert not {"cluster", "workers", "gpus_per_worker"} & set(params.SECTIONS)
    names = {name for section in params.SECTIONS.values() for name in section.__dataclass_fields__}
    assert not names & {"workers", "cpus_per_worker", "gpus_per_worker", "address", "threads_per_worker"}


def test_reach_auto_names_the_address_that_a_cluster_left_when_it_went(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    _reach("auto")  # no cluster was ever started: Ray says so itself, and soon
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        left = tmp_path / "ray" / "ray_current_cluster"
        left.parent.mkdir()
        left.write_text(address + "\n")
        _reach("auto")
    with pytest.raises(UnavailableError, match=rf"no Ray cluster at {address} .*{left}.*`ray stop`"):
        _reach("auto")


def test_profile_says_where_workers_lie_how_long_to_wait_and_what_nccl_is_told(tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text(GOOD)
    monkeypatch.setenv(PROFILE_VARIABLE, "my.yaml")
    plain = load_profile(Paths(tmp_path))
    assert (plain.placement, plain.start_seconds, plain.silent_seconds, plain.environment) == ("PACK", 120, 90, {})
    (tmp_path / "my.yaml").write_text(GOOD + "placement: HERE\n")
    with pytest.raises(BadConfigError, match="placement: 'HERE'"):
        load_profile(Paths(tmp_path))
    (tmp_path / "my.yaml").write_text(GOOD + "environment: {NCCL_DEBUG: INFO, AWS_SECRET_ACCESS_KEY: x}\n")
    with pytest.raises(BadConfigError, match=r"environment\.AWS_SECRET_ACCESS_KEY: is not for a profile: names begin with NCCL_"):
        load_profile(Paths(tmp_path))


def test_word_for_a_cluster_is_an_address_or_a_profile():
    paths = Paths(ROOT)
    assert meant("infra/ray/one-gpu.yaml", paths) == {PROFILE_VARIABLE: "infra/ray/one-gpu.yaml"}
    for address in ("local", "auto", "10.0.0.1:6379", "ray://head:10001", "[::1]:6379"):
        assert meant(address, paths) == {ADDRESS_VARIABLE: address}
    with pytest.raises(InputMissingError, match=r"profiles here are infra/ray/gpus.yaml, .*laptop.yaml"):
        meant("infra/ray/none.yaml", paths)
    for wrong in ("head", "http://head:8265", "head:port", ""):
        with pytest.raises(BadConfigError, match="say local, auto"):
            meant(wrong, paths)
