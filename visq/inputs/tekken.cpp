#include "visq/inputs/tekken.h"

#include <algorithm>
#include <array>

#include "visq/core/error.h"
#include "visq/inputs/base64.h"
#include "visq/inputs/byte_level.h"
#include "visq/inputs/merges.h"

namespace visq {
namespace {

constexpr int64_t kMaxTokens = 1 << 21;

/// Those of files older than the list of special tokens, such as Pixtral's first: fixed by mistral-common.
constexpr std::array<const char*, 20> kOlderSpecials{"<unk>",
                                                     "<s>",
                                                     "</s>",
                                                     "[INST]",
                                                     "[/INST]",
                                                     "[AVAILABLE_TOOLS]",
                                                     "[/AVAILABLE_TOOLS]",
                                                     "[TOOL_RESULTS]",
                                                     "[/TOOL_RESULTS]",
                                                     "[TOOL_CALLS]",
                                                     "[IMG]",
                                                     "<pad>",
                                                     "[IMG_BREAK]",
                                                     "[IMG_END]",
                                                     "[PREFIX]",
                                                     "[MIDDLE]",
                                                     "[SUFFIX]",
                                                     "[SYSTEM_PROMPT]",
                                                     "[/SYSTEM_PROMPT]",
                                                     "[TOOL_CONTENT]"};

std::vector<std::string> named_specials(const Json& file, const std::string& origin) {
  const Json list = get_or(file, "special_tokens", Json(), origin);
  if (list.is_null()) return {kOlderSpecials.begin(), kOlderSpecials.end()};
  if (!list.is_array()) fail("{}: 'special_tokens' is not a list", origin);
  std::vector<std::string> specials(list.size());
  for (const Json& entry : list) {
    const auto rank = require<int64_t>(entry, "rank", origin);
    const auto text = require<std::string>(entry, "token_str", origin);
    const bool fits = rank >= 0 && rank < static_cast<int64_t>(specials.size());
    if (!fits || !specials[rank].empty() || text.empty())
      fail("{}: special token '{}' has the rank {}: ranks must count up from 0", origin, text, rank);
    specials[rank] = text;
  }
  return specials;
}

/// Ranks without a name get one.
void fill_up(std::vector<std::string>& specials, int64_t count) {
  for (auto i = static_cast<int64_t>(specials.size()); i < count; ++i)
    specials.push_back(visq::format("<SPECIAL_{}>", i));
}

std::string bytes_of(const Json& entry, const std::string& origin) {
  const auto text = require<std::string>(entry, "token_bytes", origin);
  const auto bytes = from_base64(text);
  if (!bytes || bytes->empty() || bytes->size() > kMaxTokenBytes)
    fail("{}: '{}' is not the base64 of 1 to {} bytes", origin, text.substr(0, 60), kMaxTokenBytes);
  return *bytes;
}

/// token → rank, and the tokens by rank. @param count  later entries are padding
StringMap<int64_t> read_ranks(const Json& entries, int64_t count, const std::string& origin,
                              std::vector<std::string>& tokens) {
  StringMap<int64_t> ranks;
  for (const Json& entry : entries) {
    const auto rank = static_cast<int64_t>(tokens.size());
    if (rank == count) break;
    tokens.push_back(bytes_of(entry, origin));
    if (!ranks.emplace(tokens.back(), rank).second)
      fail("{}: entry {} of 'vocab' repeats an earlier one", origin, rank);
  }
  return ranks;
}

void append_merges(std::string_view token, const StringMap<int64_t>& ranks, Bpe::Merges& merges) {
  std::vector<Cut> cuts = cuts_of(token, ranks, CutAt::bytes);
  std::sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) {
    return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
  });
  for (const Cut& cut : cuts) merges.emplace_back(to_byte_level(cut.left), to_byte_level(cut.right));
}

}  // namespace

Tekken Tekken::parse(const Json& file, const std::string& origin) {
  const auto config = require<Json>(file, "config", origin);
  const auto entries = require<Json>(file, "vocab", origin);
  if (!entries.is_array() || entries.size() > kMaxTokens)
    fail("{}: 'vocab' is not a list of at most {} tokens", origin, kMaxTokens);
  Tekken tekken{require<std::string>(config, "pattern", origin), named_specials(file, origin), {}, {}};
  const auto specials = get_or<int64_t>(config, "default_num_special_tokens",
                                        static_cast<int64_t>(tekken.specials.size()), origin);
  const auto total = get_or<int64_t>(config, "default_vocab_size", specials + kMaxTokens, origin);
  if (specials < static_cast<int64_t>(tekken.specials.size()) || specials > kMaxTokens || total < specials)
    fail("{}: a vocabulary of {} tokens cannot have {} special ones", origin, total, specials);
  fill_up(tekken.specials, specials);

  std::vector<std::string> tokens;
  const StringMap<int64_t> ranks = read_ranks(entries, total - specials, origin, tokens);
  for (const std::string& token : tokens) {
    tekken.vocabulary.emplace(to_byte_level(token), ranks.at(token) + specials);
    append_merges(token, ranks, tekken.merges);
  }
  for (int64_t id = 0; id < specials; ++id) tekken.vocabulary.insert_or_assign(tekken.specials[id], id);
  return tekken;
}

}  // namespace visq
