"""On the notice that this machine is about to be taken away, have its trials save their state.

    python spot_notice.py aws        wait for the notice of AWS, then act
    python spot_notice.py gcp        wait for that of Google Cloud, then act
    python spot_notice.py now        act at once: what Kubernetes calls before it stops a pod

To act is to tell Ray to place nothing here any more, so that no trial comes back to this machine;
to send SIGTERM to its trials, which save within the epoch and end; and to wait for them. It needs
nothing but Python and, for the same interpreter, Ray.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

# The command lines of processes that work begin with these names, which Ray gives them: the trials
# (Tune wraps their class in the first one) and the workers of trunks that train on several GPUs.
TRIALS = (
    "ray::ResourceTrainable",
    "ray::StoreTrainable",
    "ray::RayTrainWorker",
)
AWS = "http://169.254.169.254"
GCP = "http://metadata.google.internal"
# AWS advises to ask every 5 seconds.
AWS_EVERY_S = 5.0
GCP_EVERY_S = 1.0
TIMEOUT_S = 5.0
# Draining takes Ray some 3 s; Google's notice leaves 30 s for everything.
DRAIN_S = 10.0
# The metadata service belongs to the machine and must not be asked through a proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, headers: dict[str, str], *, method: str = "GET") -> str:
    """Fetch a page of the metadata service.

    Raises:
        OSError: there is no answer, or its status is not 200 (urllib's HTTPError is an OSError).
    """
    request = urllib.request.Request(url, headers=headers, method=method)
    with OPENER.open(request, timeout=TIMEOUT_S) as answer:
        return str(answer.read().decode())


def noticed_by_aws(base: str = AWS) -> bool:
    """Ask whether AWS is about to take this spot instance; the notice comes two minutes ahead.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = fetch(f"{base}/latest/api/token", life, method="PUT")
    try:
        fetch(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def noticed_by_gcp(base: str = GCP) -> bool:
    """Ask whether Google Cloud is taking this spot instance, which then has 30 seconds left.

    https://cloud.google.com/compute/docs/instances/create-use-preemptible-vms
    """
    url = f"{base}/computeMetadata/v1/instance/preempted"
    return fetch(url, {"Metadata-Flavor": "Google"}).strip() == "TRUE"


def wait_for_notice(noticed: Callable[[], bool], every_s: float) -> None:
    """Return once the machine is to be taken. A metadata service that fails is asked again."""
    while True:
        try:
            if noticed():
                return
        except OSError as error:
            print(f"metadata service: {error}", file=sys.stderr, flush=True)
        time.sleep(every_s)


def trials(proc: Path = Path("/proc")) -> list[int]:
    """List the process ids of the trials that run on this machine."""
    pids = []
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # The process has ended meanwhile.
            continue
        if command.decode(errors="replace").startswith(TRIALS):
            pids.append(int(path.parent.name))
    return sorted(pids)


def drain(deadline_s: int) -> None:
    """Tell Ray that this node is about to be preempted.

    A failure is only printed: a trial that Ray then places here again is lost again, but has saved
    its state.
    """
    ray = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    when = ["--deadline-remaining-seconds", str(deadline_s)]
    try:
        subprocess.run([*ray, *why, *when], check=True, timeout=DRAIN_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"the node could not be drained: {error}", file=sys.stderr, flush=True)


def end_trials(wait_s: float) -> list[int]:
    """Send SIGTERM to every trial; return those that still run after ``wait_s``."""
    ended: set[int] = set()
    until = time.monotonic() + wait_s
    while left := trials():
        for pid in left:
            if pid not in ended:  # Only once: after it, the trial does its last step.
                ended.add(pid)
                try:
                    os.kill(pid, signal.SIGTERM)
                except OSError as error:
                    print(f"trial {pid}: {error}", file=sys.stderr, flush=True)
        if time.monotonic() >= until:
            break
        time.sleep(0.2)
    return left


def main(argv: Sequence[str]) -> int:
    """Wait and act; return the exit code: 0 all trials have ended, 1 some have not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cloud", choices=("aws", "gcp", "now"))
    parser.add_argument("--wait", type=float, default=100, help="seconds for trials to save (100)")
    options = parser.parse_args(argv)
    if options.cloud == "aws":
        wait_for_notice(noticed_by_aws, AWS_EVERY_S)
    elif options.cloud == "gcp":
        wait_for_notice(noticed_by_gcp, GCP_EVERY_S)
    print(f"this machine is about to go: trials {trials()}", flush=True)
    drain(int(options.wait))
    left = end_trials(options.wait)
    print(f"still there: {left}" if left else "all trials have ended", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
