#!/usr/bin/env python3
"""A federated study simulated with Flower: a SuperLink of its own on 127.0.0.1, a virtual node a site, and then all is
stopped.

  flower_simulation.py STUDY.toml SITES/ -o FOLDER     SITES/<name>/site.toml are the sites

The study leaves its global model in FOLDER/global-model.safetensors, and all logs in FOLDER/logs. For real sites there
is `flwr run`: docs/federated.md.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

from processes import BIN, Processes, free_port

HERE = Path(__file__).resolve().parent
# Whatever hangs is stopped then.
SECONDS = 600


def toml(config: dict) -> str:
    """As `flwr run --run-config` takes it; texts, numbers and truth values are in TOML as in JSON."""
    return " ".join(f"{k}={json.dumps(v)}" for k, v in config.items())


def main() -> None:
    """Reads the words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("sites", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("flower-simulation"), metavar="FOLDER")
    args = parser.parse_args()
    output, sites = args.output.resolve(), args.sites.resolve()
    study = tomllib.loads(args.study.read_text())
    model = output / "global-model.safetensors"
    model.unlink(missing_ok=True)
    port = free_port()
    with Processes(output, SECONDS) as local:
        flwr_home = output / "home/.flwr"
        flwr_home.mkdir(parents=True, exist_ok=True)
        (flwr_home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        words = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", port]
        superlink = local.start("superlink", [BIN / "flower-superlink", *words], FLWR_HOME=str(flwr_home))
        local.wait_for("superlink", "Uvicorn running", superlink)
        config = study | {"save-to": str(model), "sites-folder": str(sites)}
        names = list(sites.glob("*/site.toml"))
        federation = f"num-supernodes={len(names)} client-resources-num-cpus=1"
        command = [BIN / "flwr", "run", HERE, "here", "--stream", "--run-config", toml(config)]
        code = local.run("run", [*command, "--federation-config", federation], FLWR_HOME=str(flwr_home))
        print(local.log("run"), flush=True)
    if code == 0 and not model.exists():
        # `flwr run` ends with 0 also where the study failed.
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    main()
