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

# Of CUDA only the driver's headers: its functions are found when a program has loaded it.
set(FTMEM_HAVE_CUDA OFF)
set(FTMEM_CUDA_TEXT "none (host memory only)")
if(NOT FTMEM_WITH_CUDA STREQUAL "OFF")
  find_package(CUDAToolkit 12.0 QUIET)
  if(CUDAToolkit_FOUND)
    find_path(FTMEM_CUDA_INCLUDE cudaTypedefs.h HINTS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
    mark_as_advanced(FTMEM_CUDA_INCLUDE)
  endif()
  if(FTMEM_CUDA_INCLUDE)
    set(FTMEM_HAVE_CUDA ON)
    set(FTMEM_CUDA_TEXT "${CUDAToolkit_VERSION}")
  elseif(FTMEM_WITH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FTMEM_WITH_CUDA=ON, but no CUDA toolkit of version 12.0 or later is "
      "found. Put its nvcc into PATH, or say where it is: "
      "-DCUDAToolkit_ROOT=/usr/local/cuda (packages: cuda-cudart-dev, cuda-nvcc).")
  endif()
endif()
