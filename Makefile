# The two commands: `make demo` shows the product, `make test` proves it. Each installs and builds what is missing.
BUILD ?= build
CMAKE_FLAGS ?=

.PHONY: demo test build setup unit-test format check-format bench clean

demo: build
	@scripts/demo.sh $(BUILD)/visq

test: build
	@scripts/check_format.sh
	@cmake --build $(BUILD)
	@$(MAKE) --no-print-directory unit-test
	@scripts/python_tests.sh $(BUILD)

build: setup
	@cmake -S . -B $(BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM="$$(command -v ninja || command -v ninja-build)" $(CMAKE_FLAGS) > $(BUILD).cmake.log 2>&1 || { cat $(BUILD).cmake.log; exit 1; }
	@rm -f $(BUILD).cmake.log
	@cmake --build $(BUILD) --target visq

setup:
	@scripts/setup.sh

unit-test:
	@cd $(BUILD) && ctest --output-on-failure

bench: CMAKE_FLAGS += -DVISQ_BENCH=ON
bench: build
	@cmake --build $(BUILD) --target bench_pack
	@bench/run.sh $(BUILD)

format:
	@scripts/check_format.sh --fix

clean:
	rm -rf $(BUILD)
