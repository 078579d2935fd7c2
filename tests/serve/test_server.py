"""A server on a real socket: slow clients, the end in mid-request, unusable addresses."""

import asyncio
import socket
import sys
import threading

import httpx2
import pytest
from corner_network import photo_of

import modes
import serve
from benchmarks.speed import serve as load_test
from cifar_jax import errors
from serve import server, uploads

FORM = {"files": {"images": ("a.png", photo_of("bottom_right"))}, "data": {"runs": "first"}}


def post_in_thread(live, results):
  """Post a photo; put the answer, or the error, into `results`."""

  def post():
    try:
      results.append(httpx2.post(f"{live.address}predict", **FORM, timeout=60))
    except httpx2.HTTPError as error:
      results.append(error)

  thread = threading.Thread(target=post)
  thread.start()
  return thread


@pytest.fixture
def held(start, corner_runs):
  """A server whose network computes only after `release`, and an event that it has begun."""
  live = start(corner_runs)
  httpx2.post(f"{live.address}predict", **FORM, timeout=60)  # loads the network
  entry = live.networks._entries["first"]
  batcher = entry.served.result().batcher
  begun, release, compute = threading.Event(), threading.Event(), batcher._compute

  def wait(images):
    begun.set()
    assert release.wait(60)
    return compute(images)

  batcher._compute = wait
  yield live, begun, release
  release.set()


def test_requests_that_were_begun_are_answered_before_the_end(held):
  live, begun, release = held
  results = []
  asking = post_in_thread(live, results)
  begun.wait(60)
  stopping = threading.Thread(target=live.stop)
  stopping.start()
  stopping.join(0.2)
  assert stopping.is_alive()
  release.set()
  asking.join()
  stopping.join()
  assert results[0].json()["images"][0]["predictions"][0]["class"] == "bottom_right"


def test_a_client_learns_of_the_end_in_mid_request_and_can_ask_again(held):
  live, begun, release = held
  results = []
  asking = post_in_thread(live, results)
  begun.wait(60)
  live.stop(at_once=True)
  asking.join()
  assert (results[0].status_code, results[0].headers["retry-after"]) == (503, "2")
  release.set()
  live.start()
  assert httpx2.post(f"{live.address}predict", **FORM, timeout=60).status_code == 200


def test_slow_clients_do_not_hold_up_others(start, corner_runs, monkeypatch):
  monkeypatch.setattr(server, "_SECONDS_TO_ASK", 0.3)
  monkeypatch.setattr(uploads, "MAX_SECONDS", 2.0)
  monkeypatch.setattr(uploads, "MAX_REQUESTS", 1)
  live = start(corner_runs)
  silent, slow = (socket.create_connection(("127.0.0.1", live.port)) for _ in range(2))
  head = (
    "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
  )
  slow.sendall(head.encode())
  with silent, slow:
    assert httpx2.post(f"{live.address}predict", **FORM, timeout=60).status_code == 200
    silent.settimeout(30)
    assert silent.recv(1) == b""  # closed
    slow.settimeout(30)
    assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_the_load_generator_is_answered(start, corner_runs):
  live = start(corner_runs / "first")
  for load in (load_test.Load(2, some_broken=True), load_test.Load(1, num_slow=2)):
    outcome = asyncio.run(load_test.send_load(live.port, load, 0.2))
    assert len(outcome.seconds) > 1
    assert outcome.num_refused == 0


def test_a_port_in_use(start, corner_runs):
  live = start(corner_runs)
  with pytest.raises(errors.UserError, match=f"--port: 127.0.0.1:{live.port} cannot be used"):
    server.listen([str(corner_runs)], "127.0.0.1", live.port)


@pytest.mark.parametrize(
  ("host", "port", "message"),
  [
    ("127.0.0.1", 70_000, "--port: 70000 must be from 0 to 65535; "),
    ("no such host", 0, "--host: 'no such host' is unknown"),
  ],
)
def test_addresses_that_cannot_be_used(corner_runs, host, port, message):
  with pytest.raises(errors.UserError, match=message):
    server.listen([str(corner_runs)], host, port)


@pytest.mark.parametrize(
  ("host", "has_token"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_only_loopback_needs_no_token(corner_runs, host, has_token):
  listening = server.listen([str(corner_runs)], host, 0)
  listening.socket.close()
  assert ("?token=" in listening.address) == has_token


def test_a_missing_package_is_named(monkeypatch, corner_runs):
  monkeypatch.delitem(sys.modules, "serve.server")
  monkeypatch.delattr(serve, "server")
  monkeypatch.setitem(sys.modules, "uvicorn", None)
  call = modes.Call(None, [str(corner_runs)], [], {"host": "127.0.0.1", "port": 0})
  with pytest.raises(errors.UserError, match="uvicorn is not installed; run: pip install"):
    modes.MODES["serve"].run(call)


def test_the_environment_may_set_the_token(monkeypatch, tmp_path):
  monkeypatch.setenv("CIFAR_JAX_TOKEN", "short")
  with pytest.raises(errors.UserError, match=r"^CIFAR_JAX_TOKEN: must have at least 16"):
    server.listen([str(tmp_path)], "0.0.0.0", 0)
  monkeypatch.setenv("CIFAR_JAX_TOKEN", "0123456789abcdef")
  with server.listen([str(tmp_path)], "0.0.0.0", 0).socket as listener:
    assert server._address(listener, "0.0.0.0", server._token()).endswith("?token=0123456789abcdef")
