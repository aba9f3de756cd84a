# libtorch comes from a `torch` Python package: TORCH_DIR, else an active virtual environment, else python3's, else .venv.
set(TORCH_DIR "$ENV{TORCH_DIR}" CACHE PATH "Folder of the torch Python package (the one that holds lib/ and include/)")
if(NOT TORCH_DIR)
  foreach(python "$ENV{VIRTUAL_ENV}/bin/python" python3 "${CMAKE_SOURCE_DIR}/.venv/bin/python")
    execute_process(
      COMMAND ${python} -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(found AND EXISTS "${found}/share/cmake/Torch")
      set(TORCH_DIR "${found}" CACHE PATH "" FORCE)
      break()
    endif()
  endforeach()
endif()
if(NOT TORCH_DIR)
  message(FATAL_ERROR "No torch Python package found. Run `make setup`, or set TORCH_DIR to the package's folder.")
endif()
list(APPEND CMAKE_PREFIX_PATH "${TORCH_DIR}/share/cmake")
find_package(Torch REQUIRED)
message(STATUS "libtorch: ${TORCH_DIR}")
# A target of our own: find_package(Torch) only sets variables, and its include folders shall not raise our warnings.
add_library(visq_torch INTERFACE)
add_library(visq::torch ALIAS visq_torch)
target_include_directories(visq_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
# libstdc++ first: some builds of libtorch export parts of std::filesystem of an older compiler, which crash when they are
# found before the real ones.
target_link_libraries(visq_torch INTERFACE stdc++ ${TORCH_LIBRARIES})
separate_arguments(torch_flags NATIVE_COMMAND "${TORCH_CXX_FLAGS}")
target_compile_options(visq_torch INTERFACE ${torch_flags})

# Our loops share libtorch's threads: the OpenMP runtime that it brings along comes before the compiler's.
file(GLOB torch_openmp "${TORCH_DIR}/lib/libgomp*.so*" "${TORCH_DIR}/../torch.libs/libgomp*.so*")
if(torch_openmp)
  list(GET torch_openmp 0 torch_openmp)
else()
  set(torch_openmp gomp)
endif()
add_library(visq_openmp INTERFACE)
add_library(visq::openmp ALIAS visq_openmp)
target_link_libraries(visq_openmp INTERFACE ${torch_openmp})

find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp libwebpdemux)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)

add_library(visq_codecs INTERFACE)
add_library(visq::codecs ALIAS visq_codecs)
target_link_libraries(visq_codecs INTERFACE JPEG::JPEG PNG::PNG PkgConfig::WEBP)
add_library(visq_text INTERFACE)
add_library(visq::text ALIAS visq_text)
target_link_libraries(visq_text INTERFACE PkgConfig::PCRE2 PkgConfig::UTF8PROC)
add_library(visq_hwy INTERFACE)
add_library(visq::hwy ALIAS visq_hwy)
target_link_libraries(visq_hwy INTERFACE PkgConfig::HWY)

# ccache when it is there; the precompiled header needs these two sloppiness flags and -fpch-preprocess.
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()
