# Tests of TensorRT's part: the real libraries of the Python wheels, where HIMAR_PYTHON has them, as far as they go without
# a driver.
target_sources(himar_tests PRIVATE test_tensorrt.cpp)
target_include_directories(himar_tests SYSTEM PRIVATE ${TensorRT_INCLUDE_DIRS})
set(find_libraries "import importlib.util as u, pathlib as p
for package, name in (('tensorrt_lean_libs', 'libnvinfer_lean.so.*'), ('tensorrt_rtx_libs', 'libtensorrt_rtx.so.*')):
    spec = u.find_spec(package)
    found = sorted(p.Path(spec.origin).parent.glob(name)) if spec else []
    print(found[0] if found else '')")
execute_process(COMMAND "${HIMAR_PYTHON}" -c "${find_libraries}" OUTPUT_VARIABLE libraries ERROR_QUIET)
string(REPLACE "\n" ";" libraries "${libraries}")
list(APPEND libraries "" "")
list(GET libraries 0 lean)
list(GET libraries 1 rtx)
add_test(NAME tensorrt COMMAND himar_tests --test-suite=tensorrt)
set_tests_properties(tensorrt PROPERTIES
  ENVIRONMENT "HIMAR_TEST_TENSORRT_LEAN=${lean};HIMAR_TEST_TENSORRT_RTX=${rtx}")
