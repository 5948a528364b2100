# SPDX-License-Identifier: BSD-3-Clause
# Flags of everything that is built here: target ftmem_flags, linked privately.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(ftmem_flags INTERFACE)
target_compile_definitions(ftmem_flags INTERFACE _GNU_SOURCE)
target_include_directories(ftmem_flags INTERFACE "${PROJECT_SOURCE_DIR}/include")
target_compile_options(ftmem_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wstrict-prototypes -Wmissing-prototypes
  $<$<BOOL:${FTMEM_WERROR}>:-Werror>)
target_link_options(ftmem_flags INTERFACE -Wl,--as-needed)

if(FTMEM_SANITIZE)
  add_compile_options(-fsanitize=${FTMEM_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${FTMEM_SANITIZE})
  if(FTMEM_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
