#include "visq/inputs/sentencepiece.h"

#include <optional>

#include "visq/core/error.h"
#include "visq/inputs/merges.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr size_t kMaxPieces = 1 << 21;

/// One field of a protobuf message: a number, or bytes.
struct Field {
  uint32_t key;  ///< number << 3 | wire type
  uint64_t value = 0;
  std::string_view bytes = {};
};

constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

constexpr uint32_t number_field(uint32_t number) { return number << 3 | kVarint; }
constexpr uint32_t bytes_field(uint32_t number) { return number << 3 | kBytes; }

/// Walks the fields of a message; every length is checked against the bytes at hand.
class Message {
 public:
  Message(std::string_view bytes, const std::string& origin) : rest_(bytes), origin_(origin) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const uint64_t key = varint();
    if (key >> 3 == 0 || key > UINT32_MAX) reject();
    Field field{static_cast<uint32_t>(key)};
    switch (key & 7) {
      case kVarint:
        field.value = varint();
        break;
      case kFixed64:
        take(8);
        break;
      case kBytes:
        field.bytes = take(varint());
        break;
      case kFixed32:
        take(4);
        break;
      default:
        reject();
    }
    return field;
  }

 private:
  [[noreturn]] void reject() const {
    fail("{}: not a SentencePiece model, or a damaged one: fetch the file again", origin_);
  }

  std::string_view take(uint64_t length) {
    if (length > rest_.size()) reject();
    const std::string_view taken = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return taken;
  }

  /// Seven bits a byte, the lowest first.
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    reject();
  }

  std::string_view rest_;
  const std::string& origin_;
};

std::string text_of(const Field& field, const std::string& origin) {
  if (field.bytes.size() > kMaxTokenBytes)
    fail("{}: a piece of {} bytes, more than the {} allowed", origin, field.bytes.size(), kMaxTokenBytes);
  if (to_valid_utf8(field.bytes) != field.bytes) fail("{}: a piece is not UTF-8", origin);
  return std::string(field.bytes);
}

SentencePieceModel::Piece parse_piece(std::string_view bytes, const std::string& origin) {
  SentencePieceModel::Piece piece;
  Message message(bytes, origin);
  while (const auto field = message.next()) {
    if (field->key == bytes_field(1)) piece.text = text_of(*field, origin);
    if (field->key == number_field(3)) piece.type = static_cast<SentencePieceModel::Type>(field->value);
  }
  if (piece.text.empty()) fail("{}: a piece is empty", origin);
  return piece;
}

void read_trainer_spec(std::string_view bytes, const std::string& origin, SentencePieceModel& model) {
  // Protobuf writes a negative int32 as the varint of its 64-bit form.
  const auto id_of = [](const Field& field) { return static_cast<int64_t>(field.value); };
  Message message(bytes, origin);
  while (const auto field = message.next()) {
    switch (field->key) {
      case number_field(3):
        model.algorithm = static_cast<SentencePieceModel::Algorithm>(field->value);
        break;
      case number_field(35):
        model.byte_fallback = field->value != 0;
        break;
      case number_field(40):
        model.unk_id = id_of(*field);
        break;
      case number_field(41):
        model.bos_id = id_of(*field);
        break;
      case number_field(42):
        model.eos_id = id_of(*field);
        break;
      case bytes_field(45):
        model.unk_piece = text_of(*field, origin);
        break;
      case bytes_field(46):
        model.bos_piece = text_of(*field, origin);
        break;
      case bytes_field(47):
        model.eos_piece = text_of(*field, origin);
        break;
      default:
        break;
    }
  }
}

void read_normalizer_spec(std::string_view bytes, const std::string& origin, SentencePieceModel& model) {
  Message message(bytes, origin);
  while (const auto field = message.next())
    if (field->key == bytes_field(2)) model.has_character_map = !field->bytes.empty();
}

}  // namespace

SentencePieceModel SentencePieceModel::parse(std::string_view bytes, const std::string& origin) {
  SentencePieceModel model;
  Message message(bytes, origin);
  while (const auto field = message.next()) {
    if (field->key == bytes_field(1)) model.pieces.push_back(parse_piece(field->bytes, origin));
    if (field->key == bytes_field(2)) read_trainer_spec(field->bytes, origin, model);
    if (field->key == bytes_field(3)) read_normalizer_spec(field->bytes, origin, model);
    if (model.pieces.size() > kMaxPieces) fail("{}: more than {} pieces", origin, kMaxPieces);
  }
  if (model.pieces.empty()) fail("{}: not a SentencePiece model: it holds no pieces", origin);
  return model;
}

}  // namespace visq
