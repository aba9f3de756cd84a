// Internal to visq/inputs: tokenizer.model, a protobuf message that the SentencePiece library writes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace visq {

/// What visq needs of a SentencePiece model. Numbers and defaults: sentencepiece_model.proto of that project.
struct SentencePieceModel {
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    Type type = Type::normal;
  };
  enum class Algorithm { unigram = 1, bpe = 2, word = 3, character = 4 };

  std::vector<Piece> pieces;  ///< by id
  Algorithm algorithm = Algorithm::unigram;
  bool byte_fallback = false;
  int64_t unk_id = 0, bos_id = 1, eos_id = 2;  ///< negative: there is none
  std::string unk_piece = "<unk>", bos_piece = "<s>", eos_piece = "</s>";
  bool has_character_map = false;  ///< a normalization that is compiled into the file

  /// @throws Error naming `origin` when the bytes are no such message, or hold no pieces, pieces that are too
  /// long or not UTF-8
  static SentencePieceModel parse(std::string_view bytes, const std::string& origin);
};

}  // namespace visq
