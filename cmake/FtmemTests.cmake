# SPDX-License-Identifier: BSD-3-Clause
# How tests are declared. Labels: unit, sim, model, mpi, cuda, e2e, install, python, lint,
# fuzz; large besides: only `scripts/test.sh --full` runs it.

pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

# What every test sees. Sanitizers end a program at the first finding; what MPI
# and its modules do themselves is suppressed.
set(supp "${PROJECT_SOURCE_DIR}/tests/util")
set(FTMEM_TEST_ENVIRONMENT
  "FTMEM_SMP=$<TARGET_FILE:ftmem_smp>"
  "ASAN_OPTIONS=fast_unwind_on_malloc=0:detect_stack_use_after_return=1:strict_string_checks=1"
  "LSAN_OPTIONS=suppressions=${supp}/lsan.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=suppressions=${supp}/tsan.supp:ignore_noninstrumented_modules=1")
if(FTMEM_SANITIZE)
  set(FTMEM_TEST_TIMEOUT 900)
else()
  set(FTMEM_TEST_TIMEOUT 300)
endif()

function(ftmem_test_properties name label)
  set_tests_properties(${name} PROPERTIES
    LABELS ${label} TIMEOUT ${FTMEM_TEST_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "${FTMEM_TEST_ENVIRONMENT}")
endfunction()

# Tests of this folder that take long and run the code of others.
function(ftmem_large_tests)
  foreach(name ${ARGN})
    set_property(TEST ${name} APPEND PROPERTY LABELS large)
  endforeach()
endfunction()

# A program of tests/<folder>/test_<name>.c and what it is linked with:
#   SOURCES ...   further sources, relative to the folder
#   LIBS ...      further libraries
#   WRAP ...      symbols sent through __wrap_<symbol>; `alloc` stands for malloc,
#                 calloc and realloc and brings tests/util/alloc_fail.c
function(ftmem_test_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS;WRAP")
  add_executable(test_${name} test_${name}.c ${arg_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${arg_LIBS} ftmem_core PkgConfig::CMOCKA)
  target_include_directories(test_${name} PRIVATE
    "${PROJECT_SOURCE_DIR}/tests" "${PROJECT_SOURCE_DIR}/tests/util")
  set_target_properties(test_${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}")
  foreach(symbol ${arg_WRAP})
    if(symbol STREQUAL "alloc")
      target_sources(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/util/alloc_fail.c")
      target_link_options(test_${name} PRIVATE LINKER:--wrap=malloc,--wrap=calloc,--wrap=realloc)
    else()
      target_link_options(test_${name} PRIVATE LINKER:--wrap=${symbol})
    endif()
  endforeach()
endfunction()

# One module alone.
function(ftmem_unit_test name)
  ftmem_test_program(${name} ${ARGN})
  add_test(NAME unit.${name} COMMAND test_${name})
  ftmem_test_properties(unit.${name} unit)
endfunction()

# The protocol on networks that the test makes up: tests/sim/test_sim_<name>.c.
function(ftmem_sim_test name)
  ftmem_test_program(sim_${name} ${ARGN})
  add_test(NAME sim.${name} COMMAND test_sim_${name})
  ftmem_test_properties(sim.${name} sim)
endfunction()

# A command line of tests/util/mpi_run.sh, which gives the job a folder of its own
# and ends the SMPs that it leaves.
set(FTMEM_MPI_RUN sh "${PROJECT_SOURCE_DIR}/tests/util/mpi_run.sh" "${MPIEXEC_EXECUTABLE}")

# A program under mpirun, once for each number of RANKS with these ARGS; without RANKS
# it is only built. The rest is as for ftmem_test_program().
function(ftmem_mpi_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "RANKS;ARGS;SOURCES;LIBS;WRAP")
  set(modules "")
  if(FTMEM_SANITIZE MATCHES "address")
    set(modules "${PROJECT_SOURCE_DIR}/tests/util/keep_modules.c")
  endif()
  ftmem_test_program(${name} SOURCES ${arg_SOURCES} ${modules} LIBS ${arg_LIBS} ftmem_engine
    WRAP ${arg_WRAP})
  if(modules)
    target_link_options(test_${name} PRIVATE LINKER:--export-dynamic-symbol=dlclose)
  endif()
  foreach(ranks ${arg_RANKS})
    add_test(NAME mpi.${name}.${ranks}
      COMMAND ${FTMEM_MPI_RUN} ${ranks} $<TARGET_FILE:test_${name}> ${arg_ARGS})
    ftmem_test_properties(mpi.${name}.${ranks} mpi)
    set_tests_properties(mpi.${name}.${ranks} PROPERTIES PROCESSORS ${ranks})
  endforeach()
endfunction()

# A script: FILE and what it is given.
function(ftmem_script_test name label file)
  if(file MATCHES "\\.py$")
    set(interpreter "${Python3_EXECUTABLE}")
  else()
    set(interpreter bash)
  endif()
  add_test(NAME ${name} COMMAND ${interpreter} "${CMAKE_CURRENT_SOURCE_DIR}/${file}" ${ARGN}
    WORKING_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}")
  ftmem_test_properties(${name} ${label})
endfunction()
