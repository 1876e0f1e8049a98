"""A worker with the user, the volumes and the read-only root of the manifests: it serves, swaps and drains."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis

from rollstream import Client, RolloutBatch
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, free_port
from rollstream.producer.demo.redis_server import find_redis_server
from rollstream.schemas import GroupResult
from tests.support.fault_steps import tokens
from tests.support.faults import audit
from tests.support.kubernetes.pods import K8S, Pod, can_be_run, manifest_of, running
from tests.support.worker_process import wait_for

PASSWORD = "a-password-of-this-test"
WORKER = manifest_of(K8S / "base" / "worker.yaml", "Deployment")
GRACE_S = 60
LOG = ["--log-format", "console", "--log-level", "debug"]
STUB = ["--stub-vocab-size", "512", "--stub-tokens-per-s", "40"]
VLLM = ["--dtype", "float32", "--kv-cache-bytes", str(2**26)]

pytestmark = pytest.mark.skipif(not can_be_run(), reason="needs root, namespaces and overlayfs")


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a Redis that asks for a password."""
    with EmbeddedRedis() as own:
        with redis.Redis.from_url(own.url) as client:
            client.config_set("requirepass", PASSWORD)
        yield own.url


def for_all(folder: Path, to: Path) -> Path:
    """A copy that every user may read, as on a volume."""
    shutil.copytree(folder, to)
    for one in (to, *to.rglob("*")):
        one.chmod(0o755 if one.is_dir() else 0o644)
    return to


class Answers:
    """What the worker says to probes."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0


@pytest.fixture
def folders(tiny_model: Path, models: Path, adapter_dir: Path, tmp_path: Path) -> dict[str, Path]:
    """What the claims have, by the names of their volumes."""
    of_claims = {"model": tiny_model, "checkpoints": models, "adapters": adapter_dir}
    return {name: for_all(folder, tmp_path / name) for name, folder in of_claims.items()}


@pytest.mark.parametrize(
    ("engine", "flags", "start_s"),
    [
        pytest.param("stub", STUB, 60),
        pytest.param("vllm", VLLM, 300, marks=[pytest.mark.vllm, pytest.mark.large, pytest.mark.timeout(600)]),
    ],
)
def test_it_serves_takes_a_version_and_drains_within_its_grace_period(
    server: str,
    policy: str,
    folders: dict[str, Path],
    engine: str,
    flags: Sequence[str],
    start_s: float,
) -> None:
    port = free_port()
    env = {
        "ROLLSTREAM_REDIS": server,
        "ROLLSTREAM_REDIS_PASSWORD_FILE": "/etc/rollstream/redis/password",
        "ROLLSTREAM_POLICY": policy,
        "ROLLSTREAM_ENGINE": engine,
        "ROLLSTREAM_METRICS_PORT": str(port),
    }
    url = server.replace("redis://", f"redis://:{PASSWORD}@")
    words = [sys.executable, "-m", "rollstream.worker", *LOG, *flags]
    probe = Answers(port)
    with (
        running(Pod(WORKER, words, env=env, folders=folders, files={"redis": {"password": PASSWORD}})) as pod,
        Client(url, policy=policy) as client,
    ):
        wait_for(lambda: probe("/readyz") == 200 or pod.process.poll() is not None, start_s, lambda: pod.log)
        assert pod.process.poll() is None, pod.log
        assert [probe("/startupz"), probe("/healthz")] == [200, 200]
        forbidden = pod.run(["sh", "-c", "touch /forbidden; touch /usr/forbidden; touch /model/forbidden"])
        booted = client.generate([[5, 6], [7]], None, tokens(8), timeout=120)
        adapted = client.generate([[5]], None, tokens(4), adapter="math@1", timeout=120)
        client.publish_policy(1, checkpoint=folders["checkpoints"] / "step-1")
        client.wait_for_version(1, timeout=120)
        swapped = client.generate([[5, 6]], None, tokens(8), timeout=120)
        running_one = client.submit([[8], [9], [10]], None, tokens(40))
        wait_for(lambda: pod.log.count("job started") == 4, 30, lambda: pod.log)
        pod.pre_stop(GRACE_S)
        assert pod.process.wait(10) == 0, pod.log
        answers = audit(url, policy, running_one.batch_id, 3)

    assert forbidden.stderr.count("Read-only file system") == 3, forbidden.stderr
    assert [one.response_lengths.tolist() for one in (booted, adapted, swapped)] == [[8, 8], [4], [8]]
    assert [versions(one) for one in (booted, adapted, swapped)] == [{0}, {0}, {1}]
    assert [len(answer) for answer in answers if isinstance(answer, GroupResult)] == [1, 1, 1]
    assert "draining" in pod.log
    assert PASSWORD not in pod.log


@pytest.fixture
def trial_redis(tmp_path: Path) -> Callable[[], Pod]:
    """Starts the trial Redis of the manifests, each time with the same data."""
    file = K8S / "components" / "trial-redis" / "redis.yaml"
    manifest = manifest_of(file, "StatefulSet")
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    files = {"config": manifest_of(file, "ConfigMap")["data"], "password": {"password": PASSWORD}}
    data, binaries = tmp_path / "data", tmp_path / "bin"
    for folder in (tmp_path, data, binaries):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    shutil.copy(find_redis_server(), binaries / "redis-server")
    words, env = [*container["command"], *container["args"]], {"PATH": "/binaries:/usr/bin:/bin"}
    container["volumeMounts"].append({"name": "binaries", "mountPath": "/binaries", "readOnly": True})
    folders = {"data": data, "binaries": binaries}

    def start() -> Pod:
        return Pod(manifest, words, env=env, folders=folders, files=files, has_own_network=True)

    return start


@pytest.mark.large
def test_the_trial_redis_asks_for_its_password_and_keeps_what_it_took(trial_redis: Callable[[], Pod]) -> None:
    assert asked(trial_redis, "redis.Redis().ping()").startswith("redis.exceptions.AuthenticationError")
    assert asked(trial_redis, f"redis.Redis(password={PASSWORD!r}).set('kept', 'yes')") == "True"
    assert asked(trial_redis, f"redis.Redis(password={PASSWORD!r}).get('kept')") == "b'yes'"


def asked(start: Callable[[], Pod], call: str) -> str:
    """What a call returns, or the last line of its error; ends with the pod."""
    with running(start()) as pod:
        wait_for(lambda: "Ready to accept" in pod.log or pod.process.poll() is not None, 20, lambda: pod.log)
        assert pod.process.poll() is None, pod.log
        done = pod.run([sys.executable, "-c", f"import redis; print({call})"])
        os.kill(pod.first_process, signal.SIGTERM)
        assert pod.process.wait(20) == 0, pod.log
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def versions(batch: RolloutBatch) -> set[int]:
    return {version for row in batch.version_spans for version, _ in row}
