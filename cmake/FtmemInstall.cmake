# SPDX-License-Identifier: BSD-3-Clause
# What `cmake --install` gives: header, libraries, programs, man pages, ftmem.pc
# and a CMake package.
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/ftmem")

install(FILES include/ftmem.h TYPE INCLUDE)
install(TARGETS ftmem EXPORT ftmem)
install(TARGETS ftmem_static EXPORT ftmem_static)
install(TARGETS ftmem_smp ftmem_command)
if(TARGET ftmem_bench)
  install(TARGETS ftmem_bench)
endif()
foreach(section 1 3 7)
  install(DIRECTORY docs/man/ DESTINATION "${CMAKE_INSTALL_MANDIR}/man${section}"
    FILES_MATCHING PATTERN "*.${section}")
endforeach()
install(FILES LICENSE README.md CHANGELOG.md TYPE DOC)

# The static library's own needs, spelled out: MPI has as many pkg-config names as
# makers, and Requires.private would ask for the static needs of hwloc as well.
list(TRANSFORM CMAKE_DL_LIBS PREPEND -l OUTPUT_VARIABLE dl_flags)
string(REPLACE ";" " " FTMEM_PC_LIBS
  "${MPI_C_LIBRARIES};${HWLOC_LDFLAGS};${ISAL_LDFLAGS};-pthread;${dl_flags}")
file(RELATIVE_PATH FTMEM_PC_PREFIX
  "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
configure_file(cmake/ftmem.pc.in ftmem.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/ftmem.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

configure_package_config_file(cmake/ftmemConfig.cmake.in ftmemConfig.cmake
  INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file(ftmemConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/ftmemConfig.cmake"
  "${PROJECT_BINARY_DIR}/ftmemConfigVersion.cmake" DESTINATION "${package_dir}")
install(EXPORT ftmem NAMESPACE ftmem:: FILE ftmemTargets.cmake DESTINATION "${package_dir}")
install(EXPORT ftmem_static NAMESPACE ftmem:: FILE ftmemStaticTargets.cmake
  DESTINATION "${package_dir}")
