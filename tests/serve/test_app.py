"""The HTTP endpoints: answers, limits, and requests that must be refused."""

import io
import json
import shutil
import struct
import threading
import zlib

import numpy as np
import pytest
from corner_network import CORNERS, make_run, photo_of, predict_text
from PIL import Image
from starlette.testclient import TestClient

from analysis import predict
from cifar_jax.runs import checkpoints
from serve import app, networks, openapi, uploads

HOST = "http://127.0.0.1:8000"


def send(client, *photos, runs=("first",), path="/predict", headers=None, **fields):
  """Post photos, bytes each."""
  files = [("images", (f"{i}.png", content)) for i, content in enumerate(photos)]
  return client.post(path, files=files, data={"runs": list(runs)} | fields, headers=headers)


# --- Predictions ---------------------------------------------------------------------------------


def test_the_answer_is_that_of_mode_predict(client, corner_runs, tmp_path):
  photos = [photo_of(which, kind) for which, kind in zip(CORNERS, ["PNG", "JPEG"] * 2, strict=True)]
  for i, photo in enumerate(photos):
    (tmp_path / f"{i}.png").write_bytes(photo)
  names = ["nested/second", "first"]
  workdirs = [corner_runs / name for name in names]
  expected = json.loads(predict_text(workdirs, sorted(tmp_path.iterdir()), as_json=True)[0])
  answer = send(client, *photos, runs=names).json()
  for image in expected["images"]:
    image["file"] = image["file"].removeprefix(f"{tmp_path}/")
    for prediction, name in zip(image["predictions"], names, strict=True):
      prediction["run"] = name
  for run, name in zip(expected["runs"], names, strict=True):
    run["name"] = name
  assert answer["images"][1]["predictions"][1]["class"] == "top_right"
  assert answer.keys() == expected.keys()
  assert (answer["runs"], answer["thresholds"]) == (expected["runs"], expected["thresholds"])
  for one, other in zip(answer["images"], expected["images"], strict=True):
    assert one.pop("file") == other.pop("file")
    for ours, theirs in zip(one["predictions"], other["predictions"], strict=True):
      assert ours.keys() == theirs.keys()
      assert [rank["class"] for rank in ours["top5"]] == [rank["class"] for rank in theirs["top5"]]
      for key in ("probability", "normalized_entropy"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-7)
      key = "probably_none_of_the_classes"
      assert ours[key] == theirs[key]


def png_of(width: int, height: int) -> bytes:
  """Return a PNG that announces a size, without its pixels."""
  header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  chunks = [struct.pack(">I", 13), header, struct.pack(">I", zlib.crc32(header)), bytes(4), b"IDAT"]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_broken_photos_are_skipped_and_the_others_answered(client):
  photo = photo_of("bottom_left")
  answer = send(client, b"text", photo, b"", photo[:100], png_of(50_000, 50_000)).json()
  assert [image["file"] for image in answer["images"]] == ["1.png"]
  assert answer["images"][0]["predictions"][0]["class"] == "bottom_left"
  reasons = {skipped["file"]: skipped["reason"] for skipped in answer["skipped"]}
  assert reasons["0.png"] == reasons["2.png"] == "not an image"
  assert "truncated" in reasons["3.png"]
  assert "pixels" in reasons["4.png"]


def test_names_of_files_are_not_paths_and_do_not_control_terminals(client, tmp_path):
  target = tmp_path / "secret.png"
  target.write_bytes(photo_of("top_left"))
  files = [("images", (f"{target}\x1b[2J", b"not a photo"))]
  answer = client.post("/predict", files=files, data={"runs": "first"}).json()
  assert answer["images"] == []
  assert "\x1b" not in answer["skipped"][0]["file"]


def test_many_requests_at_once_are_answered_in_batches(client, monkeypatch):
  sizes = []
  (served,) = client.portal.call(client.app.state.networks.load, ["first"])
  compute = served.batcher._compute
  monkeypatch.setattr(
    served.batcher, "_compute", lambda images: sizes.append(len(images)) or compute(images)
  )
  results = {}

  def ask(i):
    answer = send(client, photo_of(CORNERS[i % 4])).json()
    results[i] = answer["images"][0]["predictions"][0]["class"]

  threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert results == {i: CORNERS[i % 4] for i in range(24)}
  assert len(sizes) < 24
  assert set(sizes) <= {1, 4, 16, 64}


