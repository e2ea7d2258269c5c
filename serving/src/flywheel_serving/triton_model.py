"""The Triton Python backend's model: one ONNX Runtime session, one thread.

This file is copied into the model repository as ``model.py`` and runs in Triton's own virtual
environment, so it imports nothing of this package. It is never imported by the gateway.
"""

import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

OUTPUT = "probability"


class TritonPythonModel:
    """Runs all requests of one dynamic batch in a single ONNX Runtime call."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the session; more than one thread only costs on small models."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")  # noqa: PTH118
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.names = [item.name for item in self.session.get_inputs()]

    def execute(self, requests: list) -> list:
        """Answer a batch of requests.

        An exception fails the whole batch with its message, which is what the caller must see.
        """
        columns = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.names
        ]
        feed = {
            name: parts[0] if len(parts) == 1 else np.concatenate(parts)
            for name, parts in zip(self.names, columns)  # noqa: B905  # same length by construction
        }
        answer = np.asarray(self.session.run([OUTPUT], feed)[0])
        responses = []
        start = 0
        for part in columns[0]:
            stop = start + part.shape[0]
            tensor = pb_utils.Tensor(OUTPUT, answer[start:stop])
            responses.append(pb_utils.InferenceResponse([tensor]))
            start = stop
        return responses
