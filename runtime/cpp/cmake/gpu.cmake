# What himar_core gets for a GPU: the CUDA kernels, compiled by nvcc and carried in the library, so that whoever uses it
# needs no compiler, no folder of kernels and no toolkit; and TensorRT's engines. Both are optional, and the driver and
# TensorRT are opened at run time: the same library runs where there is no GPU.

find_program(HIMAR_NVCC nvcc HINTS "$ENV{CUDA_HOME}/bin" PATHS /usr/local/cuda/bin DOC "CUDA's compiler")
# Its headers, for those of TensorRT and for a test: where nvcc itself looks.
if(HIMAR_NVCC)
  execute_process(COMMAND "${HIMAR_NVCC}" --dryrun -E -x cu /dev/null ERROR_VARIABLE dry_run OUTPUT_QUIET)
  string(REGEX MATCH "INCLUDES=\"-I([^\"]+)\"" found "${dry_run}")
endif()
find_path(HIMAR_CUDA_INCLUDE cuda_runtime_api.h HINTS "$ENV{CUDA_HOME}/include" "${CMAKE_MATCH_1}"
  PATHS /usr/local/cuda/include DOC "Folder of the CUDA toolkit's headers")
if(NOT HIMAR_CUDA MATCHES "^(ON|OFF|AUTO)$")
  message(FATAL_ERROR "HIMAR_CUDA is '${HIMAR_CUDA}'; it must be ON, OFF or AUTO.")
endif()
if(HIMAR_CUDA STREQUAL "ON" AND NOT HIMAR_NVCC)
  message(FATAL_ERROR "HIMAR_CUDA is ON, but nvcc was not found in $CUDA_HOME, on the PATH or in /usr/local/cuda; install "
                      "the CUDA toolkit, or configure with -DHIMAR_CUDA=OFF for a library that runs on the CPU.")
endif()

if(HIMAR_CUDA STREQUAL "OFF" OR NOT HIMAR_NVCC)
  message(STATUS "CUDA kernels: left out (HIMAR_CUDA=${HIMAR_CUDA}); the library runs on the CPU only")
else()
  execute_process(COMMAND "${HIMAR_NVCC}" --list-gpu-code OUTPUT_VARIABLE known RESULT_VARIABLE failed)
  execute_process(COMMAND "${HIMAR_NVCC}" --list-gpu-arch OUTPUT_VARIABLE portable)
  if(failed)
    message(FATAL_ERROR "${HIMAR_NVCC} --list-gpu-code failed (${failed}); give another nvcc with -DHIMAR_NVCC=PATH.")
  endif()
  set(targets)
  foreach(architecture ${HIMAR_CUDA_ARCHITECTURES})
    string(REGEX REPLACE "[af]$" "" number "${architecture}")
    if(known MATCHES "sm_${number}(\n|$)")
      list(APPEND targets -gencode "arch=compute_${architecture},code=sm_${architecture}")
    else()
      message(STATUS "CUDA kernels: sm_${architecture} left out, which this nvcc does not know")
    endif()
  endforeach()
  if(NOT targets)
    message(FATAL_ERROR "${HIMAR_NVCC} knows none of HIMAR_CUDA_ARCHITECTURES=${HIMAR_CUDA_ARCHITECTURES}.")
  endif()
  # What the driver compiles for every other GPU, from the oldest architecture that this nvcc knows.
  string(REGEX MATCH "compute_[0-9]+" oldest "${portable}")
  list(APPEND targets -gencode "arch=${oldest},code=${oldest}")

  set(image "${CMAKE_CURRENT_BINARY_DIR}/himar_kernels.fatbin")
  file(GLOB sources CONFIGURE_DEPENDS "${HIMAR_KERNELS}/*.cuh")
  # The options are those of himar_kernels/build/sources.py and cuda.py: no fused multiply-add, so that the kernels
  # round as the NumPy definitions do, and warnings, also of registers that spill to memory, end the build.
  add_custom_command(OUTPUT "${image}"
    COMMAND "${HIMAR_NVCC}" -std=c++17 --fmad=false -O3 -Werror all-warnings -Xptxas -warn-spills,-Werror -fatbin
            ${targets} "${HIMAR_KERNELS}/kernels.cu" -o "${image}"
    DEPENDS ${sources} "${HIMAR_KERNELS}/kernels.cu"
    COMMENT "Compiling the CUDA kernels" VERBATIM)
  set_source_files_properties(src/queue/cuda/program.cpp PROPERTIES
    COMPILE_DEFINITIONS "HIMAR_KERNELS_IMAGE=\"${image}\"" OBJECT_DEPENDS "${image}")
endif()

if(NOT HIMAR_TENSORRT MATCHES "^(ON|OFF|AUTO)$")
  message(FATAL_ERROR "HIMAR_TENSORRT is '${HIMAR_TENSORRT}'; it must be ON, OFF or AUTO.")
endif()
if(HIMAR_TENSORRT STREQUAL "ON")
  find_package(TensorRT REQUIRED)
elseif(HIMAR_TENSORRT STREQUAL "AUTO")
  find_package(TensorRT QUIET)
endif()
if(TensorRT_FOUND AND NOT HIMAR_TENSORRT STREQUAL "OFF")
  target_sources(himar_core PRIVATE src/engines/tensorrt/contexts.cpp src/engines/tensorrt/engine.cpp src/engines/tensorrt/library.cpp)
  target_include_directories(himar_core SYSTEM PRIVATE ${TensorRT_INCLUDE_DIRS})
  message(STATUS "TensorRT: headers of ${TensorRT_VERSION} in ${TensorRT_INCLUDE_DIR}; opened at run time")
else()
  target_sources(himar_core PRIVATE src/engines/tensorrt/absent.cpp)
  message(STATUS "TensorRT: left out (HIMAR_TENSORRT=${HIMAR_TENSORRT})")
endif()
