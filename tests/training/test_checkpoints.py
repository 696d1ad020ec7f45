"""Training that is stopped anywhere ends with the bits of training that never was; checkpoints are whole or not there."""

import contextlib
import signal
import time

import pytest
import torch

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.reporting import Silent
from endcap.contracts.stopping import Stop, Stopped
from endcap.evaluation.metrics import RaggedSets
from endcap.training import checkpoints as module
from endcap.training import loop
from endcap.training.checkpoints import FINISHED, Checkpoints
from endcap.training.data import Catalog, questions_of
from endcap.training.epochs import Keeping
from endcap.training.loop import EvalPeriod, fit_model
from endcap.training.state import State
from endcap.training.uploads import CheckpointStore, Uploads
from endcap.workspace.locations import Location

DAY_US = 86_400_000_000
SETTINGS = {"num_epochs": 3, "checkpoint_steps": 1, "patience": 3}


class Told(Silent):
    def __init__(self):
        self.events = []

    def event(self, event, **fields):
        self.events.append((event, fields))


class StopsAt(Stop):
    """Is asked at the n-th look."""

    def __init__(self, at):
        super().__init__()
        self._left = at

    @property
    def is_requested(self):
        self._left -= 1
        if self._left == 0:
            with self.held():
                self.request()
        return super().is_requested


@pytest.fixture(scope="module")
def trained_by(question_table, product_table, fit_features, random_questions, small):
    """A function that trains on the random questions, kept as asked."""
    products, questions = product_table([100, 101, 102, 103]), question_table(random_questions)
    fitted = fit_features(questions, products.slice(36))
    numbers = {item: number for number, item in enumerate(Catalog(fitted, products).item_ids)}
    asked = random_questions[:9]
    bought = RaggedSets.from_lists([[numbers[item] for item in one.targets] for one in asked])
    earlier = RaggedSets.from_lists([[numbers[item] for item, *_ in one.history] for one in asked])
    period = EvalPeriod(questions_of(fitted, question_table(asked)), bought, earlier, 103)

    def train(keeping=None, *, measured=True, model=None, **training):
        return fit_model(
            small(model=model, **(SETTINGS | training)), fitted, Catalog(fitted, products), questions_of(fitted, questions),
            103 * DAY_US, Silent(), period if measured else None, keeping=keeping,
        )  # fmt: skip

    return train


@pytest.fixture
def kept(small, tmp_path):
    """A function that gives the checkpoints of a stage, as each start of a run has them."""

    def checkpoints(report=None, uploads=None, **training):
        settings = small(**(SETTINGS | training)).training
        return Checkpoints(tmp_path / "run", "tune", settings, report or Silent(), uploads)

    return checkpoints


def outcome(trained):
    weights = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    return trained.epochs, trained.chosen_epoch, weights


def assert_same(found, expected):
    assert found[:2] == expected[:2]
    assert found[2].keys() == expected[2].keys()
    for name, tensor in found[2].items():
        assert torch.equal(tensor, expected[2][name]), name


VARIANTS = {
    "plain": {},
    "members": {"model": {"num_members": 2}},
    "sparse tables, hard negatives": {"sparse_rows": 3, "whole_catalog": 0, "num_hard": 2, "negatives": "mixed"},
    "no average, momentum": {"weight_average": 0.0, "optimizer": "sgd"},
    "lazy moments": {"sparse_rows": 3, "sparse_optimizer": "sparse_adam", "optimizer": "adagrad"},
    "not measured": {"measured": False},
}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_stopped_and_taken_up_again_and_again_it_ends_with_the_same_bits(variant, trained_by, kept):
    """Each start makes a step or a few; between starts nothing but the files is left."""
    how = VARIANTS[variant]
    expected = outcome(trained_by(**how))
    trained, num_starts = None, 0
    while trained is None:
        num_starts += 1
        assert num_starts < 50
        torch.manual_seed(num_starts)  # a process of its own has random streams of its own
        with contextlib.suppress(Stopped):
            trained = trained_by(Keeping(kept(), StopsAt(2 + num_starts % 3)), **how)
    assert num_starts > 3
    assert_same(outcome(trained), expected)


