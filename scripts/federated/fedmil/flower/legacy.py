"""Flower's SecAgg+ exists for its older interface only: the same messages in that form.

Arrays have an order and no names there; the order is the alphabetical one of their names.
"""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.common import (
    Code,
    EvaluateRes,
    FitRes,
    Parameters as Tensors,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common import recorddict_compat as compat
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid

from fedmil.model import Parameters
from fedmil.task import Study

_OK = Status(Code.OK, "")


def _tensors(parameters: Parameters) -> Tensors:
    return ndarrays_to_parameters([parameters[k] for k in sorted(parameters)])


def _named(tensors: Tensors, names: list[str]) -> Parameters:
    return {k: v.astype("float32") for k, v in zip(sorted(names), parameters_to_ndarrays(tensors), strict=True)}


def fit_instructions(message: Message) -> tuple[int, Parameters]:
    """The round, from 1, and the global model."""
    instructions = compat.recorddict_to_fitins(message.content, keep_input=True)
    names = str(instructions.config["names"]).split(",")
    return int(instructions.config["round"]), _named(instructions.parameters, names)


def fit_result(message: Message, trained: Parameters, slides: int) -> Message:
    """The update, which `secaggplus_mod` masks. No metrics: they would not be masked."""
    result = FitRes(_OK, _tensors(trained), slides, {})
    return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def evaluate_instructions(message: Message) -> Parameters:
    """The global model."""
    instructions = compat.recorddict_to_evaluateins(message.content, keep_input=True)
    return _named(instructions.parameters, str(instructions.config["names"]).split(","))


def evaluate_result(message: Message, site: str, slides: int, metrics: dict[str, float]) -> Message:
    """The site's metrics."""
    result = EvaluateRes(_OK, metrics.get("loss", 0.0), slides, {"site": site, **metrics})
    return Message(compat.evaluateres_to_recorddict(result), reply_to=message)


def rounds(
    grid: Grid,
    context: Context,
    study: Study,
    initial: Parameters,
    slides: int,
    on_round: Callable[[int, Parameters], None],
    on_metrics: Callable[[int, str, int, dict], None],
) -> None:
    """All rounds of a study with SecAgg+. `slides` is a bound on a site's number of them."""
    names = list(initial)

    def fit_config(round_: int) -> dict:
        return {"round": round_, "names": ",".join(names)}

    class Strategy(FedAvg):
        """FedAvg that takes no fewer sites than all, and tells each site's metrics."""

        def aggregate_fit(self, server_round, results, failures):  # noqa: ANN001, ANN201
            tensors, metrics = super().aggregate_fit(server_round, results, failures)
            if failures or tensors is None:
                raise RuntimeError(f"round {server_round}: {len(failures)} sites failed: {failures[:1]}")
            on_round(server_round, _named(tensors, names))
            return tensors, metrics

        def aggregate_evaluate(self, server_round, results, failures):  # noqa: ANN001, ANN201
            for _, result in results:
                metrics = dict(result.metrics)
                on_metrics(server_round, str(metrics.pop("site")), result.num_examples, metrics)
            return super().aggregate_evaluate(server_round, results, failures)

    strategy = Strategy(
        min_fit_clients=study.sites,
        min_evaluate_clients=study.sites,
        min_available_clients=study.sites,
        initial_parameters=_tensors(initial),
        on_fit_config_fn=fit_config,
        on_evaluate_config_fn=fit_config,
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=study.rounds), strategy=strategy)
    # Every site holds a share of every other's key; all but one must be there to put one together.
    secure = SecAggPlusWorkflow(
        num_shares=study.sites, reconstruction_threshold=study.sites - 1, max_weight=float(slides)
    )
    DefaultWorkflow(fit_workflow=secure)(grid, legacy)
    if sorted(legacy.history.losses_distributed)[-1:] == []:
        print("no site has slides of the split val", flush=True)
