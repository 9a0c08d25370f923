#!/usr/bin/env python3
"""A federated study as an NVIDIA FLARE job: simulated here, run in a local proof of concept, or written to a folder.

  job.py STUDY.toml --simulate SITES/ -o WORKSPACE     one process a site; SITES/<name>/site.toml are the sites
  job.py STUDY.toml --poc SITES/ -o WORKSPACE          server, sites and administrator as real processes with mutual TLS
  job.py STUDY.toml --export FOLDER                    the job, for `nvflare job submit` to a server of your own

The code of the sites' part, the folder fedmil/, travels in the job.
"""

import argparse
import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from nvflare.job_config.api import FedJob  # noqa: E402
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner  # noqa: E402

from fedmil.flare.server import SiteFedAvg  # noqa: E402
from fedmil.task import Study  # noqa: E402


def build(study: Study, sites_folder: str = "") -> FedJob:
    """The job."""
    job = FedJob(name="fedmil", min_clients=study.sites)
    job.to_server(SiteFedAvg(study.config()))
    arguments = f"--sites-folder {sites_folder}" if sites_folder else ""
    job.to_clients(
        ScriptRunner(script="fedmil/flare/client.py", script_args=arguments, framework=FrameworkType.NUMPY)
    )
    return job


def main() -> None:
    """Reads the words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--simulate", type=Path, metavar="SITES")
    where.add_argument("--poc", type=Path, metavar="SITES")
    where.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--workspace", type=Path, default=Path("fedmil-workspace"))
    args = parser.parse_args()
    study = Study.of(tomllib.loads(args.study.read_text()))
    if args.write:
        job = build(study)
        os.chdir(HERE)
        job.export_job(str(args.write))
        return
    sites = (args.simulate or args.poc).resolve()
    names = sorted(p.parent.name for p in sites.glob("*/site.toml"))
    job, workspace = build(study, str(sites)), args.workspace.resolve()
    # Where the job finds its scripts.
    os.chdir(HERE)
    if args.simulate:
        sys.exit(job.simulator_run(str(workspace), clients=names, threads=len(names)))


if __name__ == "__main__":
    main()
