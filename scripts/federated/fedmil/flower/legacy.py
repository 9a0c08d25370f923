"""Flower's SecAgg+ exists for its older interface only: the same messages in that form.

Arrays have an order and no names there; the order is the alphabetical one of their names.
"""

from collections.abc import Callable

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid

from fedmil import task
from fedmil.bags import Site
from fedmil.model import Parameters
from fedmil.task import Study


def _named(arrays: list[np.ndarray], names: list[str]) -> Parameters:
    return {k: v.astype(np.float32) for k, v in zip(sorted(names), arrays, strict=True)}


def _ordered(parameters: Parameters) -> list[np.ndarray]:
    return [parameters[k] for k in sorted(parameters)]


class _Client(NumPyClient):
    """A site."""

    def __init__(self, site: Site, study: Study):
        self.site, self.study = site, study

    def fit(self, parameters, config):  # noqa: ANN001, ANN201
        """A round. No metrics go with the update: they would not be masked."""
        p = _named(parameters, config["names"].split(","))
        trained, slides, _ = task.train_round(self.site, self.study, p, config["round"])
        return _ordered(trained), slides, {}

    def evaluate(self, parameters, config):  # noqa: ANN001, ANN201
        """The global model on the split `val`."""
        slides, metrics = task.validate(self.site, self.study, _named(parameters, config["names"].split(",")))
        return metrics.get("loss", 0.0), slides, {"site": self.site.name, **metrics}


def client(find: Callable[[Context], Site]) -> ClientApp:
    """The site's side of `rounds`, for messages of the older form."""
    return ClientApp(lambda context: _Client(find(context), Study.of(context.run_config)).to_client())


def rounds(
    grid: Grid,
    context: Context,
    study: Study,
    initial: Parameters,
    slides: int,
    on_round: Callable[[int, Parameters], None],
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
            on_round(server_round, _named(parameters_to_ndarrays(tensors), names))
            return tensors, metrics

        def aggregate_evaluate(self, server_round, results, failures):  # noqa: ANN001, ANN201
            if failures:
                raise RuntimeError(f"round {server_round}: {len(failures)} sites failed: {failures[0]}")
            for _, result in results:
                metrics = dict(result.metrics)
                task.tell(server_round, str(metrics.pop("site")), result.num_examples, metrics)
            return None, {}

    strategy = Strategy(
        min_fit_clients=study.sites,
        min_evaluate_clients=study.sites,
        min_available_clients=study.sites,
        initial_parameters=ndarrays_to_parameters(_ordered(initial)),
        on_fit_config_fn=fit_config,
        on_evaluate_config_fn=fit_config,
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=study.rounds), strategy=strategy)
    # Every site holds a share of every other's key; all but one must be there to put one together.
    secure = SecAggPlusWorkflow(
        num_shares=study.sites, reconstruction_threshold=study.sites - 1, max_weight=float(slides)
    )
    DefaultWorkflow(fit_workflow=secure)(grid, legacy)
