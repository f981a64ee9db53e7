"""Asks a decoupled model for an image, and prints each response as JSON: PORT MODEL LABEL SEED PARTIAL_IMAGES."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc

port, model, label, seed, partial_images = sys.argv[1:]
client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
answers: queue.Queue = queue.Queue()
client.start_stream(lambda result, error: answers.put((result, error)))
columns = {
    "label": ("INT64", np.int64(label)),
    "seed": ("UINT64", np.uint64(seed)),
    "partial_images": ("INT32", np.int32(partial_images)),
}
inputs = []
for name, (dtype, value) in columns.items():
    inputs.append(tritonclient.grpc.InferInput(name, [1, 1], dtype))
    inputs[-1].set_data_from_numpy(np.array([[value]]))
client.async_stream_infer(model, inputs, enable_empty_final_response=True)
while True:
    result, error = answers.get(timeout=30)
    if error is not None:
        raise error
    partial = int(result.as_numpy("partial")[0, 0])
    recipe = result.as_numpy("recipe")[0, 0].decode()
    print(json.dumps({"partial": partial, "image": result.as_numpy("image").tolist(), "recipe": recipe}))
    if result.get_response().parameters["triton_final_response"].bool_param:
        break
client.stop_stream()
