#include "visq/export/module_targets.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "visq/core/error.h"

namespace visq {
namespace {

constexpr const char* kExpression = "re:";
constexpr const char* kLinear = "Linear";
const std::vector<std::string> kPrefixes = {"model.", "language_model."};

constexpr uint32_t kMatchLimit = 1'000'000;  // names are short: what needs more is hostile
constexpr uint32_t kHeapLimitKib = 16 << 10;

PCRE2_SPTR data_of(const std::string& text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

std::vector<std::string> spellings(const std::string& module) {
  const std::string bare = without_prefixes(module);
  return {module,
          bare,
          "model." + bare,
          "language_model.model." + bare,
          "model.language_model." + bare,
          "language_model." + bare};
}

}  // namespace

/// As Python's re.match: from the start of a name, up to anywhere.
struct ModuleTargets::Expression {
  std::string text, origin;
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{
      pcre2_match_context_create(nullptr), pcre2_match_context_free};

  Expression(std::string expression, std::string from)
      : text(std::move(expression)), origin(std::move(from)) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code.reset(
        pcre2_compile(data_of(text), text.size(), PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, nullptr));
    if (!code) fail("{}: 're:{}' is malformed: {}", origin, text.substr(0, 80), message_of(error));
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  }

  bool matches(const std::string& name) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match{
        pcre2_match_data_create(1, nullptr), pcre2_match_data_free};
    const int result = pcre2_match(code.get(), data_of(name), name.size(), 0, 0, match.get(), context.get());
    if (result < 0 && result != PCRE2_ERROR_NOMATCH)
      fail("{}: 're:{}' gives up on '{}': {}", origin, text.substr(0, 80), name, message_of(result));
    return result >= 0;
  }
};

std::string without_prefixes(const std::string& module) {
  size_t begin = 0;
  for (bool found = true; found;) {
    found = false;
    for (const std::string& prefix : kPrefixes)
      if (module.compare(begin, prefix.size(), prefix) == 0) {
        begin += prefix.size();
        found = true;
      }
  }
  return module.substr(begin);
}

ModuleTargets::ModuleTargets(std::vector<std::string> entries, const std::string& origin)
    : entries_(std::move(entries)) {
  for (const std::string& entry : entries_) {
    if (entry.starts_with(kExpression))
      expressions_.push_back(
          std::make_shared<const Expression>(entry.substr(std::string(kExpression).size()), origin));
    else if (entry == kLinear)
      all_linears_ = true;
    else
      names_.push_back(without_prefixes(entry));
  }
  std::ranges::sort(names_);
}

ModuleTargets::Match ModuleTargets::match(const std::string& module, bool other_spellings) const {
  if (std::ranges::binary_search(names_, without_prefixes(module))) return Match::by_name;
  const auto names = other_spellings ? spellings(module) : std::vector<std::string>{module};
  for (const auto& expression : expressions_)
    if (std::ranges::any_of(names, [&](const std::string& name) { return expression->matches(name); }))
      return Match::by_expression;
  return all_linears_ ? Match::by_class : Match::none;
}

}  // namespace visq
