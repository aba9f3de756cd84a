#include "visq/inputs/added_tokens.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

bool word_before(std::string_view text, size_t position) {
  return position > 0 && is_in(CharClass::word, previous_char(text, position));
}

bool word_behind(std::string_view text, size_t position) {
  return position < text.size() && is_in(CharClass::word, next_char(text, position));
}

uint64_t edge_key(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<unsigned char>(byte); }

}  // namespace

void WordTrie::insert(std::string_view word, int64_t id) {
  starts_[static_cast<unsigned char>(word.front())] = true;
  uint32_t node = 0;
  for (const char byte : word) {
    const auto [it, fresh] = edges_.emplace(edge_key(node, byte), static_cast<uint32_t>(ids_.size()));
    if (fresh) ids_.push_back(-1);
    node = it->second;
  }
  ids_[node] = id;
}

bool WordTrie::contains(std::string_view word) const {
  uint32_t node = 0;
  for (const char byte : word) {
    const auto it = edges_.find(edge_key(node, byte));
    if (it == edges_.end()) return false;
    node = it->second;
  }
  return ids_[node] >= 0;
}

std::vector<WordTrie::Match> WordTrie::find(std::string_view text) const {
  std::vector<Match> matches;
  for (size_t begin = 0; begin < text.size();) {
    Match best{{begin, begin}, -1};
    if (starts_[static_cast<unsigned char>(text[begin])]) {
      uint32_t node = 0;
      for (size_t i = begin; i < text.size(); ++i) {
        const auto it = edges_.find(edge_key(node, text[i]));
        if (it == edges_.end()) break;
        node = it->second;
        if (ids_[node] >= 0) best = {{begin, i + 1}, ids_[node]};
      }
    }
    if (best.id >= 0) matches.push_back(best);
    begin = std::max(begin + 1, best.span.end);
  }
  return matches;
}

void AddedTokens::add(const std::vector<AddedToken>& tokens, const Bpe& model) {
  int64_t next_id = std::max(largest_id() + 1, model.vocabulary_size());
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    auto id = id_of(token.content);
    if (id && tokens_.at(*id) == token) continue;
    if (!id) id = model.id_of(token.content);
    if (!id) id = next_id++;
    ids_.insert_or_assign(token.content, *id);
    tokens_.insert_or_assign(*id, token);
    if (token.special) specials_.insert(token.content);
  }
}

void AddedTokens::build(const Normalizer& normalizer, bool split_special, const std::string& origin) {
  split_special_ = split_special;
  for (const auto& [id, token] : tokens_) {
    WordTrie& trie = token.normalized ? normalized_ : raw_;
    const std::string text = token.normalized ? normalizer.apply(token.content) : token.content;
    if (text.empty()) fail("{}: the added token '{}' is empty once normalized", origin, token.content);
    if (trie.contains(text))
      fail("{}: the added token '{}' occurs twice once normalized", origin, token.content);
    trie.insert(text, id);
    decoding_text_.emplace(id, text);
  }
}

std::vector<Stretch> AddedTokens::split(std::string_view text, const WordTrie& trie) const {
  std::vector<Stretch> stretches;
  size_t last = 0;
  for (const WordTrie::Match& match : trie.find(text)) {
    const AddedToken& token = tokens_.at(match.id);
    auto [begin, end] = match.span;
    if (split_special_ && is_special(token.content)) continue;
    if (token.single_word && (word_before(text, begin) || word_behind(text, end))) continue;
    if (token.lstrip) begin = std::max(skip_space_back(text, begin), last);
    if (token.rstrip) end = skip_space(text, end);
    if (last < begin) stretches.push_back({{last, begin}, std::nullopt});
    stretches.push_back({{begin, end}, match.id});
    last =
        end;  // may lie before the whitespace an earlier token took: that is text again, as in the reference
  }
  if (last != text.size()) stretches.push_back({{last, text.size()}, std::nullopt});
  return stretches;
}

std::optional<int64_t> AddedTokens::id_of(std::string_view content) const {
  const auto it = ids_.find(content);
  return it == ids_.end() ? std::nullopt : std::optional(it->second);
}

const AddedToken* AddedTokens::find(int64_t id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

int64_t AddedTokens::largest_id() const {
  int64_t largest = -1;
  for (const auto& [id, token] : tokens_) largest = std::max(largest, id);
  return largest;
}

}  // namespace visq
