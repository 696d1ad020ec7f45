"""Members with their trainers in, epochs out that can be left after any step and taken up again to the last bit."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from endcap.contracts.configuration import Configuration
from endcap.contracts.reporting import Reporter
from endcap.contracts.stopping import Stop, Stopped
from endcap.features.fitted import FittedFeatures
from endcap.training import state
from endcap.training.checkpoints import Checkpoints
from endcap.training.data import Catalog, Questions
from endcap.training.distributed import ranks
from endcap.training.rating_data import Rated
from endcap.training.state import State
from endcap.training.trainer import Trainer

CHOSEN_BY: Final = "chosen_by"
"""What chooses the epoch, the higher the better."""

_MEMBERS: Final = "members."
_SETTINGS_OF_CHECKPOINTS: Final = {"checkpoint_minutes", "checkpoint_steps", "num_checkpoints"}


@dataclass(frozen=True)
class EpochRecord:
    """One pass: its mean loss, and the eval metrics after it (empty when there was no eval)."""

    epoch: int
    loss: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Keeping:
    """How a stage of training is kept and stopped."""

    checkpoints: Checkpoints | None = None
    stop: Stop = field(default_factory=Stop)


@dataclass
class _Best:
    value: float = -math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Epochs:
    """Epochs of all members, the metrics after each, and the weights of the best."""

    def __init__(
        self,
        model: nn.Module,
        trainers: Sequence[Trainer],
        last_epoch: int,
        stage: str,
        report: Reporter,
        keeping: Keeping,
        key: str,
    ) -> None:
        """`model` holds the members' averages; `stage` names the progress bar; `key` is what checkpoints must agree on."""
        self._model, self._trainers, self._last_epoch = model, trainers, last_epoch
        self._stage, self._report = stage, report
        self._checkpoints, self._stop, self._key = keeping.checkpoints, keeping.stop, key
        self._ranks = ranks()
        self.records: list[EpochRecord] = []
        self._losses: list[float] = []
        self._best = _Best()
        self.chosen_epoch = 0
        """Of which the model's weights are, once all is done."""

    def run(self, measure: Callable[[], dict[str, float]] | None, patience: int) -> None:
        """Train to the end, from where the newest checkpoint stands; the model then has the chosen weights.

        With `measure` the epoch with the highest `CHOSEN_BY` is chosen, and training stops after `patience` epochs
        without a better one; without, it is the last. Asked to stop, it ends the step, writes a checkpoint and raises
        Stopped.
        """
        with self._stop.held():
            if not self._take_up():
                while not self._is_over(measure is not None, patience):
                    self._train_epoch()
                    self._after_epoch(self._record(self._measured(measure)))
                self._finish(measure is not None)

    def _is_over(self, is_measured: bool, patience: int) -> bool:
        done = len(self.records)
        return done == self._last_epoch or (is_measured and done > 0 and done - self._best.epoch >= patience)

    def _train_epoch(self) -> None:
        num, epoch = len(self._trainers), len(self.records) + 1
        for place in range(len(self._losses), num):
            passes = (epoch - 1) * num + place
            told = f"epoch {epoch}" + (f", member {place + 1} of {num}" if num > 1 else "")

            def heard(done: int, total: int, note: str, passes: int = passes, told: str = told) -> None:
                whole = self._last_epoch * num * total
                self._report.progress(self._stage, passes * total + done, whole, f"{told}  {note}")

            self._losses.append(self._trainers[place].run_epoch(heard, self._after_step))

    def _measured(self, measure: Callable[[], dict[str, float]] | None) -> dict[str, float]:
        if measure is None:
            return {}
        if not self._ranks.is_alone:  # all or none are stopped, and the first's metrics count
            metrics = self._ranks.tell(measure())
            self._stop_together()
            return metrics
        try:
            with self._stop.released():
                return measure()
        except Stopped:
            self._leave()
            raise

    def _record(self, metrics: dict[str, float]) -> float | None:
        """What the epoch is chosen by; None where nothing is measured."""
        epoch = len(self.records) + 1
        chosen_by = metrics.pop(CHOSEN_BY, None)
        record = EpochRecord(epoch, sum(self._losses) / len(self._trainers), metrics)
        self._losses = []
        self.records.append(record)
        if chosen_by is not None and chosen_by > self._best.value:
            self._best = _Best(chosen_by, epoch, {name: x.clone() for name, x in self._weights().items()})
        self._report.metric(epoch, "loss", record.loss)
        for name, value in metrics.items():
            self._report.metric(epoch, name, value)
        if chosen_by is not None:
            self._report.metric(epoch, CHOSEN_BY, chosen_by)
        return chosen_by

    def _after_step(self) -> None:
        self._stop_together()
        if self._checkpoints is not None and self._checkpoints.is_due(self._step):
            self._write()

    def _stop_together(self) -> None:
        """Leave where any process was asked to end: all at the same step."""
        if self._ranks.any(self._stop.is_requested):
            self._stop.request()
            self._leave()

    def _after_epoch(self, value: float | None) -> None:
        if self._checkpoints is not None and self._checkpoints.is_due(self._step, epoch_ended=True):
            self._write(value)

    def _leave(self) -> None:
        self._write()
        if self._checkpoints is not None:
            self._checkpoints.flush()
        self._ranks.wait()  # one that is gone would take the first along while it writes
        self._stop.check()

    def _write(self, value: float | None = None) -> None:
        if self._checkpoints is not None:
            self._checkpoints.write(self._step, len(self.records), self._state(), self._key, value)

    @property
    def _step(self) -> int:
        return sum(len(trainer.losses) for trainer in self._trainers)

    def _weights(self) -> dict[str, Tensor]:
        """Of the members: what was solved or counted beforehand is solved and counted again."""
        return {name: x.contiguous() for name, x in self._model.state_dict().items() if name.startswith(_MEMBERS)}

    def _state(self) -> State:
        found = State({"torch": torch.get_rng_state()}, {"is_finished": False, "losses": self._losses, **self._told()})
        for place, trainer in enumerate(self._trainers):
            found.put(f"member {place}", trainer.state())
        best = State(self._best.weights, {"epoch": self._best.epoch, "value": self._best.value})
        found.put("best", best)
        if torch.cuda.is_available():
            found.tensors |= {f"cuda {number}": x for number, x in enumerate(torch.cuda.get_rng_state_all())}
        return found

    def _told(self) -> dict[str, Any]:
        return {"epochs": [asdict(record) for record in self.records]}

    def _take_up(self) -> bool:
        """Go on from the newest checkpoint, where there is one; whether nothing is left to do."""
        found = None if self._checkpoints is None else self._checkpoints.latest(self._key)
        if not self._ranks.is_alone:
            found = state.unpacked(self._ranks.tell_bytes(state.packed(found)))
        if found is None:
            return False
        self.records = [EpochRecord(**record) for record in found.values["epochs"]]
        if found.values["is_finished"]:
            state.restore_module(self._model, found.part("weights"))
            self.chosen_epoch = int(found.values["chosen_epoch"])
            return True
        self._losses = list(found.values["losses"])
        for place, trainer in enumerate(self._trainers):
            trainer.restore(found.part(f"member {place}"))
        best = found.part("best")
        self._best = _Best(float(best.values["value"]), int(best.values["epoch"]), best.tensors)
        torch.set_rng_state(found.tensors["torch"])
        devices = [name for name in found.tensors if name.startswith("cuda ")]
        if devices and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([found.tensors[name] for name in sorted(devices)])
        return False

    def _finish(self, is_measured: bool) -> None:
        self.chosen_epoch = len(self.records)
        if is_measured:
            self.chosen_epoch = self._best.epoch
            state.restore_module(self._model, State(self._best.weights))
        if self._checkpoints is None:
            return
        done = State({}, {"is_finished": True, "chosen_epoch": self.chosen_epoch, **self._told()})
        done.put("weights", State(self._weights()))
        self._checkpoints.finish(self._step, len(self.records), done, self._key)


def key_of(
    configuration: Configuration,
    fitted: FittedFeatures,
    catalog: Catalog,
    questions: Questions,
    rated: Rated | None,
    last_epoch: int,
) -> str:
    """Digest of what is trained on and how: a checkpoint with another one can't be gone on with."""
    settings = configuration.training.model_dump(mode="json", exclude=_SETTINGS_OF_CHECKPOINTS)
    model = configuration.model.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps([configuration.seed, model, settings, last_epoch], sort_keys=True).encode())
    digest.update(msgspec.json.encode(fitted, order="deterministic"))
    digest.update(msgspec.json.encode(catalog.item_ids))
    ragged = [questions.targets, *([] if rated is None else [rated.train.item, rated.train.target])]
    for one in [questions.day, *(x for part in ragged for x in (part.offsets, part.values.numpy()))]:
        digest.update(np.ascontiguousarray(one).data)
    return digest.hexdigest()
