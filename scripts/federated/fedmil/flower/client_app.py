"""Flower, at a site: answers the pre-flight, trains a round, evaluates the global model.

The site is named by the SuperNode's `--node-config 'site-config="/path/site.toml"'`; in a simulation by the run's
`sites-folder`, whose site.toml files the virtual nodes take in alphabetical order.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp

from fedmil import bags, task
from fedmil.flower import legacy
from fedmil.model import Parameters


def _site(context: Context) -> bags.Site:
    if named := context.node_config.get("site-config"):
        return bags.Site.read(Path(str(named)))
    if "partition-id" not in context.node_config:
        raise bags.SiteError("this node has no site: start its SuperNode with --node-config 'site-config=\"...\"'")
    found = sorted(Path(str(context.run_config["sites-folder"])).glob("*/site.toml"))
    return bags.Site.read(found[int(context.node_config["partition-id"])])


def _guarded(handler: Callable[[Message, Context], Message]) -> Callable[[Message, Context], Message]:
    """Exceptions' texts go to the server: only those that were written for it may."""

    @functools.wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        with task.confined():
            return handler(message, context)

    return guarded


def _secure(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Masks the updates, where the study has secure aggregation."""
    if task.Study.of(context.run_config).secure_aggregation:
        return secaggplus_mod(message, context, call_next)
    return call_next(message, context)


app = ClientApp(mods=[_secure])
_older = legacy.client(_site)


@app.query()
def preflight(message: Message, context: Context) -> Message:
    """The site's name with its manifest, or with what it objects to."""
    answer = task.answer(functools.partial(_site, context), context.run_config)
    return Message(RecordDict({"site": ConfigRecord(answer)}), reply_to=message)


@app.train()
@_guarded
def train(message: Message, context: Context) -> Message:
    """One round on the site's slides of the split `train`."""
    site, study = _site(context), task.Study.of(context.run_config)
    if study.secure_aggregation:
        return _older(message, context)
    round_ = int(message.content["config"]["server-round"])
    trained, slides, metrics = task.train_round(site, study, _arrays(message), round_)
    content = {"arrays": _record(trained), "metrics": MetricRecord(metrics | {"num-examples": slides})}
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
@_guarded
def evaluate(message: Message, context: Context) -> Message:
    """The global model on the site's slides of the split `val`."""
    site, study = _site(context), task.Study.of(context.run_config)
    if study.secure_aggregation:
        return _older(message, context)
    slides, metrics = task.validate(site, study, _arrays(message))
    content = {
        "metrics": MetricRecord(metrics | {"num-examples": slides}),
        "site": ConfigRecord({"name": site.name}),
    }
    return Message(RecordDict(content), reply_to=message)


def _arrays(message: Message) -> Parameters:
    return {k: v.numpy() for k, v in message.content["arrays"].items()}


def _record(parameters: Parameters) -> ArrayRecord:
    return ArrayRecord({k: Array(v) for k, v in parameters.items()})
