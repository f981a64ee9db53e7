"""Serves a bundle over HTTP: a queue and a pipeline per lane, JSON or PNG answers. Command: himar-serve.

The interface is in docs/service.md; runtime/cpp/service is the same service without Python. This is the only part of
the runtime that imports FastAPI, uvicorn and what they need: pip install 'himar[service]'.
"""