def test_better_weights_of_a_run_that_trains_are_loaded(tmp_path, monkeypatch):
  monkeypatch.setattr(networks, "_SECONDS_BETWEEN_RELOADS", 0.0)
  path = make_run(tmp_path / "run")
  photo = photo_of("top_left")
  with TestClient(app.create_app([str(tmp_path)]), base_url=HOST) as client:
    before = send(client, photo, runs=["run"]).json()
    store = checkpoints.Checkpoints(path)
    store.save_best([9], {"params": {"scale": np.float32(-20)}, "batch_stats": {}})
    store.close()
    after = send(client, photo, runs=()).json()  # there is only one
    shutil.rmtree(path / "checkpoints" / "best")
    missing = send(client, photo, runs=["run"])
  assert (before["runs"][0]["step"], after["runs"][0]["step"]) == (7, 9)
  assert before["images"][0]["predictions"][0]["class"] == "top_left"
  assert after["images"][0]["predictions"][0]["class"] != "top_left"
  assert missing.status_code == 422
  assert missing.json()["error"].startswith("runs: run has no selected weights yet; ")


def test_grad_cam_lights_the_corner_of_the_class(client):
  answer = send(client, photo_of("top_right"), path="/grad_cam")
  assert answer.headers["content-type"] == "image/png"
  picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
  assert picture.shape == (320, 320, 3)
  warm = picture[..., 0] - picture[..., 2]  # red is the most evidence, blue none
  assert warm[40:120, 200:280].mean() > 50 > 0 > warm[200:280, 40:120].mean()


@pytest.mark.parametrize(
  ("photo", "fields", "message"),
  [
    (photo_of(), {"runs": ["nested/second"]}, "run: nested/second has no feature maps; "),
    (photo_of(), {"class": "zebra"}, "class: 'zebra' is unknown; "),
    (b"text", {}, "image: not an image; "),
  ],
)
def test_pictures_that_cannot_be_made(client, photo, fields, message):
  answer = send(client, photo, path="/grad_cam", **fields)
  assert answer.status_code == 422
  assert answer.json()["error"].startswith(message)


# --- Limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("photos", "runs", "status", "message"),
  [
    ([], ["first"], 400, "images: missing; "),
    ([photo_of()], [], 400, "runs: missing; "),
    ([photo_of()], ["first", "../first"], 404, "'../first': unknown; "),
    ([photo_of()], ["first"] * 33, 400, "Too many fields"),
    ([photo_of()], [str(i) for i in range(9)], 400, "runs: 9 are too many; "),
    ([photo_of()], ["x" * 5000], 400, "Part exceeded maximum size"),
    ([b"x"] * 33, ["first"], 400, "Too many files"),
    ([bytes(uploads.MAX_BYTES)], ["first"], 413, "request: more than 64 MiB; "),
  ],
)
def test_requests_beyond_the_limits(client, photos, runs, status, message):
  files = [("images", ("a.png", photo)) for photo in photos] or {"other": (None, "x")}
  answer = client.post("/predict", files=files, data={"runs": runs})
  assert (answer.status_code, answer.json()["error"][: len(message)]) == (status, message)


@pytest.mark.parametrize(
  ("headers", "content", "status"),
  [
    ({"content-type": "application/json"}, b"{}", 415),
    ({"content-type": "multipart/form-data"}, b"x", 400),
    ({"content-type": "multipart/form-data; boundary=b"}, b"no parts", 400),
    ({"content-type": "multipart/form-data; boundary=b"}, iter([b"chunked"]), 411),
  ],
)
def test_requests_that_are_no_forms(client, headers, content, status):
  answer = client.post("/predict", content=content, headers=headers)
  assert answer.status_code == status
  assert answer.json()["error"]


@pytest.mark.parametrize("limit", ["MAX_REQUESTS", "MAX_TOTAL_BYTES"])
def test_a_full_server_refuses_at_once(client, monkeypatch, limit):
  monkeypatch.setattr(uploads, limit, 0)
  answer = send(client, photo_of())
  assert answer.status_code == 503
  assert answer.headers["retry-after"] == "1"


