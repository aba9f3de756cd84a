// visq: command line. Results on stdout, everything else on stderr.
// Exit codes: 0 done; 1 a check found violations, or an internal error; 2 bad input; 130 interrupted.
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "visq/cli/commands.h"
#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"

namespace {

// The last line of a library's message says what happened; the rest is its call stack.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

int run(int argc, char** argv) {
  bool quiet = false;
  const char* description =
      "visq quantizes vision-language models after training, and shows what that costs.\n"
      "It reads a Hugging Face checkpoint and writes one that vLLM, SGLang or TensorRT-LLM load.\n";
  return visq::run_command_line(argc, argv, description, [&](visq::Command& program) {
    program.add_flag("-q,--quiet", quiet, "warnings and errors only");
    program.on_parsed([&] { visq::set_quiet(quiet); });
    program.set_footer(
        "Exit codes: 0 done · 1 `check` found violations, or an internal error · 2 bad input · 130 "
        "interrupted");
    visq::add_quantize_command(program);
    visq::add_calibrate_command(program);
    visq::add_stats_command(program);
    visq::add_eval_command(program);
    visq::add_generate_command(program);
    visq::add_inspect_command(program);
    visq::add_check_command(program);
    visq::add_convert_command(program);
    visq::add_families_command(program);
    visq::add_formats_command(program);
    visq::add_engines_command(program);
  });
}

}  // namespace

int main(int argc, char** argv) {
  visq::catch_interrupts();
  const c10::InferenceMode no_gradients;
  try {
    const int code = run(argc, argv);
    std::fflush(nullptr);
    std::_Exit(code);  // libtorch takes a tenth of a second to take its tables of operators apart
  } catch (const visq::Error& e) {
    visq::print(stderr, "error: {}\n", e.what());
    return 2;
  } catch (const visq::Interrupted&) {
    visq::print(stderr, "interrupted; nothing was written\n");
    return 130;
  } catch (const std::bad_alloc&) {
    visq::print(stderr, "error: out of memory\n");
    return 1;
  } catch (const c10::Error& e) {
    visq::print(stderr, "internal error: {}\n", first_line(e.what_without_backtrace()));
    return 1;
  } catch (const std::exception& e) {
    visq::print(stderr, "internal error: {}\n", first_line(e.what()));
    return 1;
  }
}
