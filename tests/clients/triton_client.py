"""A REST address and a gRPC port in, what tritonclient gets there out, as JSON. Run in .venv-clients."""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http


def run(module, url):
    client = module.InferenceServerClient(url)

    def tensor(name, values, datatype):
        array = np.array(values, dtype=object if datatype == "BYTES" else None)
        made = module.InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array)
        return made

    def plain(array):
        return [[value.decode() if isinstance(value, bytes) else value for value in row] for row in array.tolist()]

    inputs = [
        tensor("user_id", [["ann"], ["Köln"]], "BYTES"),
        tensor("k", np.array([3], dtype=np.int64), "INT64"),
        tensor("exclude", ["p3"], "BYTES"),
    ]
    answer = client.infer("recommender", inputs, request_id="7")
    found = {
        "product_ids": plain(answer.as_numpy("product_ids")),
        "scores": plain(answer.as_numpy("scores")),
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("recommender", "1"),
        "other_ready": client.is_model_ready("other"),
    }
    wished = [module.InferRequestedOutput("scores")]
    only_scores = client.infer("recommender", inputs, outputs=wished, model_version="1")
    found["only_scores"] = plain(only_scores.as_numpy("scores"))
    found["no_ids"] = only_scores.as_numpy("product_ids") is None
    try:
        client.infer("recommender", [tensor("user_id", np.array([1]), "INT64")])
    except module.InferenceServerException as error:
        found["refused"] = error.message()
    return found, client


over_http, http_client = run(tritonclient.http, sys.argv[1])
over_grpc, grpc_client = run(tritonclient.grpc, f"127.0.0.1:{sys.argv[2]}")
over_http["metadata"] = http_client.get_model_metadata("recommender")
over_grpc["metadata"] = grpc_client.get_model_metadata("recommender", as_json=True)
over_http["server"] = http_client.get_server_metadata()["name"]
over_grpc["server"] = grpc_client.get_server_metadata().name

# As JSON alone, without the binary extension.
as_json = tritonclient.http.InferInput("user_id", [1], "BYTES")
as_json.set_data_from_numpy(np.array(["ann"], dtype=object), binary_data=False)
output = tritonclient.http.InferRequestedOutput("product_ids", binary_data=False)
plain_json = http_client.infer("recommender", [as_json], outputs=[output])
over_http["as_json"] = plain_json.get_output("product_ids")["data"]
print(json.dumps({"http": over_http, "grpc": over_grpc}, indent=1, sort_keys=True))
