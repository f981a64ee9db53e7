# Installs libhimar, its two headers, the programs, and what find_package(himar) reads.
include(CMakePackageConfigHelpers)
set(himar_config "${CMAKE_INSTALL_LIBDIR}/cmake/himar")

install(TARGETS himar EXPORT himarTargets)
install(DIRECTORY include/himar TYPE INCLUDE FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
install(EXPORT himarTargets NAMESPACE himar:: DESTINATION "${himar_config}")
configure_package_config_file(cmake/himarConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/himarConfig.cmake"
  INSTALL_DESTINATION "${himar_config}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/himarConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/himarConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/himarConfigVersion.cmake"
  cmake/FindOnnxRuntime.cmake cmake/FindUtf8proc.cmake DESTINATION "${himar_config}")
