// One function a command: it registers its options on the parser, and what runs when the command is chosen.
#pragma once
#include <CLI/CLI.hpp>

namespace visq {

void add_quantize_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_check_command(CLI::App& app);
void add_families_command(CLI::App& app);
void add_formats_command(CLI::App& app);

}  // namespace visq
