#!/usr/bin/env python3
"""NVIDIA FLARE, at a site: answers the pre-flight, then trains a round and evaluates the global model, over and over.

The site is named by the environment's PARAFFIN_SITE, a site.toml; in a simulation by --sites-folder, which holds a
folder of each site's name.
"""

import argparse
import functools
import json
import os
from pathlib import Path

import nvflare.client as flare

from fedmil import bags, task
from fedmil.flare import messages


def _site(folder: str) -> bags.Site:
    if named := os.environ.get("PARAFFIN_SITE"):
        return bags.Site.read(Path(named))
    if not folder:
        raise bags.SiteError("this client has no site: set PARAFFIN_SITE to its site.toml before FLARE is started")
    return bags.Site.read(Path(folder) / flare.get_site_name() / "site.toml")


def main() -> None:
    """Until the server is done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites-folder", default="")
    find = functools.partial(_site, parser.parse_args().sites_folder)
    flare.init()
    study = None
    while flare.is_running():
        message = flare.receive()
        if message is None:
            break
        if "study" in message.params:
            config = json.loads(messages.unpack(message.params)["study"])
            answer = task.answer(find, config)
            flare.send(flare.FLModel(params=messages.pack(answer), params_type=flare.ParamsType.FULL))
            if "objection" not in answer:
                study = task.Study.of(config)
            continue
        with task.confined():
            if study is None:
                raise bags.SiteError("training was asked for without a pre-flight")
            site, round_ = find(), message.current_round + 1
            validated, metrics = task.validate(site, study, message.params)
            reply = flare.FLModel(
                metrics=metrics | {"validated-slides": validated}, current_round=message.current_round
            )
            if round_ <= study.rounds:
                reply.params_type = flare.ParamsType.FULL
                reply.params, slides, losses = task.train_round(site, study, message.params, round_)
                reply.metrics |= losses
                reply.meta = {"NUM_STEPS_CURRENT_ROUND": slides}
        flare.send(reply)


if __name__ == "__main__":
    main()
