"""Vertex AI's metadata and TensorBoard services in memory, behind gRPC: the client's own messages in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.aiplatform_v1 import types
from google.longrunning.operations_pb2 import Operation

METADATA = "google.cloud.aiplatform.v1.MetadataService"
TENSORBOARD = "google.cloud.aiplatform.v1.TensorboardService"


@dataclass
class VertexService:
    """What was asked, and what stands there now, by resource name."""

    calls: list[str] = field(default_factory=list)
    there: dict[str, Any] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    """Contexts, artifacts and executions of a context; artifacts of an execution."""
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Points of a time series, by its display name."""
    is_down: bool = False

    def get(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.name not in self.there:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")
        return self.there[request.name]

    def create(self, kind: str, plural: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def made(request: Any, context: grpc.ServicerContext) -> Any:
            value = getattr(request, kind)
            given = getattr(request, f"{kind}_id", "") or f"made-{len(self.there)}"
            name = f"{request.parent}/{plural}/{given}"
            if name in self.there:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{name} exists already")
            value.name = name
            self.there[name] = value
            return value

        return made

    def update(self, kind: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def changed(request: Any, context: grpc.ServicerContext) -> Any:
            value = getattr(request, kind)
            if value.name not in self.there:
                context.abort(grpc.StatusCode.NOT_FOUND, f"{value.name} not found")
            self.there[value.name] = value
            return value

        return changed

    def create_store(self, request: types.CreateMetadataStoreRequest, context: grpc.ServicerContext) -> Operation:
        name = f"{request.parent}/metadataStores/{request.metadata_store_id}"
        store = self.there[name] = types.MetadataStore(name=name)
        done = Operation(name=f"{name}/operations/1", done=True)
        done.response.Pack(types.MetadataStore.pb(store))
        return done

    def add_children(self, request: types.AddContextChildrenRequest, context: grpc.ServicerContext) -> Any:
        self.members.setdefault(request.context, []).extend(request.child_contexts)
        return types.AddContextChildrenResponse()

    def add_members(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.members.setdefault(request.context, []).extend([*request.artifacts, *request.executions])
        return types.AddContextArtifactsAndExecutionsResponse()

    def add_events(self, request: types.AddExecutionEventsRequest, context: grpc.ServicerContext) -> Any:
        self.members.setdefault(request.execution, []).extend(event.artifact for event in request.events)
        return types.AddExecutionEventsResponse()

    def list_series(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = [one for name, one in self.there.items() if name.startswith(f"{request.parent}/timeSeries/")]
        return types.ListTensorboardTimeSeriesResponse(tensorboard_time_series=found)

    def write(self, request: types.WriteTensorboardRunDataRequest, context: grpc.ServicerContext) -> Any:
        for data in request.time_series_data:
            series = self.there[f"{request.tensorboard_run}/timeSeries/{data.tensorboard_time_series_id}"]
            points = [(one.step, one.scalar.value) for one in data.values]
            self.scalars.setdefault(series.display_name, []).extend(points)
        return types.WriteTensorboardRunDataResponse()

    def answers(self) -> dict[str, dict[str, tuple[Callable[..., Any], Any]]]:
        """Of each service its methods: what answers, and what is asked."""
        t = types
        return {
            METADATA: {
                "GetMetadataStore": (self.get, t.GetMetadataStoreRequest),
                "CreateMetadataStore": (self.create_store, t.CreateMetadataStoreRequest),
                "GetContext": (self.get, t.GetContextRequest),
                "CreateContext": (self.create("context", "contexts"), t.CreateContextRequest),
                "UpdateContext": (self.update("context"), t.UpdateContextRequest),
                "AddContextChildren": (self.add_children, t.AddContextChildrenRequest),
                "AddContextArtifactsAndExecutions": (self.add_members, t.AddContextArtifactsAndExecutionsRequest),
                "GetArtifact": (self.get, t.GetArtifactRequest),
                "CreateArtifact": (self.create("artifact", "artifacts"), t.CreateArtifactRequest),
                "GetExecution": (self.get, t.GetExecutionRequest),
                "CreateExecution": (self.create("execution", "executions"), t.CreateExecutionRequest),
                "UpdateExecution": (self.update("execution"), t.UpdateExecutionRequest),
                "AddExecutionEvents": (self.add_events, t.AddExecutionEventsRequest),
            },
            TENSORBOARD: {
                "GetTensorboard": (self.get, t.GetTensorboardRequest),
                "GetTensorboardExperiment": (self.get, t.GetTensorboardExperimentRequest),
                "CreateTensorboardExperiment": (
                    self.create("tensorboard_experiment", "experiments"), t.CreateTensorboardExperimentRequest,
                ),
                "GetTensorboardRun": (self.get, t.GetTensorboardRunRequest),
                "CreateTensorboardRun": (self.create("tensorboard_run", "runs"), t.CreateTensorboardRunRequest),
                "CreateTensorboardTimeSeries": (
                    self.create("tensorboard_time_series", "timeSeries"), t.CreateTensorboardTimeSeriesRequest,
                ),
                "ListTensorboardTimeSeries": (self.list_series, t.ListTensorboardTimeSeriesRequest),
                "WriteTensorboardRunData": (self.write, t.WriteTensorboardRunDataRequest),
            },
        }  # fmt: skip


@contextmanager
def serving(service: VertexService) -> Iterator[str]:
    """The service's address, while it runs."""
    server = grpc.server(ThreadPoolExecutor(2))
    for name, methods in service.answers().items():
        handlers = {method: _handler(service, method, *found) for method, found in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _handler(service: VertexService, method: str, answer: Callable[..., Any], asked: Any) -> grpc.RpcMethodHandler:
    def answered(request: Any, context: grpc.ServicerContext) -> Any:
        service.calls.append(method)
        if service.is_down:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the API is switched off in this project")
        return answer(request, context)

    def serialized(value: Any) -> bytes:
        return value.SerializeToString() if isinstance(value, Operation) else type(value).serialize(value)

    return grpc.unary_unary_rpc_method_handler(
        answered, request_deserializer=asked.deserialize, response_serializer=serialized
    )
