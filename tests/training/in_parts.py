"""Tables in a folder and settings in; what a training on them came to out. One process of several, or the only one."""

import json
import sys
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from endcap.contracts.configuration import Configuration
from endcap.contracts.reporting import Silent
from endcap.contracts.stopping import Stop, Stopped
from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.target import FittedTarget
from endcap.training.checkpoints import Checkpoints
from endcap.training.data import Catalog, questions_of
from endcap.training.distributed import joined
from endcap.training.epochs import Keeping
from endcap.training.loop import fit_model
from endcap.training.rating_data import Rated, rated_questions

DAY_US = 86_400_000_000


STOPPED_AFTER = 3


def train(folder, case, report=None, keeping=None):
    """The trained weights and the losses of the epochs."""
    configuration = Configuration.model_validate(case)
    fitted = msgspec.json.decode((folder / "features.json").read_bytes(), type=FittedFeatures)
    target = msgspec.json.decode((folder / "target.json").read_bytes(), type=FittedTarget)
    lines = pq.read_table(folder / "lines.parquet")
    catalog = Catalog(fitted, pq.read_table(folder / "products.parquet"))
    rated = None
    if configuration.model.model_type != "retrieval":
        rated = Rated(rated_questions(fitted, target, lines, known_alone=True), target)
    questions = questions_of(fitted, lines)
    trained = fit_model(
        configuration,
        fitted,
        catalog,
        questions,
        104 * DAY_US,
        report or Silent(),
        None,
        2,
        rated=rated,
        keeping=keeping,
    )
    return trained.model.state_dict(), [record.loss for record in trained.epochs]


class StopsOne(Silent):
    """Asks the second process alone to end, after a few steps."""

    def __init__(self, stop, rank):
        self.stop, self.rank, self.num = stop, rank, 0

    def progress(self, stage, done, total, note=""):
        self.num += 1
        if self.rank == 1 and self.num == STOPPED_AFTER:
            self.stop.request()


def stop_and_go_on(folder, case, among):
    """Weights of a training that was stopped in its middle and taken up, and after which step all stopped."""
    settings = Configuration.model_validate(case).training

    def keeping(stop):
        kept = Checkpoints(folder / "kept", "tune", settings, Silent()) if among.is_first else None
        return Keeping(kept, stop)

    stop = Stop()
    report = StopsOne(stop, among.rank)
    try:
        train(folder, case, report, keeping(stop))
    except Stopped as stopped:
        told = [stopped.exit_code, report.num]
    return train(folder, case, keeping=keeping(Stop()))[0], told


def main(folder):
    with joined() as among:
        found = {}
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            weights, losses = train(folder, case)
            save_file(weights, folder / f"{name}.{among.rank}.safetensors")
            found[name] = losses
        cases = json.loads((folder / "cases.json").read_text())
        weights, found["stopped"] = stop_and_go_on(folder, cases["whole_catalog"], among)
        save_file(weights, folder / f"stopped.{among.rank}.safetensors")
        found["any"] = [among.any(among.rank == 1), among.any(False)]
        (folder / f"{among.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
