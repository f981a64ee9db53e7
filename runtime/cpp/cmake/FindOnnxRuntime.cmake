# Finds ONNX Runtime's C++ headers and library: Debian's libonnxruntime-dev, or a folder given by ONNXRUNTIME_ROOT that
# holds include/ and lib/ as ONNX Runtime's release archives do. Gives the target OnnxRuntime::OnnxRuntime.
set(ONNXRUNTIME_ROOT "$ENV{ONNXRUNTIME_ROOT}" CACHE PATH "Folder that holds ONNX Runtime's include and lib")
find_path(OnnxRuntime_INCLUDE_DIR onnxruntime_cxx_api.h HINTS "${ONNXRUNTIME_ROOT}"
  PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session)
find_library(OnnxRuntime_LIBRARY onnxruntime HINTS "${ONNXRUNTIME_ROOT}" PATH_SUFFIXES lib lib64)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime
  REQUIRED_VARS OnnxRuntime_LIBRARY OnnxRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libonnxruntime-dev (Debian 13), give -DONNXRUNTIME_ROOT=DIR, or run `make cpp`, which sets it up without root.")
if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES
    IMPORTED_LOCATION "${OnnxRuntime_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntime_INCLUDE_DIR}")
endif()
mark_as_advanced(OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)
