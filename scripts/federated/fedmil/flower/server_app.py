"""Flower, in the middle: pre-flight, then rounds of federated averaging, weighted by slides; saves the global model."""

import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedmil import preflight, task
from fedmil.flower import legacy
from fedmil.model import Parameters

# How long the sites have to connect.
CONNECT_SECONDS = 120

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A whole study."""
    study, save_to = task.Study.of(context.run_config), Path(str(context.run_config["save-to"]))
    entries = preflight.admit(study, *_ask(grid, study))
    initial = study.initial(entries[0]["contract"]["encoder"]["dim"])

    def on_round(round_: int, parameters: Parameters) -> None:
        task.save(save_to, parameters, study, entries)
        print(f"round {round_} of {study.rounds}: global model saved", flush=True)

    if study.secure_aggregation:
        slides = max(entry["slides"] for entry in entries)
        legacy.rounds(grid, context, study, initial, slides, on_round)
        return
    strategy = _AllSites(min_train_nodes=study.sites, min_evaluate_nodes=study.sites, min_available_nodes=study.sites)

    def saved(round_: int, arrays: ArrayRecord) -> MetricRecord | None:
        if round_ > 0:
            on_round(round_, {k: v.numpy() for k, v in arrays.items()})
        return None

    arrays = ArrayRecord({k: Array(v) for k, v in initial.items()})
    strategy.start(grid, arrays, num_rounds=study.rounds, evaluate_fn=saved)


class _AllSites(FedAvg):
    """FedAvg that takes no fewer sites than all, and tells each site's metrics."""

    def aggregate_train(self, server_round, replies):  # noqa: ANN001, ANN201
        return super().aggregate_train(server_round, _whole(server_round, replies))

    def aggregate_evaluate(self, server_round, replies):  # noqa: ANN001, ANN201
        replies = _whole(server_round, replies)
        # A site without slides to validate on has no metrics to average.
        measured = []
        for reply in replies:
            metrics = dict(reply.content["metrics"])
            slides = int(metrics.pop("num-examples"))
            task.tell(server_round, str(reply.content["site"]["name"]), slides, metrics)
        return super().aggregate_evaluate(server_round, measured)


def _whole(round_: int, replies: Iterable[Message]) -> list[Message]:
    replies = list(replies)
    if failed := [reply.error.reason for reply in replies if reply.has_error()]:
        raise RuntimeError(f"round {round_}: {len(failed)} sites failed: {failed[0]}")
    return replies


def _ask(grid: Grid, study: task.Study) -> tuple[dict[str, str], dict[str, str]]:
    """The pre-flight's answers: manifests by site, and objections by site."""
    start = time.monotonic()
    while len(nodes := list(grid.get_node_ids())) < study.sites:
        if time.monotonic() - start > CONNECT_SECONDS:
            raise preflight.Refused(f"{len(nodes)} sites are connected, the study has {study.sites}")
        time.sleep(0.5)
    question = RecordDict({"question": ConfigRecord({"what": "manifest"})})
    messages = [Message(question, dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
    answers = []
    for reply in grid.send_and_receive(messages, timeout=preflight.ANSWER_SECONDS):
        if reply.has_error():
            raise preflight.Refused(f"a site could not answer: {reply.error.reason}")
        answers.append({k: str(v) for k, v in reply.content["site"].items()})
    return preflight.by_site(answers)
