"""Starts the Triton server of nvidia-pytriton: PYTHON start_server.py REPOSITORY FOLDER HTTP_PORT GRPC_PORT ROOMS…

PYTHON has nvidia-pytriton, numpy<2 and the runtime's dependencies. The backend's Python ignores PYTHONPATH and virtual
environments, but looks first into the folder that the server was started in: there PYTHON's packages are linked.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytriton

repository, folder, http, grpc, *rooms = sys.argv[1:]
packages = Path(pytriton.__file__).parents[1]
binaries, home = packages / "pytriton" / "tritonserver", Path(folder) / "tritonserver"
shutil.copytree(binaries, home, ignore=shutil.ignore_patterns("python_backend_stubs"))
version = f"{sys.version_info.major}.{sys.version_info.minor}"
backend = home / "backends" / "python"
shutil.copy(binaries / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
for path in [*packages.iterdir(), *(path for room in rooms for path in Path(room).glob("himar_*"))]:
    if not (backend / path.name).exists():
        (backend / path.name).symlink_to(path)
os.chdir(backend)
libraries = [sysconfig.get_config_var("LIBDIR"), str(packages / "nvidia_pytriton.libs")]
options = {
    "model-repository": repository,
    "backend-directory": home / "backends",
    "http-address": "127.0.0.1",
    "http-port": http,
    "grpc-address": "127.0.0.1",
    "grpc-port": grpc,
    "allow-metrics": "false",
}
os.execve(
    home / "bin" / "tritonserver",
    ["tritonserver", *(f"--{name}={value}" for name, value in options.items())],
    {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
)
