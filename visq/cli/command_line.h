// The parser of the command line. CLI11 stays behind this header: every file that sees it takes ten seconds
// more to compile.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace visq {

/// An option or a positional argument; what is said of it here is checked when it is parsed.
class CommandOption {
 public:
  explicit CommandOption(CLI::Option* option) : option_(option) {}
  CommandOption& required();
  CommandOption& show_default();  ///< in the help
  CommandOption& positive();
  CommandOption& between(int64_t least, int64_t greatest);  ///< inclusive
  CommandOption& non_negative();
  CommandOption& excludes(const CommandOption& other);

 private:
  CLI::Option* option_;
};

/// The program or one of its commands. The variables that options are bound to outlive the parsing.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}
  Command add_command(const std::string& name, const std::string& description);
  /// @param name  "-o,--out", or "model" for a positional argument
  /// @tparam T    std::string, std::vector<std::string> (repeatable), int, int64_t, uint64_t, double
  template <typename T>
  CommandOption add_option(const std::string& name, T& value, const std::string& description);
  CommandOption add_flag(const std::string& name, bool& value, const std::string& description);
  /// One of its own commands has to be chosen.
  void require_command();
  void set_footer(const std::string& text);
  /// Called when everything was read, before the chosen command runs.
  void on_parsed(std::function<void()> parsed);
  /// Called when the command was chosen.
  void on_run(std::function<void()> run);

 private:
  CLI::App* app_;
};

/// Thrown by a command that ran but ends with another exit code than 0.
struct ExitCode {
  int code = 0;
};

/// Parses, runs the chosen command, answers --help and --version. @return the exit code
/// @param add_commands  adds options and commands to the program
int run_command_line(int argc, char** argv, const std::string& description,
                     const std::function<void(Command& program)>& add_commands);

}  // namespace visq
