#include "visq/inputs/token_decoder.h"

#include <fmt/ranges.h>

#include <charconv>
#include <optional>

#include "visq/core/error.h"
#include "visq/inputs/byte_level.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

Tokens run(const TokenDecoder::ByteLevel&, const Tokens& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += from_byte_level(token).value_or(token);
  return {to_valid_utf8(bytes)};
}

Tokens run(const TokenDecoder::Replace& step, Tokens tokens) {
  for (std::string& token : tokens) {
    std::string out;
    size_t last = 0;
    for (const Span& span : step.pattern.find(token)) {
      out.append(token, last, span.begin - last).append(step.content);
      last = span.end;
    }
    token = out.append(token, last);
  }
  return tokens;
}

/// The byte of a token "<0xHH>".
std::optional<char> fallback_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc{} || end != token.data() + 5) return std::nullopt;
  return static_cast<char>(value);
}

Tokens run(const TokenDecoder::ByteFallback&, const Tokens& tokens) {
  Tokens out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (to_valid_utf8(bytes) == bytes) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\uFFFD");
    }
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (const auto byte = fallback_byte(token)) {
      bytes.push_back(*byte);
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

Tokens run(const TokenDecoder::Fuse&, const Tokens& tokens) { return {joined(tokens)}; }

Tokens run(const TokenDecoder::Strip& step, Tokens tokens) {
  for (std::string& token : tokens) {
    std::string_view rest = token;
    for (int64_t i = 0; i < step.start && rest.starts_with(step.content); ++i)
      rest.remove_prefix(step.content.size());
    for (int64_t i = 0; i < step.stop && rest.ends_with(step.content); ++i)
      rest.remove_suffix(step.content.size());
    token = std::string(rest);
  }
  return tokens;
}

Tokens run(const TokenDecoder::Metaspace& step, Tokens tokens) {
  const SplitPattern pattern = SplitPattern::literal(step.replacement);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const TokenDecoder::Replace replace{pattern, i == 0 && step.drop_first ? "" : " "};
    tokens[i] = run(replace, Tokens{tokens[i]}).front();
  }
  return tokens;
}

TokenDecoder::Strip parse_strip(const Json& component, const std::string& origin) {
  TokenDecoder::Strip strip{require<std::string>(component, "content", origin),
                            get_or<int64_t>(component, "start", 0, origin),
                            get_or<int64_t>(component, "stop", 0, origin)};
  if (strip.content.empty()) fail("{}: 'content' of Strip is empty", origin);
  return strip;
}

TokenDecoder::Metaspace parse_metaspace(const Json& component, const std::string& origin) {
  TokenDecoder::Metaspace metaspace{require<std::string>(component, "replacement", origin), true};
  if (metaspace.replacement.empty()) fail("{}: 'replacement' of Metaspace is empty", origin);
  metaspace.drop_first = get_or<std::string>(component, "prepend_scheme", "always", origin) != "never" &&
                         get_or(component, "add_prefix_space", true, origin);
  return metaspace;
}

void collect(const Json& component, const std::string& origin, std::vector<TokenDecoder::Step>& steps) {
  const auto type = require<std::string>(component, "type", origin);
  if (type == "Sequence") {
    for (const Json& part : require<Json>(component, "decoders", origin)) collect(part, origin, steps);
  } else if (type == "ByteLevel") {
    steps.push_back(TokenDecoder::ByteLevel{});
  } else if (type == "Replace") {
    steps.push_back(
        TokenDecoder::Replace{SplitPattern::parse(require<Json>(component, "pattern", origin), origin),
                              require<std::string>(component, "content", origin)});
  } else if (type == "ByteFallback") {
    steps.push_back(TokenDecoder::ByteFallback{});
  } else if (type == "Fuse") {
    steps.push_back(TokenDecoder::Fuse{});
  } else if (type == "Strip") {
    steps.push_back(parse_strip(component, origin));
  } else if (type == "Metaspace") {
    steps.push_back(parse_metaspace(component, origin));
  } else {
    fail("{}: '{}' is not supported", origin, type);
  }
}

}  // namespace

TokenDecoder TokenDecoder::parse(const Json& component, const std::string& origin) {
  if (component.is_null()) return {};
  std::vector<Step> steps;
  collect(component, origin + ": decoder", steps);
  return TokenDecoder(std::move(steps));
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  if (!present_) return visq::format("{}", fmt::join(tokens, " "));
  for (const Step& step : steps_)
    tokens = std::visit([&](const auto& s) { return run(s, std::move(tokens)); }, step);
  return joined(tokens);
}

}  // namespace visq
