#include "visq/inputs/pretokenizer.h"

#include <algorithm>
#include <map>

#include "visq/core/error.h"
#include "visq/inputs/byte_level.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

using Behavior = PreTokenizer::Behavior;
using PrependScheme = PreTokenizer::PrependScheme;

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// A stretch of text that a pattern matches, or that lies between two matches.
struct Section {
  Span span;
  bool is_match;
};

/// @param matches  from left to right @param invert  what lies between them counts as the matches
std::vector<Section> sections_of(std::string_view text, const std::vector<Span>& matches, bool invert) {
  std::vector<Section> sections;
  size_t last = 0;
  for (const Span& span : matches) {
    if (last != span.begin) sections.push_back({{last, span.begin}, invert});
    sections.push_back({span, !invert});
    last = span.end;
  }
  if (last != text.size()) sections.push_back({{last, text.size()}, invert});
  return sections;
}

std::vector<Span> find_chars(std::string_view text, CharClass char_class) {
  std::vector<Span> spans;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (is_in(char_class, next_char(text, i))) spans.push_back({begin, i});
  }
  return spans;
}

/// Joins a match to the section before it in the given order, unless that one was a match as well.
template <typename Sections, typename Extend>
std::vector<Span> merge(const Sections& begin, const Sections& end, Extend extend) {
  std::vector<Span> spans;
  bool previous = false;
  for (auto it = begin; it != end; ++it) {
    if (it->is_match && !previous && !spans.empty()) {
      extend(spans.back(), it->span);
    } else {
      spans.push_back(it->span);
    }
    previous = it->is_match;
  }
  return spans;
}

std::vector<Span> merge_equals(const std::vector<Section>& sections) {
  std::vector<Span> spans;
  bool previous = false;
  for (const Section& section : sections) {
    if (section.is_match == previous && !spans.empty()) {
      spans.back().end = section.span.end;
    } else {
      spans.push_back(section.span);
    }
    previous = section.is_match;
  }
  return spans;
}

std::vector<Span> spans_of(const std::vector<Section>& sections, Behavior behavior) {
  std::vector<Span> spans;
  switch (behavior) {
    case Behavior::merged_with_previous:
      return merge(sections.begin(), sections.end(), [](Span& a, const Span& b) { a.end = b.end; });
    case Behavior::merged_with_next:
      spans = merge(sections.rbegin(), sections.rend(), [](Span& a, const Span& b) { a.begin = b.begin; });
      std::reverse(spans.begin(), spans.end());
      return spans;
    case Behavior::contiguous:
      return merge_equals(sections);
    case Behavior::removed:
    case Behavior::isolated:
      break;
  }
  for (const Section& section : sections)
    if (behavior == Behavior::isolated || !section.is_match) spans.push_back(section.span);
  return spans;
}

void cut(const Piece& piece, const std::vector<Span>& spans, std::vector<Piece>& out) {
  for (const Span& span : spans)
    if (span.begin != span.end)
      out.push_back(
          {piece.text.substr(span.begin, span.end - span.begin), piece.at_start && span.begin == 0});
}

void run(const PreTokenizer::Split& step, const Piece& piece, std::vector<Piece>& out) {
  const auto sections = sections_of(piece.text, step.pattern.find(piece.text), step.invert);
  cut(piece, spans_of(sections, step.behavior), out);
}

void run(const PreTokenizer::Digits& step, const Piece& piece, std::vector<Piece>& out) {
  const auto sections = sections_of(piece.text, find_chars(piece.text, CharClass::numeric), false);
  cut(piece, spans_of(sections, step.individual ? Behavior::isolated : Behavior::contiguous), out);
}

void run(const PreTokenizer::ByteLevel& step, Piece piece, std::vector<Piece>& out) {
  static const PreTokenizer::Split gpt2{SplitPattern::regex(kGpt2Pattern, "ByteLevel")};
  if (step.add_prefix_space && !piece.text.starts_with(' ')) piece.text.insert(piece.text.begin(), ' ');
  const size_t first = out.size();
  if (step.use_regex) {
    run(gpt2, piece, out);
  } else {
    out.push_back(std::move(piece));
  }
  for (size_t i = first; i < out.size(); ++i) out[i].text = to_byte_level(out[i].text);
}