def test_an_answer_that_takes_too_long_is_given_up_and_the_room_is_free_again(client, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(app, "MAX_SECONDS", 0.0)
    assert send(client, photo_of()).status_code == 503
  assert send(client, photo_of()).status_code == 200


def test_faults_are_logged_and_answered_in_one_line(client, monkeypatch, log_lines):
  monkeypatch.setattr(predict, "describe_networks", lambda *_: 1 / 0)
  answer = TestClient(client.app, base_url=HOST, raise_server_exceptions=False)
  answer.portal = client.portal
  answer = send(answer, photo_of())
  assert (answer.status_code, log_lines[-1]) == (500, "a request failed")
  assert answer.json() == {"error": "server: an error, described in its log; try again"}


# --- Runs ----------------------------------------------------------------------------------------


def test_runs_and_their_parts(client):
  listed = client.get("/runs").json()["runs"]
  assert [run["name"] for run in listed] == ["first", "nested/second"]
  details = client.get("/run", params={"run": "first"}).json()
  assert details["results"]["test_accuracy"] == 0.5
  rows = client.get("/metrics", params={"run": "first", "after": 2}).json()["rows"]
  assert [row["epoch"] for row in rows] == [3]
  picture = client.get("/figure", params={"run": "first", "name": details["figures"][0]})
  assert (picture.headers["content-type"], picture.content[1:4]) == ("image/png", b"PNG")


def test_a_report_is_shown_without_access_to_the_server(client):
  answer = client.get("/report", params={"run": "first"})
  assert answer.text == "<p>A report</p>"
  policy = answer.headers["content-security-policy"]
  assert policy.startswith("sandbox allow-scripts; default-src 'none'; ")
  assert "allow-same-origin" not in policy
  assert "unsafe-inline'; script" in policy  # styles only


@pytest.mark.parametrize(
  ("path", "status"),
  [
    ("/metrics?run=first&after=-1", 400),
    ("/metrics?after=1", 400),
    ("/run?run=/etc", 404),
    ("/figure?run=first&name=../config.json", 404),
    ("/report?run=nested/second", 404),
    ("/page.py", 404),
    ("/../app.py", 404),
    ("/predict", 405),
  ],
)
def test_wrong_addresses(client, path, status):
  answer = client.get(path)
  assert answer.status_code == status
  assert set(answer.json()) == {"error"}


def test_the_page_loads_nothing_from_elsewhere(client):
  for path in ("/", "/docs"):
    answer = client.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
  for path in app._PAGE_FILES:
    text = client.get(path).text
    assert "innerHTML" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_openapi_describes_every_endpoint_and_the_answer(client):
  described = client.get("/openapi.json").json()
  routes = {route.path for route in client.app.routes} - set(app._PAGE_FILES) - {"/openapi.json"}
  assert set(described["paths"]) == routes
  answer = send(client, photo_of(), b"text").json()
  assert_fits(answer, openapi._PREDICTIONS)


def assert_fits(value, schema):
  """Assert that JSON has exactly what a schema names."""
  kinds = {"string": str, "number": (int, float), "integer": int, "boolean": bool}
  if schema["type"] == "array":
    assert value
    for item in value:
      assert_fits(item, schema["items"])
  elif schema["type"] == "object":
    assert value.keys() == schema["properties"].keys()
    for name, part in schema["properties"].items():
      assert_fits(value[name], part)
  else:
    assert isinstance(value, kinds[schema["type"]])


# --- Access --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_other_names_of_this_machine_are_refused(client, host):
  assert client.get("/runs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:8000"])
def test_names_of_loopback_are_accepted(client, host):
  assert client.get("/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
  "headers",
  [
    {"origin": "http://evil.example"},
    {"origin": "http://127.0.0.1:9000"},
    {"origin": "null"},
    {"origin": "http://[::1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
  ],
)
def test_posts_of_other_sites_are_refused(client, headers):
  assert send(client, photo_of(), headers=headers).status_code == 403


def test_a_post_of_the_page_is_accepted(client):
  headers = {"origin": HOST, "sec-fetch-site": "same-origin"}
  assert send(client, photo_of(), headers=headers).status_code == 200


def test_a_server_for_others_wants_its_token(corner_runs):
  application = app.create_app([str(corner_runs)], token="secret")
  with TestClient(application, base_url="http://10.0.0.7:8000", follow_redirects=False) as client:
    refused = client.get("/")
    assert (refused.status_code, refused.json()["error"].split(";")[0]) == (
      401,
      "token: missing or wrong",
    )
    for headers in ({"authorization": "Bearer wrong"}, {"cookie": "cifar_jax_token=secre"}):
      assert client.get("/runs", headers=headers).status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.post("/predict?token=secret").status_code == 401
    assert client.get("/runs", headers={"authorization": "Bearer secret"}).status_code == 200
    opened = client.get("/?token=secret")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert client.get("/runs").status_code == 200  # with the cookie
    assert client.post("/predict", headers={"origin": "http://evil.example"}).status_code == 403
