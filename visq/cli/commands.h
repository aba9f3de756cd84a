// One function a command: it registers its options on the parser, and what runs when the command is chosen.
#pragma once
#include "visq/cli/command_line.h"

namespace visq {

void add_quantize_command(Command& program);
void add_calibrate_command(Command& program);
void add_stats_command(Command& program);
void add_eval_command(Command& program);
void add_generate_command(Command& program);
void add_inspect_command(Command& program);
void add_check_command(Command& program);
void add_convert_command(Command& program);
void add_families_command(Command& program);
void add_formats_command(Command& program);
void add_engines_command(Command& program);

}  // namespace visq
