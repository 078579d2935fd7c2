"""Runs of the corner network, and clients of an application that serves them."""

import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import corner_network
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serve import app, networks, server


@pytest.fixture(scope="session")
def corner_runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder with two runs, `first`, which has a convolution, and `nested/second`."""
  folder = tmp_path_factory.mktemp("served")
  corner_network.make_run(folder / "first", has_convolution=True)
  corner_network.make_run(folder / "nested" / "second", scale=2.0)
  corner_network.write_rows(folder / "first", 3)
  (folder / "first" / "results.json").write_text(
    json.dumps({"test_accuracy": 0.5, "selected_on": "validation", "seeds": [0]})
  )
  Image.new("RGB", (8, 8)).save(folder / "first" / "plots" / "kernels.png")
  (folder / "first" / "report.html").write_text("<p>A report</p>")
  return folder


@pytest.fixture(scope="session")
def client(corner_runs: pathlib.Path) -> Iterator[TestClient]:
  """A client on the same machine; the networks are compiled once for all tests."""
  with TestClient(app.create_app([str(corner_runs)]), base_url="http://127.0.0.1:8000") as client:
    yield client


class Live:
  """A server in a thread, which can be stopped and started again on the same port."""

  def __init__(self, *folders: pathlib.Path):
    self._folders = [str(folder) for folder in folders]
    self.port = 0
    self.start()

  def start(self) -> None:
    """Start the server, on the port it had before."""
    listening = server.listen(self._folders, "127.0.0.1", self.port)
    self.address, self.port = listening.address, listening.socket.getsockname()[1]
    self.server = listening.server
    self._thread = threading.Thread(target=self.server.run, args=([listening.socket],))
    self._thread.start()
    while not self.server.started:
      time.sleep(0.01)

  @property
  def networks(self) -> networks.Networks:
    return self.server.config.app.state.networks

  def stop(self, at_once: bool = False) -> None:
    """Stop the server: after the requests that it has begun, or at once."""
    self.server.force_exit = at_once
    self.server.should_exit = True
    self._thread.join()


@pytest.fixture
def start() -> Iterator[Callable[..., Live]]:
  """Start servers of some folders; all end with the test."""
  servers: list[Live] = []

  def start_one(*folders: pathlib.Path) -> Live:
    servers.append(Live(*folders))
    return servers[-1]

  yield start_one
  for one in servers:
    one.stop()
