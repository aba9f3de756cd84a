#include "visq/inputs/bpe.h"

#include <algorithm>
#include <queue>

#include "visq/core/error.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr int64_t kMaxId = (int64_t{1} << 31) - 1;

uint64_t pair_key(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

/// A merge that was possible when it was queued; the lowest rank first, then the leftmost.
struct Candidate {
  int64_t rank;
  size_t position;
  int64_t id;
  bool operator<(const Candidate& other) const {  // std::priority_queue serves the largest
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

/// A symbol in a doubly linked list laid out in an array.
struct Symbol {
  int64_t id;
  size_t previous, next;
  bool alive = true;
};

constexpr size_t kNone = static_cast<size_t>(-1);

}  // namespace

Bpe::Bpe(StringMap<int64_t> vocabulary, const Merges& merges, Options options, const std::string& origin)
    : vocabulary_(std::move(vocabulary)), byte_ids_(256), options_(std::move(options)) {
  for (const auto& [token, id] : vocabulary_) {
    if (id < 0 || id > kMaxId) fail("{}: token '{}' has the id {}", origin, token, id);
    const auto [it, fresh] = tokens_.emplace(id, &token);
    if (!fresh) fail("{}: tokens '{}' and '{}' share the id {}", origin, *it->second, token, id);
    largest_id_ = std::max(largest_id_, id);
  }
  const auto known = [&](const std::string& token) {
    const auto id = id_of(token);
    if (!id) fail("{}: '{}' of a merge is not in the vocabulary", origin, token);
    return *id;
  };
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const Merge merge{static_cast<int64_t>(rank), known(left + right)};
    merges_.insert_or_assign(pair_key(known(left), known(right)), merge);
  }
  for (int byte = 0; byte < 256; ++byte) byte_ids_[byte] = id_of(visq::format("<0x{:02X}>", byte));
  if (options_.unk_token) {
    unk_id_ = id_of(*options_.unk_token);
    if (!unk_id_) fail("{}: unk_token '{}' is not in the vocabulary", origin, *options_.unk_token);
  }
}

std::optional<int64_t> Bpe::id_of(std::string_view token) const {
  const auto it = vocabulary_.find(token);
  return it == vocabulary_.end() ? std::nullopt : std::optional(it->second);
}

const std::string* Bpe::token_of(int64_t id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : it->second;
}

const Bpe::Merge* Bpe::find_merge(int64_t left, int64_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

std::vector<int64_t> Bpe::initial_ids(std::string_view piece) const {
  std::vector<int64_t> ids;
  ids.reserve(piece.size());
  // An unknown is written when the next known character comes: bytes of the fallback overtake it, as in the
  // reference.
  bool pending_unk = false;
  for (size_t i = 0; i < piece.size();) {
    const size_t begin = i;
    next_char(piece, i);
    const std::string_view character = piece.substr(begin, i - begin);
    if (const auto id = id_of(character)) {
      if (pending_unk) ids.push_back(*unk_id_);
      pending_unk = false;
      ids.push_back(*id);
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (options_.byte_fallback && std::all_of(character.begin(), character.end(),
                                              [&](char byte) { return byte_id(byte).has_value(); })) {
      for (const char byte : character) ids.push_back(*byte_id(byte));
    } else if (unk_id_) {
      if (pending_unk && !options_.fuse_unk) ids.push_back(*unk_id_);
      pending_unk = true;
    }
  }
  if (pending_unk) ids.push_back(*unk_id_);
  return ids;
}

void Bpe::apply_merges(std::vector<int64_t>& ids) const {
  std::vector<Symbol> symbols(ids.size());
  std::vector<Candidate> storage;
  storage.reserve(ids.size());
  std::priority_queue<Candidate> queue(std::less<Candidate>{}, std::move(storage));
  const auto enqueue = [&](size_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    if (const Merge* merge = find_merge(symbols[left].id, symbols[symbols[left].next].id))
      queue.push({merge->rank, left, merge->id});
  };

  for (size_t i = 0; i < ids.size(); ++i)
    symbols[i] = {ids[i], i == 0 ? kNone : i - 1, i + 1 == ids.size() ? kNone : i + 1};
  for (size_t i = 0; i + 1 < ids.size(); ++i) enqueue(i);

  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.position];
    if (!left.alive || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;  // a neighbour changed since
    left.id = merge->id;
    left.next = right.next;
    right.alive = false;
    if (left.next != kNone) symbols[left.next].previous = top.position;
    enqueue(left.previous);
    enqueue(top.position);
  }

  ids.clear();
  for (const Symbol& symbol : symbols)
    if (symbol.alive) ids.push_back(symbol.id);
}

void Bpe::encode(std::string_view piece, std::vector<int64_t>& ids) const {
  if (options_.ignore_merges) {
    if (const auto id = id_of(piece)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<int64_t> symbols = initial_ids(piece);
  apply_merges(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace visq