void run(const PreTokenizer::Metaspace& step, const Piece& piece, std::vector<Piece>& out) {
  Piece replaced{{}, piece.at_start};
  for (const char c : piece.text) {
    if (c == ' ')
      replaced.text += step.replacement;
    else
      replaced.text += c;
  }
  const bool wanted =
      step.scheme == PrependScheme::always || (step.scheme == PrependScheme::first && piece.at_start);
  if (wanted && !replaced.text.starts_with(step.replacement))
    replaced.text = step.replacement + replaced.text;
  if (step.split) {
    run(PreTokenizer::Split{SplitPattern::literal(step.replacement), Behavior::merged_with_next}, replaced,
        out);
  } else {
    out.push_back(std::move(replaced));
  }
}

template <typename T>
T lookup(const std::map<std::string, T>& names, const std::string& name, const char* key,
         const std::string& origin) {
  const auto it = names.find(name);
  if (it == names.end()) fail("{}: '{}' is '{}', which is not supported", origin, key, name);
  return it->second;
}

PreTokenizer::Split parse_split(const Json& component, const std::string& origin) {
  static const std::map<std::string, Behavior> behaviors{
      {"Removed", Behavior::removed},
      {"Isolated", Behavior::isolated},
      {"MergedWithPrevious", Behavior::merged_with_previous},
      {"MergedWithNext", Behavior::merged_with_next},
      {"Contiguous", Behavior::contiguous}};
  const auto behavior = require<std::string>(component, "behavior", origin);
  return {SplitPattern::parse(require<Json>(component, "pattern", origin), origin),
          lookup(behaviors, behavior, "behavior", origin), get_or(component, "invert", false, origin)};
}

PreTokenizer::Metaspace parse_metaspace(const Json& component, const std::string& origin) {
  static const std::map<std::string, PrependScheme> schemes{
      {"always", PrependScheme::always}, {"first", PrependScheme::first}, {"never", PrependScheme::never}};
  const auto replacement = require<std::string>(component, "replacement", origin);
  size_t length = 0;
  if (!replacement.empty()) next_char(replacement, length);
  if (replacement.empty() || length != replacement.size())
    fail("{}: 'replacement' must be one character", origin);
  // Files older than prepend_scheme say add_prefix_space.
  const bool prefix = get_or(component, "add_prefix_space", true, origin);
  const auto scheme = get_or<std::string>(component, "prepend_scheme", prefix ? "always" : "never", origin);
  return {replacement, lookup(schemes, scheme, "prepend_scheme", origin),
          get_or(component, "split", true, origin)};
}

void collect(const Json& component, const std::string& origin, std::vector<PreTokenizer::Step>& steps) {
  if (component.is_null()) return;
  const auto type = require<std::string>(component, "type", origin);
  if (type == "Sequence") {
    for (const Json& part : require<Json>(component, "pretokenizers", origin)) collect(part, origin, steps);
  } else if (type == "Split") {
    steps.emplace_back(parse_split(component, origin));
  } else if (type == "ByteLevel") {
    steps.emplace_back(PreTokenizer::ByteLevel{get_or(component, "add_prefix_space", true, origin),
                                               get_or(component, "use_regex", true, origin)});
  } else if (type == "Metaspace") {
    steps.emplace_back(parse_metaspace(component, origin));
  } else if (type == "Digits") {
    steps.emplace_back(PreTokenizer::Digits{get_or(component, "individual_digits", false, origin)});
  } else {
    fail("{}: '{}' is not supported", origin, type);
  }
}

}  // namespace

PreTokenizer PreTokenizer::parse(const Json& component, const std::string& origin) {
  std::vector<Step> steps;
  collect(component, origin + ": pre_tokenizer", steps);
  return PreTokenizer(std::move(steps));
}

std::vector<Piece> PreTokenizer::split(Piece stretch) const {
  std::vector<Piece> pieces;
  if (!stretch.text.empty()) pieces.push_back(std::move(stretch));
  for (const Step& step : steps_) {
    std::vector<Piece> next;
    for (Piece& piece : pieces) std::visit([&](const auto& s) { run(s, std::move(piece), next); }, step);
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace visq
