"""NVIDIA FLARE, in the middle: pre-flight, then FLARE's own FedAvg, weighted by slides; saves the global model."""

import json
from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.fedavg import FedAvg

from fedmil import preflight, task
from fedmil.flare import messages


class SiteFedAvg(FedAvg):
    """FedAvg that asks all sites for their manifests first. The model is saved in the job's run folder."""

    def __init__(self, study: dict, save_to: str = "global-model.safetensors"):
        # FLARE writes a component's arguments into the job by these names.
        self.study, self.save_to = study, save_to
        self._study = task.Study.of(study)
        super().__init__(num_clients=self._study.sites, num_rounds=self._study.rounds, persistor_id="")
        self._entries: list[dict] = []

    def run(self) -> None:
        """A whole study, or a panic that says why there is none."""
        if self._study.secure_aggregation:
            self.panic("study: secure-aggregation is Flower's; FLARE has homomorphic encryption in its place")
            return
        question = FLModel(params=messages.pack({"study": json.dumps(self._study.config())}), current_round=0)
        replies = self.send_model_and_wait(task_name="train", data=question, timeout=preflight.ANSWER_SECONDS)
        answers = [messages.unpack(reply.params) for reply in replies]
        try:
            self._entries = preflight.admit(self._study, *preflight.by_site(answers))
        except preflight.Refused as refused:
            self.panic(str(refused))
            return
        super().run()
        # The clients measure a model when they get it to train on; the last one they get to measure only.
        for result in self.send_model_and_wait(task_name="train", data=self._last):
            self._tell(self.num_rounds, result)

    def load_model(self) -> FLModel:
        """The model before the first round: FLARE has no file of it, it depends on the sites' encoder."""
        initial = self._study.initial(self._entries[0]["contract"]["encoder"]["dim"])
        return FLModel(params_type=ParamsType.FULL, params=initial)

    def save_model(self, model: FLModel) -> None:
        """After each round."""
        parameters = {k: np.asarray(v, np.float32) for k, v in model.params.items()}
        task.save(Path(self.get_run_dir()) / self.save_to, parameters, self._study, self._entries)
        self._last = FLModel(
            params_type=ParamsType.FULL, params=parameters, current_round=self.num_rounds, total_rounds=self.num_rounds
        )
        self.info(f"round {self.current_round + 1} of {self.num_rounds}: global model saved")

    def _aggregate_one_result(self, result: FLModel) -> bool:
        # What came was measured with the model as the round began, that is, after the round before.
        self._tell(self.current_round, result)
        return super()._aggregate_one_result(result)

    def _tell(self, round_: int, result: FLModel) -> None:
        metrics = dict(result.metrics or {})
        slides = int(metrics.pop("validated-slides", 0))
        task.tell(round_, str(result.meta.get("client_name")), slides, metrics)
