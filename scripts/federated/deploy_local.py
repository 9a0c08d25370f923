#!/usr/bin/env python3
"""Tries a deployment out: real server and site processes with TLS and keys, all on 127.0.0.1, stopped at the end.

  deploy_local.py FOLDER --sites SITES/ [--engine flower|flare] [--minutes 15]

SITES/ is what `make_demo_sites.py SITES/ --other-contract` made; PARAFFIN in the environment names the program for the
pre-flight. FOLDER gets keys, certificates, workspaces, logs and models. Of each engine: a study of three sites, a site
whose key nobody registered, and a study in which a site has features of another contract; with Flower also one with
SecAgg+. Prints what happened, a line each, and ends with 1 where it was not what should have.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fedmil import bags, task  # noqa: E402
from flower_simulation import toml  # noqa: E402
from processes import BIN, Processes, free_port  # noqa: E402

STUDY = {"features": "20x_224px_0px_overlap/features_efficientnet-lite0", "sites": 3, "rounds": 2, "local-epochs": 4}
NAMES = ("amber", "birch", "cedar")
failures: list[str] = []


def say(what: str, right: bool) -> None:
    """A line of the result."""
    print(f"[{time.strftime('%H:%M:%S')}] {'as it should be' if right else 'WRONG'}: {what}", flush=True)
    if not right:
        failures.append(what)


def judge(what: str, model: Path, sites: Path, seconds: float) -> None:
    """Says what a global model is worth on the held-back slides."""
    if not model.exists():
        say(f"{what}: no model after {seconds:.0f} s", False)
        return
    p, metadata = task.read(model)
    folder = sites / "held-back"
    held_back = bags.load(bags.Site("h", folder / "OUT", folder / "labels.csv"), metadata["features"], "test").bags
    found = task.evaluate(p, held_back)
    words = f"accuracy {found['accuracy']:.3f}, AUC {found['auc']:.3f} on {len(held_back)} held-back slides"
    say(f"{what}: {words}, {seconds:.0f} s", found["auc"] > 0.5)


def site_config(sites: Path, name: str, other: bool = False) -> Path:
    """A site's site.toml."""
    return (sites / "other" / name if other else sites / name) / "site.toml"


def listeners(local: Processes) -> set[str]:
    """The addresses that the processes listen on."""
    found = set()
    pids = {str(pid) for pid in local.running()}
    inodes = {}
    for table, size in (("/proc/net/tcp", 8), ("/proc/net/tcp6", 32)):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                inodes[words[9]] = "loopback" if words[1][:size] in ("0100007F", "0" * 24 + "01000000") else words[1]
    for pid in pids:
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                link = str(descriptor.readlink())
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    found.add(inodes[link[8:-1]])
        except OSError:
            continue
    return found


# Flower


