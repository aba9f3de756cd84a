// Text → token ids and back, as the checkpoint's tokenizer files say (BPE: byte-level and
// SentencePiece-style).
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace visq {

/// Immutable after load; encode() and decode() are thread-safe.
class Tokenizer {
 public:
  /// Reads tokenizer.json, or else tekken.json, tokenizer.model, or vocab.json with merges.txt, of the
  /// directory that holds them (+ tokenizer_config.json, special_tokens_map.json, added_tokens.json, and
  /// config.json's model_type, where they exist). VILA keeps all of these under llm/. Source of the rules:
  /// spec/inputs.md §2, §3.
  /// @throws Error naming the file and the component when something is malformed or of a kind not supported
  static Tokenizer load(const std::filesystem::path& directory);

  /// @param add_special_tokens  whether the post-processor's template (a leading BOS) applies
  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const;
  /// @param skip_special  leaves out added tokens marked special
  std::string decode(std::span<const int64_t> ids, bool skip_special = true) const;
  std::optional<int64_t> id_of(std::string_view token) const;
  int64_t size() const;  ///< largest id + 1

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace visq
