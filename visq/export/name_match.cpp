#define PCRE2_CODE_UNIT_WIDTH 8
#include "visq/export/name_match.h"

#include <fnmatch.h>
#include <pcre2.h>

#include <map>
#include <memory>
#include <mutex>

#include "visq/core/error.h"

namespace visq {
namespace {

constexpr size_t kLongest = 1000;
constexpr uint32_t kMostSteps = 100'000;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

using Code = std::shared_ptr<pcre2_code>;

Code compile(const std::string& expression, uint32_t options) {
  if (expression.size() > kLongest)
    fail("exclude entry 're:{}…': an expression of more than {} characters is not judged",
         expression.substr(0, 40), kLongest);
  int error = 0;
  size_t place = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), options, &error,
                          &place, nullptr),
            FreeCode());
  if (!code) fail("exclude entry 're:{}': no regular expression (at character {})", expression, place + 1);
  return code;
}

// The same few expressions meet thousands of names.
Code compiled(const std::string& expression, uint32_t options) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, uint32_t>, Code> known;
  const std::lock_guard lock(mutex);
  Code& code = known[{expression, options}];
  if (!code) code = compile(expression, options);
  return code;
}

}  // namespace

bool glob_matches(const std::string& glob, const std::string& name) {
  return fnmatch(glob.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

bool expression_matches(const std::string& expression, const std::string& name, bool to_the_end) {
  const Code code = compiled(expression, PCRE2_ANCHORED | (to_the_end ? PCRE2_ENDANCHORED : 0u));
  const std::unique_ptr<pcre2_match_data, FreeData> data(
      pcre2_match_data_create_from_pattern(code.get(), nullptr));
  const std::unique_ptr<pcre2_match_context, FreeContext> context(pcre2_match_context_create(nullptr));
  if (!data || !context) throw std::bad_alloc();
  pcre2_set_match_limit(context.get(), kMostSteps);
  const int found = pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                                data.get(), context.get());
  if (found < 0 && found != PCRE2_ERROR_NOMATCH)
    fail("exclude entry 're:{}': takes too many steps to judge", expression);
  return found >= 0;
}

}  // namespace visq
