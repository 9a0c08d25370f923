#!/usr/bin/env python3
"""A federated study as an NVIDIA FLARE job: simulated here, or written to a folder.

  flare_job.py STUDY.toml --simulate SITES/ -o FOLDER   one process a site; SITES/<name>/site.toml are the sites
  flare_job.py STUDY.toml --write FOLDER                the job, FOLDER/fedmil, for a FLARE server to run

The sites' code, the folder fedmil/, travels in the job. --sites-folder SITES/ with --write makes a job for sites that
all run on this machine. The simulated study leaves its global model in FOLDER/global-model.safetensors.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from nvflare.job_config.api import FedJob  # noqa: E402
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner  # noqa: E402

from fedmil.flare.server import SiteFedAvg  # noqa: E402
from fedmil.task import Study  # noqa: E402
from processes import Processes  # noqa: E402

# Whatever hangs is stopped then.
SECONDS = 300
# FLARE's simulator picks a port for each site's process and frees it again for the process to take: another program may
# be faster, and then the simulator waits for ever. It says so before.
PORT_TAKEN = ("Communication error with client", "Failed to create connection to the child process")
TRIALS = 3


def build(study: Study, sites_folder: str | None = None) -> FedJob:
    """The job."""
    # FLARE copies the scripts by their paths from here.
    os.chdir(HERE)
    job = FedJob(name="fedmil", min_clients=study.sites)
    job.to_server(SiteFedAvg(study.config()))
    arguments = f"--sites-folder {shlex.quote(sites_folder)}" if sites_folder else ""
    script = "fedmil/flare/client.py"
    job.to_clients(ScriptRunner(script=script, script_args=arguments, framework=FrameworkType.NUMPY))
    for path in sorted(Path("fedmil").rglob("*.py")):
        for add in (job.add_file_to_server, job.add_file_to_clients):
            add(str(path), dest_dir=str(path.parent), app_folder_type="custom")
    return job


def simulate(study: Study, sites: Path, output: Path) -> int:
    """Runs the study here; returns the exit code: 0, or 3 where there is no model in the end."""
    names = sorted(path.parent.name for path in sites.glob("*/site.toml"))
    model = output / "global-model.safetensors"
    model.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Processes(output, SECONDS) as local:
        build(study, str(sites)).export_job(scratch)
        for trial in range(TRIALS):
            workspace, log = Path(scratch) / f"workspace-{trial}", f"simulation-{trial}"
            # What the command `nvflare simulator` runs; the command itself needs a package without a wheel.
            command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", Path(scratch) / "fedmil"]
            command += ["-w", workspace, "-c", ",".join(names), "-n", len(names), "-t", len(names)]
            process = local.start(log, command)
            while process.poll() is None and not any(words in local.log(log) for words in PORT_TAKEN):
                local.left()
                time.sleep(0.2)
            print(local.log(log), flush=True)
            if process.poll() is not None:
                break
            print("FLARE's simulator could not reach one of its own processes: once more", flush=True)
            local.stop()
        found = workspace / "server/simulate_job/global-model.safetensors"
        # The simulator ends with 0 also where the server stopped the study.
        if not found.exists():
            return 3
        shutil.copy(found, model)
    return 0


def main() -> None:
    """Reads the words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--simulate", type=Path, metavar="SITES")
    where.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("--sites-folder", type=Path, metavar="SITES")
    parser.add_argument("-o", "--output", type=Path, default=Path("flare-simulation"), metavar="FOLDER")
    args = parser.parse_args()
    study = Study.of(tomllib.loads(args.study.read_text()))
    if args.write:
        folder = str(args.write.resolve())
        build(study, args.sites_folder and str(args.sites_folder.resolve())).export_job(folder)
        return
    sys.exit(simulate(study, args.simulate.resolve(), args.output.resolve()))


if __name__ == "__main__":
    main()