def test_a_signal_while_measuring_ends_it_at_once_and_measures_again(trained_by, kept, monkeypatch):
    expected = outcome(trained_by())
    stop, measure = Stop(), loop.evaluate_model
    asked = []

    def evaluate(model, catalog, period):
        if len(asked) == 1:
            asked.append("interrupted")
            stop.request(signal.SIGINT)
        asked.append("measured")
        return measure(model, catalog, period)

    monkeypatch.setattr(loop, "evaluate_model", evaluate)
    with pytest.raises(Stopped) as stopped:
        trained_by(Keeping(kept(), stop))
    assert stopped.value.exit_code == 130
    assert asked == ["measured", "interrupted"]
    assert_same(outcome(trained_by(Keeping(kept()))), expected)
    assert asked.count("measured") == 3  # one epoch each: the first was not measured again


def test_a_stage_that_is_finished_is_not_trained_again(trained_by, kept, tmp_path, monkeypatch):
    expected = outcome(trained_by(Keeping(kept())))
    assert [path.name for path in (tmp_path / "run" / "tune").iterdir()] == [FINISHED]
    monkeypatch.setattr(loop, "evaluate_model", None)
    assert_same(outcome(trained_by(Keeping(kept()))), expected)


def cut_short(trained_by, kept, at=9):
    with pytest.raises(Stopped):
        trained_by(Keeping(kept(), StopsAt(at)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


DAMAGE = {
    "a bit flipped": lambda folder: _flip(folder / "tensors.safetensors"),
    "cut short": lambda folder: (folder / "values.json").write_bytes(b'{"losses"'),
    "a file gone": lambda folder: (folder / "tensors.safetensors").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
}


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_checkpoint_is_left_out_for_the_one_before(damage, trained_by, kept, tmp_path):
    expected = outcome(trained_by())
    cut_short(trained_by, kept)
    folder = tmp_path / "run" / "tune"
    newest, before = sorted(folder.iterdir())[-1], sorted(folder.iterdir())[-2]
    DAMAGE[damage](newest)
    told = Told()
    assert_same(outcome(trained_by(Keeping(kept(told)))), expected)
    assert (damage == "no manifest") != ("a damaged checkpoint was left out" in [event for event, _ in told.events])
    assert [fields["checkpoint"] for event, fields in told.events if event.startswith("going on")] == [before]


def test_a_process_that_dies_while_it_writes_leaves_the_one_before(trained_by, kept, tmp_path, monkeypatch):
    expected = outcome(trained_by())

    def dying(path, value):
        raise KeyboardInterrupt

    cut_short(trained_by, kept)
    before = names(tmp_path / "run" / "tune")
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_json", dying)
        with pytest.raises(KeyboardInterrupt):
            trained_by(Keeping(kept()))
    assert names(tmp_path / "run" / "tune") == before
    (tmp_path / "run" / "tune" / ".0000000099-0000.x.tmp").mkdir()  # as SIGKILL leaves it
    assert_same(outcome(trained_by(Keeping(kept()))), expected)
    assert names(tmp_path / "run" / "tune") == [FINISHED]


def test_other_data_or_settings_are_refused(trained_by, kept):
    cut_short(trained_by, kept)
    with pytest.raises(InputError, match="on other data or with another configuration"):
        trained_by(Keeping(kept()), learning_rate=0.01)
    trained_by(Keeping(kept()), checkpoint_minutes=1.0, num_checkpoints=5)  # how it is kept may change


def test_a_full_disk_is_told_and_training_goes_on(trained_by, kept, monkeypatch):
    def full(tensors, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    told = Told()
    assert_same(outcome(trained_by(Keeping(kept(told)))), outcome(trained_by()))
    assert {event for event, _ in told.events} == {"a checkpoint could not be written; training goes on"}


def write(checkpoints, step, num_epochs=0, value=None):
    checkpoints.write(step, num_epochs, State({"x": torch.ones(3)}, {}), "key", value)


def test_the_last_few_and_the_best_are_kept_also_by_the_next_start(kept, tmp_path):
    first = kept()
    write(first, 5, 1, 0.3)
    write(first, 10, 2, 0.4)
    write(first, 15, 3, 0.2)
    for step in (16, 17):
        write(first, step, 3)
    assert names(tmp_path / "run" / "tune") == ["0000000010-0002", "0000000016-0003", "0000000017-0003"]
    second = kept(num_checkpoints=1)
    assert second.latest("key").tensors["x"].tolist() == [1, 1, 1]
    for step in (18, 19):
        write(second, step, 3)
    assert names(tmp_path / "run" / "tune") == ["0000000010-0002", "0000000019-0003"]


def test_they_are_due_by_steps_by_time_and_at_the_ends_of_epochs_but_take_a_fiftieth_of_the_time_at_most(
    kept, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    by_time = kept(checkpoint_steps=0, checkpoint_minutes=2.0)
    assert not by_time.is_due(10)
    assert by_time.is_due(10, epoch_ended=True)
    now[0] += 120
    assert by_time.is_due(10)

    def slow(tensors, path):
        now[0] += 4.0
        torch_save(tensors, path)

    torch_save = module.save_file
    monkeypatch.setattr(module, "save_file", slow)
    write(by_time, 10)
    assert by_time.seconds == 4.0
    now[0] += 199
    assert not by_time.is_due(20)
    assert not by_time.is_due(20, epoch_ended=True)
    now[0] += 1
    assert by_time.is_due(20)
    by_steps = kept(checkpoint_steps=7)
    write(by_steps, 10)
    assert [by_steps.is_due(step) for step in (16, 17)] == [False, True]


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(Location.parse(tmp_path / "bucket"))


def test_a_machine_that_vanished_is_gone_on_from_by_the_copies(trained_by, kept, store, tmp_path):
    expected = outcome(trained_by())
    with pytest.raises(Stopped):
        trained_by(Keeping(kept(uploads=Uploads(store, Silent())), StopsAt(9)))
    copied = store.names("tune")
    assert set(names(tmp_path / "run" / "tune")) >= set(copied) == set(names(tmp_path / "bucket" / "tune"))
    (tmp_path / "run").rename(tmp_path / "vanished")
    _flip(tmp_path / "bucket" / "tune" / copied[-1] / "tensors.safetensors")
    half = tmp_path / "bucket" / "tune" / "0000000001-0000" / "tensors.safetensors"  # its upload failed
    half.parent.mkdir()
    half.touch()
    told, uploads = Told(), Uploads(store, Silent())
    assert_same(outcome(trained_by(Keeping(kept(told, uploads)))), expected)
    uploads.wait()
    assert [event for event, _ in told.events] == ["a damaged checkpoint was left out", "going on from a checkpoint"]
    assert store.names("tune") == store.begun("tune") == [FINISHED]


def test_a_store_that_fails_is_told_and_training_goes_on(trained_by, kept, store, monkeypatch):
    def failing(folder, stage):
        raise ConnectionError("the network is gone")

    monkeypatch.setattr(store, "publish", failing)
    told = Told()
    uploads = Uploads(store, told)
    expected = outcome(trained_by())
    assert_same(outcome(trained_by(Keeping(kept(uploads=uploads)))), expected)
    uploads.wait()
    assert {event for event, _ in told.events} == {"a checkpoint could not be uploaded; training goes on"}


def test_a_checkpoint_of_another_model_is_refused(trained_by, kept, monkeypatch):
    monkeypatch.setattr(loop, "key_of", lambda *_: "the same")
    cut_short(trained_by, kept)
    with pytest.raises(ArtifactError, match="written by another configuration or other data"):
        trained_by(Keeping(kept()), model={"output_embedding_dim": 9})
