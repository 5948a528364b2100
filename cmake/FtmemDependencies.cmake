# SPDX-License-Identifier: BSD-3-Clause
# What the library links. Each is a target that carries its own flags.
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)

pkg_check_modules(HWLOC REQUIRED IMPORTED_TARGET hwloc>=2.0)

if(FTMEM_WITH_ISAL STREQUAL "OFF")
  set(FTMEM_HAVE_ISAL OFF)
else()
  pkg_check_modules(ISAL QUIET IMPORTED_TARGET libisal>=2.20)
  set(FTMEM_HAVE_ISAL ${ISAL_FOUND})
  if(NOT ISAL_FOUND AND FTMEM_WITH_ISAL STREQUAL "ON")
    message(FATAL_ERROR "FTMEM_WITH_ISAL=ON, but pkg-config finds no libisal >= 2.20 "
      "(Debian: apt-get install libisal-dev).")
  endif()
endif()
if(FTMEM_HAVE_ISAL)
  set(FTMEM_ISAL_TEXT "${ISAL_VERSION}")
else()
  set(FTMEM_ISAL_TEXT "none (plain C kernels)")
endif()

if(FTMEM_WITH_CUDA STREQUAL "ON")
  message(FATAL_ERROR "FTMEM_WITH_CUDA=ON, but this version protects host memory only. "
    "Use AUTO or OFF.")
endif()
set(FTMEM_CUDA_TEXT "none (host memory only)")
