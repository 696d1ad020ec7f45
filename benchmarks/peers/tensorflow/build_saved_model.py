"""The weights of the synthetic model in (`.npz`), a TensorFlow SavedModel that retrieves with them out."""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf


class Retriever(tf.Module):
    """Query tower with string lookups inside, and exact top-k over all candidates."""

    def __init__(self, weights: dict[str, np.ndarray], top_k: int) -> None:
        super().__init__()
        self._top_k = top_k
        self._customers = tf.keras.layers.StringLookup(vocabulary=weights["customers"].tolist(), num_oov_indices=1)
        self._cities = tf.keras.layers.StringLookup(vocabulary=weights["cities"].tolist(), num_oov_indices=1)
        self._item_ids = tf.Variable(weights["item_ids"].tolist(), trainable=False, dtype=tf.string)
        self._age_bounds = weights["age_bounds"].tolist()
        self._age_mean, self._age_std = (float(value) for value in weights["age_mean_std"])
        names = ["customer_table", "city_table", "age_table", "candidates"]
        names += [name for name in weights if name.startswith(("kernel_", "bias_"))]
        self._tensors = {name: tf.Variable(weights[name], trainable=False) for name in names}
        self._num_layers = sum(name.startswith("kernel_") for name in names)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="customer_id"),
            tf.TensorSpec([None], tf.string, name="city"),
            tf.TensorSpec([None], tf.float32, name="age"),
        ]
    )
    def serve(self, customer_id: tf.Tensor, city: tf.Tensor, age: tf.Tensor) -> dict[str, tf.Tensor]:
        """The top products of each customer."""
        tensors = self._tensors
        bucket = tf.raw_ops.Bucketize(input=age, boundaries=self._age_bounds)
        hidden = tf.concat(
            [
                tf.gather(tensors["customer_table"], self._customers(customer_id)),
                tf.gather(tensors["city_table"], self._cities(city)),
                tf.gather(tensors["age_table"], bucket),
                tf.expand_dims((age - self._age_mean) / self._age_std, 1),
            ],
            axis=1,
        )
        for layer in range(self._num_layers):
            hidden = tf.matmul(hidden, tensors[f"kernel_{layer}"]) + tensors[f"bias_{layer}"]
            if layer < self._num_layers - 1:
                hidden = tf.nn.relu(hidden)
        scores = tf.matmul(hidden, tensors["candidates"], transpose_b=True)
        top_scores, rows = tf.math.top_k(scores, k=self._top_k)
        return {"product_ids": tf.gather(self._item_ids, rows), "scores": top_scores}


def main() -> None:
    """Arguments: weights file, folder to write, k."""
    weights_path, folder, top_k = sys.argv[1:]
    with np.load(weights_path, allow_pickle=False) as weights:
        retriever = Retriever(dict(weights), int(top_k))
    tf.saved_model.save(retriever, folder, signatures={"serving_default": retriever.serve})


if __name__ == "__main__":
    main()
