#include "visq/inputs/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "visq/core/error.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackBytes = 1 << 20;

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR data_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

/// What one thread needs to match: reused, since texts consist of thousands of pieces.
struct Scratch {
  MatchContext context{pcre2_match_context_create(nullptr)};
  JitStack stack{pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)};
  MatchData match{pcre2_match_data_create(1, nullptr)};

  Scratch() {
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

struct SplitPattern::Compiled {
  Code code;
  std::string origin;
};

SplitPattern SplitPattern::literal(std::string text) {
  SplitPattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

SplitPattern SplitPattern::regex(std::string_view expression, const std::string& origin) {
  const std::string rewritten = rewrite_regex(expression, origin);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(data_of(rewritten), rewritten.size(), PCRE2_UTF, &error, &offset, nullptr));
  if (!code)
    fail("{}: the pattern '{}' is malformed: {}", origin, expression.substr(0, 80), message_of(error));
  // Where the machine has no JIT the interpreter gives the same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  SplitPattern pattern;
  pattern.compiled_ = std::make_shared<const Compiled>(Compiled{std::move(code), origin});
  return pattern;
}

SplitPattern SplitPattern::parse(const Json& pattern, const std::string& origin) {
  if (pattern.is_object() && pattern.contains("Regex"))
    return regex(require<std::string>(pattern, "Regex", origin), origin);
  const auto text = require<std::string>(pattern, "String", origin);
  if (text.empty()) fail("{}: an empty pattern", origin);
  return literal(text);
}

std::vector<Span> SplitPattern::find(std::string_view text) const {
  std::vector<Span> spans;
  if (!compiled_) {
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size()))
      spans.push_back({at, at + literal_.size()});
    return spans;
  }
  thread_local const Scratch scratch;
  for (size_t start = 0; start <= text.size();) {
    const int result = pcre2_match(compiled_->code.get(), data_of(text), text.size(), start,
                                   PCRE2_NO_UTF_CHECK, scratch.match.get(), scratch.context.get());
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) fail("{}: the pattern gives up on a text: {}", compiled_->origin, message_of(result));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch.match.get());
    const Span span{bounds[0], bounds[1]};
    if (span.begin == span.end && !spans.empty() && spans.back().end == span.end) {
      // An empty match right behind the last one does not count; look one character further.
      if (start == text.size()) break;
      next_char(text, start);
      continue;
    }
    spans.push_back(span);
    start = span.end;
  }
  return spans;
}

}  // namespace visq
