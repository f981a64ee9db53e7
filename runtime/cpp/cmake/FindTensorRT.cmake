# Finds the headers of TensorRT 10 or 11, NvInferRuntime.h, in HIMAR_TENSORRT_ROOT (holds include/), the environment's
# HIMAR_TENSORRT_INCLUDE (is include/, as for examples/tensorrt_plugin) or the system's folders. They include CUDA's, which lie in
# HIMAR_CUDA_INCLUDE. Gives TensorRT_INCLUDE_DIRS and TensorRT_VERSION. No library is needed to build: himar opens the one
# of the machine that it runs on.
set(HIMAR_TENSORRT_ROOT "$ENV{HIMAR_TENSORRT_ROOT}" CACHE PATH "Folder that holds TensorRT's include")
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
  HINTS "${HIMAR_TENSORRT_ROOT}" "${HIMAR_TENSORRT_ROOT}/include" "$ENV{HIMAR_TENSORRT_INCLUDE}" PATHS /usr/local/tensorrt/include)
set(TensorRT_VERSION)
set(refusal)
if(TensorRT_INCLUDE_DIR)
  file(READ "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" text)
  foreach(part MAJOR MINOR PATCH)
    # Older headers give the number itself, newer ones another macro that does.
    string(REGEX MATCH "#define (NV_TENSORRT_|TRT_)${part}(_ENTERPRISE)? +([0-9]+)" found "${text}")
    list(APPEND TensorRT_VERSION "${CMAKE_MATCH_3}")
  endforeach()
  list(JOIN TensorRT_VERSION . TensorRT_VERSION)
  if(text MATCHES "TRT_MAJOR_RTX")
    set(refusal "of TensorRT-RTX, whose engines himar's C++ runtime does not run")
  elseif(TensorRT_VERSION VERSION_LESS 10.1 OR TensorRT_VERSION VERSION_GREATER_EQUAL 12)
    set(refusal "of TensorRT ${TensorRT_VERSION}, which himar's C++ runtime does not know")
  endif()
endif()
if(refusal AND TensorRT_FIND_REQUIRED)
  message(FATAL_ERROR "${TensorRT_INCLUDE_DIR} holds headers ${refusal}; give those of TensorRT 10.1 or later, or 11, with "
                      "-DHIMAR_TENSORRT_ROOT=DIR.")
elseif(refusal)
  message(STATUS "TensorRT: ${TensorRT_INCLUDE_DIR} holds headers ${refusal}")
  set(TensorRT_INCLUDE_DIR TensorRT_INCLUDE_DIR-NOTFOUND)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR HIMAR_CUDA_INCLUDE VERSION_VAR TensorRT_VERSION
  REASON_FAILURE_MESSAGE "HIMAR_TENSORRT is ON: give the folder that holds TensorRT's include with -DHIMAR_TENSORRT_ROOT=DIR, and the folder of the CUDA toolkit's headers with -DHIMAR_CUDA_INCLUDE=DIR, or configure with -DHIMAR_TENSORRT=OFF.")
set(TensorRT_INCLUDE_DIRS "${TensorRT_INCLUDE_DIR}" "${HIMAR_CUDA_INCLUDE}")
mark_as_advanced(TensorRT_INCLUDE_DIR)
