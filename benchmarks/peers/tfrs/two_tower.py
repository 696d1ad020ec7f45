"""Interactions and products as Parquet in, what TensorFlow Recommenders' two towers took and reached out, as JSON.

Written to be fast: preprocessing layers see each row once and each product once, batches are gathered from tensors in
memory, factorized metrics are off while training, and many steps run in one call.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_recommenders as tfrs

LEARNING_RATE, TOP, AT_ONCE, NUM_EPOCHS = 0.1, 100, 1 << 16, 2
TENSORS = ("user", "country", "numbers", "bucket", "item")


class Preprocessing:
    """Layers adapted to the training rows, and what they make of rows and products."""

    def __init__(self, rows: dict[str, np.ndarray], products: dict[str, np.ndarray]) -> None:
        layers = tf.keras.layers
        days = rows["days"]
        self.user = _adapted(layers.StringLookup(), rows["user_id"])
        self.country = _adapted(layers.StringLookup(), rows["country"])
        self.days = _adapted(layers.Normalization(axis=None), np.log1p(days[~np.isnan(days)]))
        self.counts = _adapted(layers.Normalization(axis=None), np.log1p(rows["num_products"]))
        self.count_buckets = _adapted(layers.Discretization(num_bins=16), rows["num_products"])
        self.item = _adapted(layers.StringLookup(), products["item_id"])
        self.title = _adapted(layers.TextVectorization(max_tokens=10_000), products["title"])
        self.price = _adapted(layers.Discretization(num_bins=16), products["price"])

    def of_rows(self, rows: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
        """Every row once, some at a time and in parallel, into tensors that stay in memory."""
        batches = tf.data.Dataset.from_tensor_slices(_slices(rows)).map(self._row, num_parallel_calls=tf.data.AUTOTUNE)
        parts = list(batches)
        rest = len(rows["days"]) // AT_ONCE * AT_ONCE
        if rest < len(rows["days"]):
            parts.append(self._row({name: tf.constant(values[rest:]) for name, values in rows.items()}))
        return {name: tf.concat([part[name] for part in parts], 0) for name in TENSORS}

    @tf.function(reduce_retracing=True)
    def _row(self, rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        seconds = rows["event_time_us"] // 1_000_000
        turn = [tf.cast(seconds % length, tf.float32) / length for length in (86_400, 7 * 86_400)]
        days = self.days(tf.math.log1p(rows["days"]))
        numbers = [tf.where(tf.math.is_nan(days), 0.0, days), self.counts(tf.math.log1p(rows["num_products"]))]
        for part in turn:
            numbers += [tf.sin(2 * np.pi * part), tf.cos(2 * np.pi * part)]
        return {
            "user": self.user(rows["user_id"]),
            "country": self.country(rows["country"]),
            "numbers": tf.stack(numbers, 1),
            "bucket": self.count_buckets(rows["num_products"]),
            "item": self.item(rows["item_id"]),
        }


def _adapted(layer, values: np.ndarray):  # noqa: ANN001, ANN202
    """All values as one batch: an array alone would be taken 32 at a time."""
    layer.adapt(tf.data.Dataset.from_tensors(values))
    return layer


def _slices(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    whole = len(rows["days"]) // AT_ONCE
    return {name: values[: whole * AT_ONCE].reshape(whole, AT_ONCE) for name, values in rows.items()}


class TwoTower(tfrs.Model):
    """Query: embeddings and numbers through dense layers. Product: id vector plus a projection of title and price."""

    def __init__(self, layers: Preprocessing, products: dict[str, np.ndarray], share: tf.Tensor) -> None:
        super().__init__()
        embed, dense = tf.keras.layers.Embedding, tf.keras.layers.Dense
        self.users, self.countries = (
            embed(layers.user.vocabulary_size(), 32),
            embed(layers.country.vocabulary_size(), 8),
        )
        self.counts = embed(17, 8)
        self.query_layers = tf.keras.Sequential([dense(64, "relu"), dense(32)])
        self.items, self.prices = embed(layers.item.vocabulary_size(), 32), embed(17, 8)
        self.words = embed(layers.title.vocabulary_size(), 32)
        self.described, self.bias = dense(32), embed(layers.item.vocabulary_size(), 1, "zeros")
        # Row 0 is the unknown product; the vocabulary is in the order that the lookup gives.
        order = layers.item(products["item_id"]).numpy()
        self.titles = tf.constant(_by_number(layers.title(products["title"]).numpy(), order))
        self.buckets = tf.constant(_by_number(layers.price(products["price"]).numpy(), order))
        self.share = share
        self.task = tfrs.tasks.Retrieval(remove_accidental_hits=True)

    def query(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Query vectors, without the dimension that meets the bias."""
        parts = [self.users(features["user"]), self.countries(features["country"]), self.counts(features["bucket"])]
        return self.query_layers(tf.concat([*parts, features["numbers"]], 1))

    def product(self, item: tf.Tensor) -> tf.Tensor:
        """Product vectors, without the bias."""
        words = tf.gather(self.titles, item)
        known = tf.cast(words > 0, tf.float32)[:, :, tf.newaxis]
        title = tf.reduce_sum(self.words(words) * known, 1) / tf.maximum(tf.reduce_sum(known, 1), 1.0)
        return self.items(item) + self.described(tf.concat([title, self.prices(tf.gather(self.buckets, item))], 1))

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:  # noqa: ARG002 (as Keras calls it)
        """In-batch softmax, corrected by how likely a product is to be in a batch, accidental hits left out."""
        item = features["item"]
        # The bias of a product as one more dimension that meets a 1, as in the peer.
        query = self.query(features)
        query = tf.concat([query, tf.ones_like(query[:, :1])], 1)
        product = tf.concat([self.product(item), self.bias(item)], 1)
        return self.task(
            query, product, candidate_sampling_probability=tf.gather(self.share, item), candidate_ids=item,
            compute_metrics=False, compute_batch_metrics=False,
        )  # fmt: skip


