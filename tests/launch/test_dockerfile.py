"""The Dockerfile: its files exist; it installs as the Makefile does, and for the JobSet."""

import http.server
import re
import shlex
import subprocess
import sys
import threading
import tomllib

import pytest
import small_runs
import yaml

ROOT = small_runs.ROOT


@pytest.fixture(scope="module")
def instructions():
  """The instructions as pairs of name and text, with continued lines joined."""
  text = (ROOT / "Dockerfile").read_text()
  lines = [line for line in text.splitlines() if line and not line.startswith("#")]
  joined = "\n".join(lines).replace("\\\n", " ")
  return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def select(instructions, name):
  return [text for instruction, text in instructions if instruction == name]


def test_the_files_that_are_copied_are_in_the_repository(instructions):
  tracked = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.splitlines()
  copies = [shlex.split(text)[1:] for text in select(instructions, "COPY")]  # without --chown
  assert copies[-1] == [".", "."]
  for *sources, target in copies[:-1]:
    for source in sources:
      assert any(name == source or name.startswith(f"{source}/") for name in tracked), source
    assert target in ("./", sources[0])
  # What make and the installation read is there before they run.
  copied = {source for *sources, _ in copies[:-1] for source in sources}
  needed = {"Makefile", "pyproject.toml", "README.md", "LICENSE", "constraints", "cifar_jax"}
  assert needed | {"launch/find_accelerator.sh"} == copied


def test_it_installs_as_the_makefile_does(instructions):
  (image,) = select(instructions, "FROM")
  version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image).group(1)
  pins = (ROOT / "constraints" / f"python{version}.txt").read_text()
  install = next(text for text in select(instructions, "RUN") if text.startswith("make"))
  assert install.startswith('make .venv/installed ACCELERATOR="${ACCELERATOR}"')
  (accelerator,) = select(instructions, "ARG")
  assert accelerator == "ACCELERATOR=cuda"
  completed = subprocess.run(
    ["make", "--dry-run", "--always-make", ".venv/installed", "PYTHON=python3", accelerator],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert "-e '.[cuda]'" in completed.stdout and ".venv/bin/python -m pip" in completed.stdout
  # What this gcsfs requires; not every fsspec has a gcsfs of its number.
  assert "gcsfs==2026.10.0 " in install
  assert re.search(r"\nfsspec==(\S+)\n", pins).group(1) >= "2026.9.0"
  assert f"-c constraints/python{version}.txt" in install
  extras = re.search(r"-e '\.\[(.+)\]'", install).group(1).split(",")
  wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
  for requirement in (text for extra in extras for text in wanted[extra]):
    package = re.match(r"[\w-]+", requirement).group()
    assert re.search(rf"^{package}==", pins, re.MULTILINE | re.IGNORECASE), package


@pytest.mark.parametrize("name", ["jobset", "jobset_sweep"])
def test_the_jobset_runs_what_the_image_holds(instructions, name):
  jobset = yaml.safe_load((ROOT / "launch" / f"{name}.yaml").read_text())
  pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  assert select(instructions, "WORKDIR") == [container["workingDir"]]
  assert select(instructions, "ENTRYPOINT") == ['["python", "main.py"]']
  assert container["command"][:2] == ["python", "main.py"]
  assert select(instructions, "ENV") == [f"PATH={container['workingDir']}/.venv/bin:$PATH"]
  data = next(v["mountPath"] for v in container["volumeMounts"] if v["name"] == "data")
  assert data in select(instructions, "RUN")[0].split()


def test_the_image_leaves_out_environments_and_results():
  ignored = (ROOT / ".dockerignore").read_text().splitlines()
  assert {".git", ".venv", ".venv-peers", "runs", "**/_build"} <= set(ignored)


def test_compose_trains_and_serves_what_it_trains(instructions):
  compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
  train, page = (compose["services"][name] for name in ("train", "page"))
  assert train["image"] == page["image"] and train["build"]["context"] == "."
  assert {"runs:/runs", "data:/data"} == set(train["volumes"])
  owned = select(instructions, "RUN")[0].split()  # by the user who is not root
  assert {"/runs", "/data"} <= set(owned) and "1000" in select(instructions, "USER")
  config, workdir = train["command"]
  assert (ROOT / config.removeprefix("--config=")).exists()
  assert workdir.startswith("--workdir=/runs/") and "--workdir=/runs" in page["command"]
  assert page["ports"] == ["127.0.0.1:8000:8000"]  # not on all of the host's addresses


def test_the_health_check_of_the_page_asks_with_the_token(monkeypatch):
  compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
  kind, python, *arguments = compose["services"]["page"]["healthcheck"]["test"]
  assert (kind, python) == ("CMD", "python")
  seen = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      seen.append((self.path, self.headers["Authorization"]))
      self.send_response(200)
      self.end_headers()

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.handle_request, daemon=True).start()
    port = server.server_port
    arguments = [text.replace(":8000/", f":{port}/") for text in arguments]
    monkeypatch.setenv("CIFAR_JAX_TOKEN", "a token of this test")
    subprocess.run([sys.executable, *arguments], check=True, timeout=60)
  assert seen == [("/runs", "Bearer a token of this test")]
