"""The start of a local Ray, without starting it: the private parameters that it needs, and its leftovers."""

import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray._private import parameter, services
from ray._private.node import Node

from deploy.batch import ray_session
from deploy.batch.ray_session import AGENT_PORTS, JOB_ENV_VAR, local_ray_env, remove_leftovers
from tests.helpers.polling import eventually


@pytest.fixture
def patched():
    """The ports of the agents, while Ray is patched."""
    ports = {name: 20_000 + number for number, name in enumerate(AGENT_PORTS)}
    with ray_session._patched_ray(ports):
        yield ports


def test_patched_ray_sets_the_parameters_of_a_local_ray(patched):
    """They are private: without them, Ray would start as well, but give up on a busy machine."""
    parameters = parameter.RayParams()
    assert {name: getattr(parameters, name) for name in AGENT_PORTS} == patched
    assert parameters.no_monitor is True
    assert parameters.include_log_monitor is False


def test_patched_ray_tells_the_raylet_the_port_of_the_dashboard_agent(patched):
    """The raylet of the pinned version has the flag, and the start of the raylet goes through the patched function."""
    flag = f"--dashboard_agent_listen_port={patched['dashboard_agent_listen_port']}"
    flags = subprocess.run([services.RAYLET_EXECUTABLE, "--help"], capture_output=True, text=True).stdout
    assert "-dashboard_agent_listen_port (" in flags
    output = services.start_ray_process(["echo"], "raylet", False, stdout_file=subprocess.PIPE).process.stdout.read()
    assert output.decode().strip() == flag
    output = services.start_ray_process(["echo", "x"], "dashboard", False, stdout_file=subprocess.PIPE)
    assert output.process.stdout.read().decode().strip() == "x"
    assert "start_ray_process(" in inspect.getsource(services.start_raylet)


def test_patched_ray_starts_no_dashboard(patched):
    """The pinned version starts it through the patched function, and accepts that there is no process."""
    starts = inspect.getsource(Node.start_api_server)
    assert "self._webui_url, process_info = ray._private.services.start_api_server(" in starts
    assert "if process_info is not None:" in starts
    assert services.start_api_server(False, True, port=8265) == ("", None)


def test_patched_ray_leaves_other_versions_alone(monkeypatch):
    monkeypatch.setattr("ray.__version__", "2.61.0")
    before = parameter.RayParams
    with ray_session._patched_ray(dict.fromkeys(AGENT_PORTS, 1)):
        assert parameter.RayParams is before


def test_patched_ray_restores_ray():
    def private_names():
        return parameter.RayParams, services.start_ray_process, services.start_api_server

    before = private_names()
    with ray_session._patched_ray(dict.fromkeys(AGENT_PORTS, 1)):
        assert not set(private_names()) & set(before)
    assert private_names() == before


def test_local_ray_env_has_a_new_token_each_time():
    tokens = {local_ray_env()["RAY_AUTH_TOKEN"] for _ in range(2)}
    assert len(tokens) == 2
    assert all(len(token) == 64 for token in tokens)


def test_remove_leftovers_kills_processes_and_removes_directories_of_this_job_only():
    jobs = [f"test{os.getpid()}{letter}" for letter in "ab"]
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    processes = [subprocess.Popen(sleep, env=os.environ | {JOB_ENV_VAR: job}) for job in jobs]
    directories = [Path(tempfile.mkdtemp(prefix=f"captioner-{job}-")) for job in jobs]
    try:
        remove_leftovers(jobs[0])
        eventually(lambda: processes[0].poll() is not None)
        assert processes[1].poll() is None
        assert [directory.exists() for directory in directories] == [False, True]
    finally:
        remove_leftovers(jobs[1])
        for process in processes:
            process.wait()