def _by_number(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    result = np.zeros((len(values) + 1, *values.shape[1:]), values.dtype)
    result[order] = values
    return result


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """Columns as arrays that TensorFlow takes without looking at each text again."""
    table = pq.read_table(path)
    rows = {name: _bytes(table[name]) for name in ("user_id", "country", "item_id")}
    rows["event_time_us"] = table["event_time_us"].to_numpy()
    rows["days"] = table["days_since_last_purchase"].to_numpy().astype(np.float32)
    rows["num_products"] = table["num_products"].to_numpy().astype(np.float32)
    return rows


def _bytes(column) -> np.ndarray:  # noqa: ANN001
    return column.cast("binary").to_numpy(zero_copy_only=False)


def main(folder: str, batch_size: str, num_threads: str) -> None:
    """Train two epochs and print seconds to the end of the first, and of the second alone."""
    tf.config.threading.set_intra_op_parallelism_threads(int(num_threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(num_threads))
    tf.keras.utils.set_random_seed(7)
    size = int(batch_size)
    started = time.perf_counter()
    rows = read_rows(Path(folder) / "interactions.parquet")
    table = pq.read_table(Path(folder) / "products.parquet")
    products = {name: _bytes(table[name]) for name in ("item_id", "title")}
    products["price"] = table["price"].to_numpy().astype(np.float32)
    layers = Preprocessing(rows, products)
    tensors = layers.of_rows(rows)
    num_rows = len(rows["days"])
    counts = tf.math.bincount(tf.cast(tensors["item"], tf.int32), minlength=layers.item.vocabulary_size())
    chance = -tf.math.expm1(size * tf.math.log1p(-tf.cast(counts, tf.float64) / num_rows))
    model = TwoTower(layers, products, tf.cast(chance, tf.float32))
    model.compile(
        optimizer=tf.keras.optimizers.Adagrad(LEARNING_RATE, initial_accumulator_value=1e-10), steps_per_execution=8
    )
    num_steps = num_rows // size
    moments = [time.perf_counter()]

    def batch(places: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.gather(values, places) for name, values in tensors.items()}

    for epoch in range(NUM_EPOCHS):
        places = np.random.default_rng(epoch).permutation(num_rows)[: num_steps * size].reshape(num_steps, size)
        batches = tf.data.Dataset.from_tensor_slices(places).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
        history = model.fit(batches.prefetch(tf.data.AUTOTUNE), epochs=1, verbose=0)
        moments.append(time.perf_counter())
    result = {
        "transforms_seconds": moments[0] - started,
        "compute_seconds": moments[2] - moments[1],
        "num_steps": num_steps,
        "recall_at_100": recall(model, layers.of_rows(read_rows(Path(folder) / "held_out.parquet"))),
        "loss": float(history.history["loss"][-1]) / size,
    }
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"seconds": moments[1] - started, "peak_mib": peak_mib, "result": result}))


def recall(model: TwoTower, tensors: dict[str, tf.Tensor]) -> float:
    """Share of held-out purchases whose product stands among the first hundred; products unknown to training miss."""
    every = tf.range(model.items.input_dim, dtype=tf.int64)
    product, bias = model.product(every), model.bias(every)[:, 0]
    item, found = tensors["item"].numpy(), 0
    for start in range(0, len(item), 512):
        part = {name: values[start : start + 512] for name, values in tensors.items()}
        scores = tf.linalg.matmul(model.query(part), product, transpose_b=True) + bias
        best = tf.math.top_k(scores[:, 1:], TOP).indices.numpy() + 1
        found += int((best == item[start : start + 512, None]).sum())
    return found / len(item)


if __name__ == "__main__":
    main(*sys.argv[1:])
