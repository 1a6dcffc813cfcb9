"""MLflow: a run for each prompt, where `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` say."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from softprompt.training.member import Member

EXPERIMENT = "softprompt"
"""The experiment, unless `MLFLOW_EXPERIMENT_NAME` names another."""

RUN = "softprompt.run"
"""The tag that says which run of ours it is: one that was killed goes on in it."""

_LONGEST = 500


class MLflow:
    """Numbers, parameters and outcomes of runs on an MLflow server, or in a local store of it."""

    name = "mlflow"

    def __init__(self) -> None:
        self._client = MlflowClient()
        self._runs: dict[Member, str] = {}

    def start(self, member: Member) -> bool:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        known = self._client.search_runs([experiment], f"tags.`{RUN}` = '{member.id}'")
        if known:
            self._runs[member] = known[0].info.run_id
            self._client.update_run(self._runs[member], status="RUNNING")
            return True
        tags = {"mlflow.runName": member.task.name, RUN: member.id}
        self._runs[member] = self._client.create_run(experiment, tags=tags).info.run_id
        said = member.run.config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        params = [Param(name, str(value)[:_LONGEST]) for name, value in said.items() if not isinstance(value, dict)]
        self._client.log_batch(self._runs[member], params=params)
        return False

    def log(self, member: Member, step: int, values: Mapping[str, float]) -> None:
        at = int(time.time() * 1000)
        metrics = [Metric(name, value, at, step) for name, value in values.items()]
        if metrics:
            self._client.log_batch(self._runs[member], metrics=metrics)

    def end(self, member: Member, status: str, said: Mapping[str, str]) -> None:
        run = self._runs.pop(member)
        for name, value in said.items():
            self._client.set_tag(run, f"softprompt.{name}", value)
        self._client.set_terminated(run, status)

    def close(self) -> None:
        return
