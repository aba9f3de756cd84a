#include "visq/cli/command_line.h"

#include <CLI/CLI.hpp>

#include "visq/core/format.h"

namespace visq {
namespace {

// CLI11's own bounds print the largest double, all of its 309 digits.
CLI::Validator more_than(double bound, bool or_equal, const std::string& name) {
  return CLI::Validator(
      [=](const std::string& text) {
        double value = 0;
        if (!CLI::detail::lexical_cast(text, value)) return visq::format("'{}' is not a number", text);
        const bool fits = or_equal ? value >= bound : value > bound;
        return fits ? std::string()
                    : visq::format("{} is not {} {}", text, or_equal ? "at least" : "more than", bound);
      },
      name);
}

}  // namespace

CommandOption& CommandOption::required() {
  option_->required();
  return *this;
}
CommandOption& CommandOption::show_default() {
  option_->capture_default_str();
  return *this;
}
CommandOption& CommandOption::positive() {
  option_->check(more_than(0, false, "POSITIVE"));
  return *this;
}
CommandOption& CommandOption::non_negative() {
  option_->check(more_than(0, true, "NONNEGATIVE"));
  return *this;
}
CommandOption& CommandOption::between(int64_t least, int64_t greatest) {
  option_->check(CLI::Range(least, greatest));
  return *this;
}
CommandOption& CommandOption::excludes(const CommandOption& other) {
  option_->excludes(other.option_);
  return *this;
}

Command Command::add_command(const std::string& name, const std::string& description) {
  return Command(app_->add_subcommand(name, description));
}
template <typename T>
CommandOption Command::add_option(const std::string& name, T& value, const std::string& description) {
  return CommandOption(app_->add_option(name, value, description));
}
template CommandOption Command::add_option(const std::string&, std::string&, const std::string&);
template CommandOption Command::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template CommandOption Command::add_option(const std::string&, int&, const std::string&);
template CommandOption Command::add_option(const std::string&, int64_t&, const std::string&);
template CommandOption Command::add_option(const std::string&, uint64_t&, const std::string&);
template CommandOption Command::add_option(const std::string&, double&, const std::string&);

CommandOption Command::add_flag(const std::string& name, bool& value, const std::string& description) {
  return CommandOption(app_->add_flag(name, value, description));
}
void Command::require_command() { app_->require_subcommand(1); }
void Command::set_footer(const std::string& text) { app_->footer(text); }
void Command::on_parsed(std::function<void()> parsed) { app_->parse_complete_callback(std::move(parsed)); }
void Command::on_run(std::function<void()> run) { app_->callback(std::move(run)); }

int run_command_line(int argc, char** argv, const std::string& description,
                     const std::function<void(Command&)>& add_commands) {
  CLI::App app(description, "visq");
  app.set_version_flag("--version", "visq " VISQ_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  Command program(&app);
  add_commands(program);
  // CLI11 would only say that a command is missing.
  const std::string first = argc > 1 ? argv[1] : "";
  std::string commands;
  bool known = first.empty() || first[0] == '-';
  for (const CLI::App* command : app.get_subcommands({})) {
    commands += (commands.empty() ? "" : ", ") + command->get_name();
    known |= command->get_name() == first;
  }
  if (!known) {
    visq::print(stderr, "error: {}: no such command; choose one of {}\n", first, commands);
    return 2;
  }
  try {
    app.parse(argc, argv);
  } catch (const ExitCode& e) {
    return e.code;
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::RequiredError& e) {
    // What is missing may be there, misspelled.
    const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
    visq::print(stderr, "error: {} (visq --help lists what there is)\n",
                unknown.empty() ? std::string(e.what())
                                : visq::format("{}: no such option; and {}", unknown.front(), e.what()));
    return 2;
  } catch (const CLI::ParseError& e) {
    visq::print(stderr, "error: {} (visq --help lists what there is)\n", e.what());
    return 2;
  }
  return 0;
}

}  // namespace visq
