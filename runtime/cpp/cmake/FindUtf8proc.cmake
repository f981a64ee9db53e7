# Finds utf8proc's header and library: Debian's libutf8proc-dev, or a folder given by ONNXRUNTIME_ROOT or CMAKE_PREFIX_PATH
# that holds include/ and lib/. Its static library, where there is one, goes into libhimar. Gives Utf8proc::Utf8proc.
find_path(Utf8proc_INCLUDE_DIR utf8proc.h HINTS "${ONNXRUNTIME_ROOT}" PATH_SUFFIXES include)
find_library(Utf8proc_LIBRARY NAMES libutf8proc.a utf8proc HINTS "${ONNXRUNTIME_ROOT}" PATH_SUFFIXES lib lib64)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Utf8proc
  REQUIRED_VARS Utf8proc_LIBRARY Utf8proc_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libutf8proc-dev (Debian), or run `make cpp`, which sets it up without root.")
if(Utf8proc_FOUND AND NOT TARGET Utf8proc::Utf8proc)
  add_library(Utf8proc::Utf8proc UNKNOWN IMPORTED)
  set_target_properties(Utf8proc::Utf8proc PROPERTIES
    IMPORTED_LOCATION "${Utf8proc_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${Utf8proc_INCLUDE_DIR}")
endif()
mark_as_advanced(Utf8proc_INCLUDE_DIR Utf8proc_LIBRARY)