def flower_keys(folder: Path) -> None:
    """A certificate authority, the server's certificate, and a key a site; `stranger` is registered nowhere."""
    folder.mkdir(parents=True)
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"]
    for command in (
        ["openssl", "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=study"],
        ["openssl", "req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
         "-days", "2", "-extfile", "san", "-out", "server.pem"],
        *(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f", n] for n in (*NAMES, "stranger")),
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


class Flower:
    """A SuperLink and its SuperNodes."""

    def __init__(self, local: Processes, folder: Path):
        self.local, self.keys, self.port = local, folder / "keys", free_port()
        self.home = local.environment["HOME"]
        flower_keys(self.keys)
        (Path(self.home) / ".flwr").mkdir(exist_ok=True)
        (Path(self.home) / ".flwr/config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.keys}/ca.crt"\n'
        )
        self.tls = ["--ssl-ca-certfile", self.keys / "ca.crt", "--ssl-certfile", self.keys / "server.pem"]
        self.tls += ["--ssl-keyfile", self.keys / "server.key"]
        words = ["--host", "127.0.0.1", "--port", self.port, "--enable-supernode-auth", *self.tls]
        self.superlink = local.start("superlink", [BIN / "flower-superlink", *words])
        local.wait_for("superlink", "Uvicorn running", self.superlink)

    def register(self, name: str) -> None:
        """Makes a site's public key known."""
        self.local.run(f"register-{name}", [BIN / "flwr", "supernode", "register", self.keys / f"{name}.pub", "here"])

    def supernode(self, name: str, config: Path) -> subprocess.Popen:
        """A site's process. It connects to the server; nobody connects to it from outside."""
        words = [
            "--superlink",
            f"127.0.0.1:{self.port}",
            "--root-certificates",
            self.keys / "ca.crt",
            "--max-retries",
            3,
        ]
        words += ["--auth-supernode-private-key", self.keys / name, "--host", "127.0.0.1", "--port", free_port()]
        words += ["--node-config", f'site-config="{config}"', *self.tls]
        home = f"{self.home}/.flwr-{name}"
        return self.local.start(f"supernode-{name}", [BIN / "flower-supernode", *words], FLWR_HOME=home)

    def run(self, name: str, study: dict) -> tuple[Path, float]:
        """A study: where its model should be, and how long it took."""
        model, start = self.local.folder / f"{name}.safetensors", time.monotonic()
        config = toml(study | {"save-to": str(model)})
        self.local.run(name, [BIN / "flwr", "run", HERE, "here", "--stream", "--run-config", config])
        return model, time.monotonic() - start


def flower(folder: Path, sites: Path, seconds: float) -> None:
    """All that is tried with Flower."""
    with Processes(folder, seconds) as local:
        link = Flower(local, folder)
        for name in NAMES:
            link.register(name)
        nodes = {name: link.supernode(name, site_config(sites, name)) for name in NAMES}
        stranger = link.supernode("stranger", site_config(sites, "amber"))
        code = stranger.wait(local.left())
        last = [line for line in local.log("supernode-stranger").splitlines() if line.strip()]
        words = next((line for line in last if "not" in line.lower() or "exit code" in line.lower()), last[-1])
        say(f"flower: an unregistered key is refused, exit code {code}: {words.strip()}", code != 0)
        model, took = link.run("flower", STUDY)
        judge("flower: FedAvg, TLS, registered keys", model, sites, took)
        say(f"flower: listens on {sorted(listeners(local))}", listeners(local) == {"loopback"})
        model, took = link.run("flower-secagg", STUDY | {"secure-aggregation": True})
        judge("flower: SecAgg+, TLS, registered keys", model, sites, took)
        nodes["cedar"].terminate()
        nodes["cedar"].wait(local.left())
        link.supernode("cedar", site_config(sites, "cedar", other=True))
        model, took = link.run("flower-other-contract", STUDY)
        refused = [line for line in local.log("flower-other-contract").splitlines() if "no training" in line]
        say(f"flower: a site of another contract, {took:.0f} s: {refused[-1:]}", bool(refused) and not model.exists())
    say(f"flower: processes left: {local.running()}", not local.running())


# NVIDIA FLARE


def flare_kits(folder: Path, port: int) -> Path:
    """Provisions a project, an authority of its own and a signed startup kit for everyone; returns their folder."""
    folder.mkdir(parents=True)
    people = [{"name": name, "type": "client", "org": name} for name in NAMES]
    people += [{"name": "localhost", "type": "server", "org": "study", "fed_learn_port": port}]
    people += [{"name": "lead@study.org", "type": "admin", "org": "study", "role": "project_admin"}]
    path = "nvflare.lighter.impl"
    builders = [
        {"path": f"{path}.workspace.WorkspaceBuilder", "args": {"template_file": ["master_template.yml"]}},
        {"path": f"{path}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
        {"path": f"{path}.cert.CertBuilder"},
        {"path": f"{path}.signature.SignatureBuilder"},
    ]
    project = {"api_version": 3, "name": "fedmil", "description": "", "participants": people, "builders": builders}
    # YAML is a superset of JSON.
    (folder / "project.yml").write_text(json.dumps(project))
    command = [sys.executable, "-m", "nvflare.lighter.provision", "-p", "project.yml", "-w", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    kits = folder / "fedmil/prod_00"
    for name in NAMES:
        # By default FLARE sends sites' error logs to the server.
        resources = json.loads((kits / name / "local/resources.json.default").read_text())
        (kits / name / "local/resources.json").write_text(json.dumps(resources | {"allow_log_streaming": False}))
    return kits


def flare_client(local: Processes, kits: Path, name: str, config: Path, log: str | None = None) -> subprocess.Popen:
    """A site's process, as its startup kit's start.sh starts it, without the loop around it."""
    command = [sys.executable, "-u", "-m", "nvflare.private.fed.app.client.client_train", "-m", kits / name]
    command += [
        "-s",
        "fed_client.json",
        "--set",
        "secure_train=true",
        f"uid={name}",
        f"org={name}",
        "config_folder=config",
    ]
    return local.start(log or f"client-{name}", command, PARAFFIN_SITE=str(config))


def flare_run(local: Processes, kits: Path, job: Path, seconds: float) -> tuple[str, Path, float]:
    """Submits the job as the study's lead and waits for its end: status, where its result is, and how long it took."""
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    start = time.monotonic()
    session = new_secure_session("lead@study.org", str(kits / "lead@study.org"), timeout=60.0)
    try:
        job_id = session.submit_job(str(job))
        while (status := session.get_job_meta(job_id)["status"]) in ("SUBMITTED", "APPROVED", "DISPATCHED", "RUNNING"):
            local.left()
            time.sleep(1)
        return status, Path(session.download_job_result(job_id)), time.monotonic() - start
    finally:
        session.close()


def flare(folder: Path, sites: Path, seconds: float) -> None:
    """All that is tried with NVIDIA FLARE."""
    port = free_port()
    kits, strangers = flare_kits(folder / "project", port), flare_kits(folder / "strangers", port)
    study = folder / "study.toml"
    study.write_text(toml(STUDY).replace(" ", "\n"))
    subprocess.run(
        [sys.executable, HERE / "flare_job.py", study, "--write", folder / "job"], check=True, capture_output=True
    )
    with Processes(folder, seconds) as local:
        command = [sys.executable, "-u", "-m", "nvflare.private.fed.app.server.server_train", "-m", kits / "localhost"]
        command += ["-s", "fed_server.json", "--set", "secure_train=true", "org=study", "config_folder=config"]
        server = local.start("server", command)
        local.wait_for("server", "Server started", server)
        stranger = flare_client(local, strangers, "amber", site_config(sites, "amber"), "client-stranger")
        time.sleep(15)
        joined = "Successfully registered client" in local.log("client-stranger")
        words = [line for line in local.log("client-stranger").splitlines() if "certificate" in line.lower()]
        say(f"flare: a kit of another authority is refused: {words[-1:]}", not joined and bool(words))
        stranger.kill()
        clients = {name: flare_client(local, kits, name, site_config(sites, name)) for name in NAMES}
        for name in NAMES:
            local.wait_for(f"client-{name}", "Successfully registered client", clients[name])
        status, result, took = flare_run(local, kits, folder / "job/fedmil", seconds)
        found = list(result.rglob("global-model.safetensors"))
        if found:
            shutil.copy(found[0], folder / "flare.safetensors")
        judge(f"flare: FedAvg, mutual TLS, signed kits, {status}", folder / "flare.safetensors", sites, took)
        say(f"flare: listens on {sorted(listeners(local))}", listeners(local) == {"loopback"})
        clients["cedar"].terminate()
        clients["cedar"].wait(local.left())
        again = flare_client(local, kits, "cedar", site_config(sites, "cedar", other=True), "client-cedar-again")
        local.wait_for("client-cedar-again", "Successfully registered client", again)
        status, result, took = flare_run(local, kits, folder / "job/fedmil", seconds)
        logs = "".join(path.read_text(errors="replace") for path in kits.rglob("log.txt"))
        refused = [line for line in logs.splitlines() if "no training" in line]
        right = bool(refused) and not list(result.rglob("global-model.safetensors"))
        say(f"flare: a site of another contract, {status}, {took:.0f} s: {refused[-1:]}", right)
    say(f"flare: processes left: {local.running()}", not local.running())


def main() -> None:
    """Reads the words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sites", type=Path, required=True)
    parser.add_argument("--engine", choices=("flower", "flare"))
    parser.add_argument("--minutes", type=float, default=15)
    args = parser.parse_args()
    for name, engine in (("flower", flower), ("flare", flare)):
        if args.engine in (None, name):
            folder = args.folder.resolve() / name
            if folder.exists():
                sys.exit(f"deploy_local: {folder} is there already; name another folder")
            folder.mkdir(parents=True)
            engine(folder, args.sites.resolve(), args.minutes * 60)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
