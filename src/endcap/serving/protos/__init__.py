"""Messages of TensorFlow Serving, of the Open Inference Protocol and of gRPC's health check in, Python classes for them out."""
