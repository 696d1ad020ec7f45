"""A SavedModel behind Flask, as teams without TensorFlow Serving put it: the same REST route and JSON."""

from __future__ import annotations

import os

import tensorflow as tf
from flask import Flask, Response, jsonify, request

application = Flask(__name__)
_model = tf.saved_model.load(os.environ["SAVED_MODEL"])
_serve = _model.signatures["serving_default"]


@application.get("/health")
def health() -> Response:
    """Whether the model is loaded."""
    return jsonify({"status": "ready"})


@application.post("/v1/models/recommender:predict")
def predict() -> Response:
    """Top products for each instance."""
    instances = request.get_json()["instances"]
    answer = _serve(
        customer_id=tf.constant([instance["customer_id"] for instance in instances]),
        city=tf.constant([instance["city"] for instance in instances]),
        age=tf.constant([instance["age"] for instance in instances], dtype=tf.float32),
    )
    product_ids = answer["product_ids"].numpy()
    scores = answer["scores"].numpy()
    return jsonify(
        {
            "predictions": [
                {"product_ids": [product.decode() for product in row_ids], "scores": row_scores.tolist()}
                for row_ids, row_scores in zip(product_ids, scores, strict=True)
            ]
        }
    )
